"""The checks of `mmrec site check` on the way to the coordinator: certificate, reachability, TLS, clock, local ports.

The only address that is connected to is that of `federation.json`. What is sent there is a TLS handshake and
`GET /health`, nothing of the site. The certificate is verified against the federation's own CA and no other.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from cryptography import x509

from client.preflight import Check, Finding, Surroundings, failed, ok, skipped, warning
from client.site_checks import SiteChecks
from mmrec_model.federation_file import FederationFile, ca_certificate

WARNING_DAYS: Final = 30
"""A certificate that ends within so many days is warned of."""
NOTICED_SKEW, LARGEST_SKEW = 60.0, 300.0
"""Seconds between two clocks: worth a warning, and what node authentication refuses (Flower 1.41)."""
_WRONG_TIME: Final = frozenset({9, 10})
"""OpenSSL's codes X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


class NetworkChecks:
    """The checks of a site's way to its coordinator.

    Args:
        site_checks: of the same site; they read its federation file and its ledger.
        surroundings: the machine.
        ports: local ports that the site's processes will listen on.
        offline: whether nothing may be connected to.
    """

    def __init__(
        self, site_checks: SiteChecks, surroundings: Surroundings, ports: Sequence[int], *, offline: bool
    ) -> None:
        self._site_checks = site_checks
        self._surroundings = surroundings
        self._ports = ports
        self._offline = offline

    def all(self) -> tuple[Check, ...]:
        """In order."""
        return (
            ("ports", self.ports),
            ("federation", self._joined(self.federation)),
            ("authority", self._joined(self.authority)),
            ("reachability", self._connected(self.reachability)),
            ("tls", self._connected(self.tls)),
            ("clock", self._connected(self.clock)),
        )

    def ports(self) -> Finding:
        """The local ports are free."""
        taken = [port for port in self._ports if not _is_free(port)]
        if taken:
            return failed(
                f"in use: {', '.join(map(str, taken))}", "free",
                "End the process that listens there, unless it is this site's own node, already running",
            )  # fmt: skip
        return ok(f"free: {', '.join(map(str, self._ports))}")

    def federation(self, file: FederationFile) -> Finding:
        """The file is whole, and its coordinator the one that the ledger names."""
        pinned = self._site_checks.site.inspect_ledger().history.keys.get("server")
        if pinned is None:
            return failed("the ledger names no coordinator", file.public_key.key_id, "mmrec site server-key")
        if pinned != file.public_key:
            return failed(
                f"the ledger names the coordinator {pinned.key_id}", file.public_key.key_id,
                "Ask which key is in force; take a new one over with mmrec site server-key",
            )  # fmt: skip
        return ok(f"'{file.name}' at {file.address}, coordinator {pinned.key_id}")

    def authority(self, file: FederationFile) -> Finding:
        """The CA's certificate is valid now and for some time."""
        return self._dates(ca_certificate(file), "Ask the coordinator for a new federation.json")

    def reachability(self, file: FederationFile) -> Finding:
        """The address accepts a connection."""
        try:
            self._dial(file).close()
        except OSError as error:
            return failed(
                f"{file.address}: {error}", f"an answer within {self._surroundings.timeout:g} s",
                "Open the way out to this address, or ask whether the coordinator is up",
            )  # fmt: skip
        return ok(f"{file.address} accepts connections")

    def tls(self, file: FederationFile) -> Finding:
        """The address shows a certificate of the federation's CA, for this host, that is valid for some time."""
        context = ssl.create_default_context(cadata=file.ca_certificate)
        try:
            with closing(self._dial(file)) as plain, context.wrap_socket(plain, server_hostname=file.host) as secured:
                shown, protocol = secured.getpeercert(binary_form=True), secured.version()
        except ssl.SSLCertVerificationError as error:
            remedy = "Connect to nothing: this is not the federation's server, or its certificate is for other names"
            if error.verify_code in _WRONG_TIME:
                remedy = "Set this clock (see the check 'clock'), or have the server's certificate renewed"
            return failed(f"{file.address}: {error.verify_message}", f"a certificate of the CA for {file.host}", remedy)
        except OSError as error:
            return failed(f"{file.address}: {error}", "TLS", "Ask the coordinator which address speaks TLS")
        finding = self._dates(x509.load_der_x509_certificate(shown or b""), "Have the server's certificate renewed")
        return ok(f"{protocol}, {finding.value}", finding.limit) if finding.level == "ok" else finding

    def clock(self, file: FederationFile) -> Finding:
        """The clocks of site and server agree."""
        try:
            shown = self._server_time(file)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return failed(f"the server's time is unknown: {error}", "", "See the checks before")
        if shown is None:
            return warning("the server tells no time", f"{NOTICED_SKEW:g} s", "Compare both clocks by hand")
        skew = (self._surroundings.now() - shown).total_seconds()
        said = f"this clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
        if abs(skew) > LARGEST_SKEW:
            return failed(said, f"{LARGEST_SKEW:g} s", "Set the clock (NTP); the server refuses the node otherwise")
        if abs(skew) > NOTICED_SKEW:
            return warning(said, f"{NOTICED_SKEW:g} s", "Set the clock (NTP)")
        return ok(said, f"{NOTICED_SKEW:g} s")

    def _joined(self, check: Callable[[FederationFile], Finding]) -> Callable[[], Finding]:
        def checked() -> Finding:
            file = self._site_checks.federation
            return skipped("not applicable: the site has no federation.json") if file is None else check(file)

        return checked

    def _connected(self, check: Callable[[FederationFile], Finding]) -> Callable[[], Finding]:
        return (lambda: skipped("left out: --offline")) if self._offline else self._joined(check)

    def _dial(self, file: FederationFile) -> socket.socket:
        return socket.create_connection((file.host, file.port), timeout=self._surroundings.timeout)

    def _server_time(self, file: FederationFile) -> datetime | None:
        try:
            return self._time_told(file, ssl.create_default_context(cadata=file.ca_certificate))
        except ssl.SSLCertVerificationError:
            # A clock that is wrong is one reason why the certificate does not verify, and the time is no secret.
            return self._time_told(file, _unverified())

    def _time_told(self, file: FederationFile, context: ssl.SSLContext) -> datetime | None:
        connection = http.client.HTTPSConnection(
            file.host, file.port, timeout=self._surroundings.timeout, context=context
        )
        with closing(connection):
            connection.request("GET", "/health")
            said = connection.getresponse().headers.get("Date")
        moment = parsedate_to_datetime(said) if said else None
        return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment

    def _dates(self, certificate: x509.Certificate, remedy: str) -> Finding:
        now, begin, end = self._surroundings.now(), certificate.not_valid_before_utc, certificate.not_valid_after_utc
        said = f"valid from {begin.date()} to {end.date()}"
        if not begin <= now <= end:
            return failed(said, f"now, {now.date()}", f"Set this clock if it is wrong. {remedy}")
        if end - now < timedelta(days=WARNING_DAYS):
            return warning(said, f"{WARNING_DAYS} days left", remedy)
        return ok(said, f"{WARNING_DAYS} days left")


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _is_free(port: int) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
