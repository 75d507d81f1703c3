"""`federation.json`: what a partner must know of a coordinator before it joins, in one signed file.

Promises:
1. Every field is covered by the coordinator's Ed25519 signature (RFC 8032) over the canonical JSON of all others.
2. The certificate of the CA is a CA certificate (RFC 5280, section 4.2.1.9), and the stated fingerprint is its own.
3. The signature proves that one author wrote all of it, not who: the key is in the file itself. Who it is, is what the
   fingerprint of the whole file is compared for, by a road that is not this system.

The file holds nothing secret. Verification takes the time as an argument.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import Field, ValidationError

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config_types import Count, Digest, Strict
from mmrec_model.errors import TrustError
from mmrec_model.fingerprint import fingerprint_of, fits
from mmrec_model.privacy.keys import PublicKey, SigningKey

FEDERATION: Final = "federation.json"
FEDERATION_DOMAIN: Final = b"mmrec-federation/v1\0"
_MOST_BYTES: Final = 1 << 16
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_HOST: Final = rf"(?:\[[0-9A-Fa-f:.]{{2,45}}\]|{_NAME})"
Address = Annotated[str, Field(pattern=rf"^{_HOST}:[1-9][0-9]{{0,4}}$")]
"""HOST:PORT; an IPv6 address in square brackets."""
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+00:00$")]
"""Time in UTC, to the second."""


class FederationFile(Strict):
    """The file's fields.

    Attributes:
        format: of the file.
        name: of the federation.
        address: where the partners' nodes connect, HOST:PORT.
        ca_certificate: of the coordinator's CA, PEM; the server's certificate must be signed by it.
        ca_fingerprint: SHA-256 of that certificate's DER form.
        coordinator_key: public key that signs requests, feature bundles and this file; 64 hexadecimal digits.
        features_digest: of the feature bundle that runs of this federation use.
        items: of the catalogue.
        code_digest: of the client code that the coordinator was founded with (`mmrec_model.installed_code`).
        protocol_version: of the messages.
        flwr_version: of the transport at the coordinator.
        created: when.
        signature: over all other fields.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    address: Address
    ca_certificate: Annotated[str, Field(max_length=1 << 14)]
    ca_fingerprint: Digest
    coordinator_key: Digest
    features_digest: Digest
    items: Count
    code_digest: Digest
    protocol_version: Count
    flwr_version: Annotated[str, Field(min_length=1, max_length=32)]
    created: Moment
    signature: Signature

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form of all fields, the signature included."""
        return sha256_hex(FEDERATION_DOMAIN + canonical_json(self.model_dump()))

    @property
    def fingerprint(self) -> str:
        """What is compared out of band, see `mmrec_model.fingerprint`."""
        return fingerprint_of(self.digest)

    @property
    def host(self) -> str:
        """The address without the port and without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """1 to 65535."""
        return split_address(self.address)[1]

    @property
    def public_key(self) -> PublicKey:
        """The coordinator's key."""
        return PublicKey(self.coordinator_key)

    def to_bytes(self) -> bytes:
        """The file; it reads back to the same fields."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def sign_federation(fields: dict[str, JsonValue], key: SigningKey) -> FederationFile:
    """The signed file.

    Args:
        fields: all but `format`, `coordinator_key` and `signature`.
        key: the coordinator's.

    Raises:
        TrustError: a field is not as documented.
    """
    values: dict[str, JsonValue] = {"format": 1, **fields, "coordinator_key": key.public.hexadecimal}
    signature = key.sign(canonical_json(values), domain=FEDERATION_DOMAIN)
    return _parsed(canonical_json({**values, "signature": signature}), "the federation file")


def read_federation(path: Path) -> FederationFile:
    """Read a federation file and check that it is whole: signed by its own key, and its CA certificate the one named.

    Raises:
        TrustError: unreadable, above 64 KiB, of another format, or with a signature or fingerprint that does not fit.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise TrustError(
            f"{path} cannot be read: {error.strerror or error}", remedy="Name the coordinator's federation.json"
        ) from error
    if len(content) > _MOST_BYTES:
        raise TrustError(f"{path} is larger than {_MOST_BYTES} bytes", remedy="Ask the coordinator for the file again")
    file = _parsed(content, str(path))
    check_federation(file)
    return file


def check_federation(file: FederationFile) -> None:
    """Checks 1 and 2 of the module: the signature, and the certificate of the CA.

    Raises:
        TrustError: the first that fails.
    """
    signed = canonical_json(file.model_dump(exclude={"signature"}))
    if not file.public_key.verifies(file.signature, signed, domain=FEDERATION_DOMAIN):
        raise TrustError(
            f"the federation file of '{file.name}' is not signed by the key {file.public_key.key_id} that it names",
            remedy="It was changed on its way; ask the coordinator for the file again",
        )
    found = certificate_fingerprint(ca_certificate(file))
    if found != file.ca_fingerprint:
        raise TrustError(
            f"the CA certificate has SHA-256 {found[:16]}, the federation file says {file.ca_fingerprint[:16]}",
            remedy="Ask the coordinator for the file again",
        )


def require_fingerprint(file: FederationFile, given: str) -> None:
    """Refuse a file other than the one whose fingerprint the coordinator's operator read out.

    Raises:
        TrustError: it is another one.
        UsageError: `given` is no fingerprint.
    """
    if not fits(given, file.digest):
        raise TrustError(
            f"the federation file has the fingerprint {file.fingerprint}, the one given is another",
            remedy="Do not join: the file is not the coordinator's. Compare with its operator, not by the same road",
        )


def ca_certificate(file: FederationFile) -> x509.Certificate:
    """The certificate of the CA.

    Raises:
        TrustError: not one PEM certificate, or not that of a CA.
    """
    try:
        certificates = x509.load_pem_x509_certificates(file.ca_certificate.encode())
        constraints = certificates[0].extensions.get_extension_for_class(x509.BasicConstraints)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise TrustError(
            f"the CA certificate cannot be used: {error}", remedy="Ask the coordinator for the file again"
        ) from error
    if len(certificates) != 1 or not (constraints.critical and constraints.value.ca):
        raise TrustError(
            f"ca_certificate holds {len(certificates)} certificates, or one that is not a CA's; the limit is one CA",
            remedy="Ask the coordinator for the file again",
        )
    return certificates[0]


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def require_valid(certificate: x509.Certificate, now: datetime, *, whose: str) -> None:
    """Refuse a certificate outside its dates.

    Args:
        certificate: to check.
        now: the time, with a zone.
        whose: what to call it, for example "the CA's".

    Raises:
        TrustError: not valid yet, or no longer.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        moment = now.astimezone(UTC).isoformat(timespec="seconds")
        raise TrustError(
            f"{whose} certificate is valid from {begin.isoformat()} to {end.isoformat()}, this clock says {moment}",
            remedy="Set the clock, or renew the certificate" if now < begin else "Renew the certificate",
        )


def split_address(address: str) -> tuple[str, int]:
    """Host (an IPv6 address without brackets) and port of HOST:PORT.

    Raises:
        TrustError: not of that form, or a port above 65535.
    """
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    numbered = port.isascii() and port.isdigit() and 1 <= int(port) <= 65535
    if not bare or not numbered or (":" in host) != bracketed:
        raise TrustError(f"{address!r} is not HOST:PORT", remedy="Give for example fl.example.org:8443 or [::1]:8443")
    return bare, int(port)


def is_host(name: str) -> bool:
    """Whether `name` is an IP address or can be a host name."""
    return is_ip(name) or re.fullmatch(_NAME, name) is not None


def is_ip(host: str) -> bool:
    """Whether `host` is an IP address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _parsed(content: bytes, source: str) -> FederationFile:
    try:
        file = FederationFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise TrustError(
            f"{source} is no federation file: {place}: {first['msg']}",
            remedy="Ask the coordinator for the file again, see docs/deployment.md; a newer format needs a newer mmrec",
        ) from error
    split_address(file.address)
    return file
