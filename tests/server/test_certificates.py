"""The made certificates in a real TLS handshake on loopback, and their dates."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from mmrec_model.errors import TrustError
from server.certificates import (
    CA_DAYS,
    SERVER_DAYS,
    WARNING_DAYS,
    certify_server,
    is_due,
    make_authority,
    make_server_key,
    names_of,
    warnings_for,
)
from server.founding import _pem, _private_pem

NOW = datetime.now(UTC)
AUTHORITY = make_authority("shops", NOW)
SERVER = make_server_key()
NAMES = ["localhost", "127.0.0.1", "fl.example.org"]


def certificate(now: datetime = NOW, days: int = SERVER_DAYS, names: list[str] | None = None) -> x509.Certificate:
    return certify_server(SERVER.public_key(), names or NAMES, AUTHORITY, now, days=days)


def handshake(folder: Path, shown: x509.Certificate, believed: x509.Certificate, host: str) -> str:
    """What a client that believes one CA says of a server that shows one certificate: its TLS version, or the error."""
    (folder / "server.crt").write_bytes(_pem(shown))
    (folder / "server.key").write_bytes(_private_pem(SERVER))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cadata=_pem(believed).decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    server.wrap_socket(connection, server_side=True).close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname(), timeout=5) as plain,
                client.wrap_socket(plain, server_hostname=host) as secured,
            ):
                return secured.version() or ""
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        finally:
            thread.join()


@pytest.mark.parametrize("host", NAMES)
def test_the_server_is_believed_under_each_of_its_names(host: str, tmp_path: Path) -> None:
    assert handshake(tmp_path, certificate(), AUTHORITY[1], host) == "TLSv1.3"


@pytest.mark.parametrize("host", ["other.example.org", "127.0.0.2"])
def test_the_server_is_not_believed_under_another_name(host: str, tmp_path: Path) -> None:
    assert "mismatch" in handshake(tmp_path, certificate(), AUTHORITY[1], host)


def test_a_server_of_another_ca_of_the_same_name_is_not_believed(tmp_path: Path) -> None:
    other = make_authority("shops", NOW)[1]
    assert handshake(tmp_path, certificate(), other, "localhost") != "TLSv1.3"


def test_an_expired_server_is_not_believed(tmp_path: Path) -> None:
    old = make_authority("shops", NOW - timedelta(days=20))
    shown = certify_server(SERVER.public_key(), NAMES, old, NOW - timedelta(days=10), days=5)
    assert "expired" in handshake(tmp_path, shown, old[1], "localhost")


def test_a_server_cannot_play_ca(tmp_path: Path) -> None:
    shown = certify_server(SERVER.public_key(), ["localhost"], (SERVER, certificate()), NOW)
    assert handshake(tmp_path, shown, AUTHORITY[1], "localhost") != "TLSv1.3"


def test_the_extensions_are_those_of_a_ca_and_of_a_server() -> None:
    authority, server = AUTHORITY[1].extensions, certificate().extensions
    constraints = authority.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = authority.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.digital_signature) == (True, False)
    assert not server.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert names_of(certificate()) == NAMES
    assert isinstance(AUTHORITY[1].public_key(), EllipticCurvePublicKey)


def test_a_certificate_never_outlives_its_ca_and_an_ended_ca_signs_nothing() -> None:
    late = NOW + timedelta(days=CA_DAYS - 10)
    assert certificate(late).not_valid_after_utc == AUTHORITY[1].not_valid_after_utc
    with pytest.raises(TrustError, match="valid from"):
        certificate(NOW + timedelta(days=CA_DAYS + 1))


def test_a_key_that_is_not_the_cas_signs_nothing() -> None:
    with pytest.raises(TrustError, match="not that of its key"):
        certify_server(SERVER.public_key(), NAMES, (make_server_key(), AUTHORITY[1]), NOW)


@pytest.mark.parametrize(
    ("days_left", "word"), [(WARNING_DAYS + 1, None), (WARNING_DAYS - 1, "renew it"), (-1, "nobody can connect")]
)
def test_the_operator_is_warned_thirty_days_before_the_end(days_left: int, word: str | None) -> None:
    one = certificate()
    moment = one.not_valid_after_utc - timedelta(days=days_left)
    warnings = warnings_for(one, moment, whose="the server's")
    assert is_due(one, moment) == (word is not None)
    assert (len(warnings) == 1 and word in warnings[0]) if word else warnings == []


def test_a_clock_that_is_late_is_named() -> None:
    assert "clock" in warnings_for(certificate(), NOW - timedelta(days=1), whose="the server's")[0]
