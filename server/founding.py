"""Founding a federation: the coordinator's folder, and the file by which partners learn to know it.

    ca.key, ca.crt           the CA of this federation (`server.certificates`); the key 0600, never leaves
    server.key, server.crt   what the SuperLink shows to those who connect; the key 0600, never leaves
    superexec.secret         32 random bytes by which the SuperLink knows its own executors; 0600, never leaves
    federation.json          signed; handed to every partner (`mmrec_model.federation_file`)
    key.pem                  the coordinator's own key, as everywhere (`server.sites`)

Founding makes all of it or nothing, and overwrites nothing. Renewal replaces `server.crt` in one step and keeps the CA,
so nothing changes for a partner. The time is an argument.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mmrec_model.canonical import JsonValue
from mmrec_model.errors import BundleSignatureError, ConfigError, TrustError, UsageError
from mmrec_model.features.folder import SIGNATURE, open_bundle
from mmrec_model.features.signature import check_signature, sign_bundle
from mmrec_model.federation_file import (
    FEDERATION,
    FederationFile,
    ca_certificate,
    certificate_fingerprint,
    is_host,
    read_federation,
    sign_federation,
    split_address,
)
from mmrec_model.installed_code import code_digest
from mmrec_model.privacy.files import create_file, file_faults
from mmrec_model.privacy.keys import KEY_MODE, SigningKey
from mmrec_model.protocol import PROTOCOL_VERSION
from mmrec_model.storage import write_atomically
from server.certificates import (
    SERVER_DAYS,
    Key,
    certify_server,
    is_due,
    make_authority,
    make_server_key,
    names_of,
    warnings_for,
)
from server.ports import LOOPBACK
from server.sites import KEY, coordinator_key

CA_KEY: Final = "ca.key"
CA_CERTIFICATE: Final = "ca.crt"
SERVER_KEY: Final = "server.key"
SERVER_CERTIFICATE: Final = "server.crt"
SUPEREXEC_SECRET: Final = "superexec.secret"  # noqa: S105 - the name of a file
_FOUNDED: Final = (CA_KEY, CA_CERTIFICATE, SERVER_KEY, SERVER_CERTIFICATE, SUPEREXEC_SECRET, FEDERATION)
_PUBLIC_MODE: Final = 0o644
_SECRET_BYTES: Final = 32
_FOLDER_MODE: Final = 0o700


def found_federation(
    folder: Path, *, name: str, address: str, names: Sequence[str], features: Path, now: datetime
) -> FederationFile:
    """Make the coordinator's folder and the federation file.

    Args:
        folder: the coordinator's; a `key.pem` that lies there already is kept.
        name: of the federation.
        address: HOST:PORT, where partners connect.
        names: further host names and IP addresses of the server.
        features: the feature bundle, which is signed here unless it is signed by this coordinator already.
        now: the time.

    Raises:
        ConfigError: the folder was founded before, wholly or in part.
        UsageError: a name or address cannot be one.
        FeatureError: the bundle is damaged, signed by somebody else, or cannot be written.
        LedgerFault: a file cannot be written.
    """
    hosts = _hosts(address, names)
    bundle = open_bundle(features)
    code = code_digest()
    _require_unfounded(folder)
    with _all_or_nothing([*(folder / own for own in (*_FOUNDED, KEY)), features / SIGNATURE]):
        with file_faults(folder):
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        key = coordinator_key(folder)
        _sign_once(features, key)
        authority = make_authority(name, now)
        server = make_server_key()
        certificate = certify_server(server.public_key(), hosts, authority, now)
        facts: dict[str, JsonValue] = {
            "name": name,
            "address": address,
            "ca_certificate": _pem(authority[1]).decode(),
            "ca_fingerprint": certificate_fingerprint(authority[1]),
            "features_digest": bundle.digest,
            "items": len(bundle.item_ids),
            "code_digest": code,
            "protocol_version": PROTOCOL_VERSION,
            "flwr_version": version("flwr"),
            "created": now.astimezone(UTC).isoformat(timespec="seconds"),
        }
        file = sign_federation(facts, key)
        create_file(folder / CA_KEY, _private_pem(authority[0]), mode=KEY_MODE)
        create_file(folder / CA_CERTIFICATE, _pem(authority[1]), mode=_PUBLIC_MODE)
        create_file(folder / SERVER_KEY, _private_pem(server), mode=KEY_MODE)
        create_file(folder / SERVER_CERTIFICATE, _pem(certificate), mode=_PUBLIC_MODE)
        create_file(folder / SUPEREXEC_SECRET, secrets.token_bytes(_SECRET_BYTES), mode=KEY_MODE)
        create_file(folder / FEDERATION, file.to_bytes(), mode=_PUBLIC_MODE)
    return file


def renew_certificate(
    folder: Path, *, now: datetime, names: Sequence[str] = (), days: int = SERVER_DAYS, new_key: bool = False
) -> x509.Certificate:
    """Replace the server's certificate by a new one of the same CA.

    Args:
        folder: the coordinator's.
        now: the time.
        names: host names and addresses beside that of the federation's address; none for those of the present one.
        days: how long it is valid.
        new_key: whether the server gets a new key too; a call that was cut short between key and certificate is
            repeated.

    Raises:
        ConfigError: the folder was not founded, or is not whole.
        TrustError: the CA's certificate has ended, or is not that of the federation file.
        UsageError: a name cannot be one.
        LedgerFault: a file cannot be written, or a key file is damaged or open to others.
    """
    file = read_founded(folder)
    present = read_certificate(folder / SERVER_CERTIFICATE)
    hosts = _hosts(file.address, names or names_of(present))
    authority = (_read_key(folder / CA_KEY), ca_certificate(file))
    server = make_server_key() if new_key else _read_key(folder / SERVER_KEY)
    certificate = certify_server(server.public_key(), hosts, authority, now, days=days)
    with file_faults(folder / SERVER_CERTIFICATE):
        if new_key:
            write_atomically(folder / SERVER_KEY, _private_pem(server), mode=KEY_MODE)
        write_atomically(folder / SERVER_CERTIFICATE, _pem(certificate), mode=_PUBLIC_MODE)
    return certificate


def renewal_is_due(folder: Path, now: datetime) -> bool:
    """Whether the server's certificate has ended or ends within `WARNING_DAYS`.

    Raises:
        ConfigError: there is none.
    """
    return is_due(read_certificate(folder / SERVER_CERTIFICATE), now)


def expiry_warnings(folder: Path, now: datetime) -> list[str]:
    """What the operator must hear of the dates of both certificates.

    Raises:
        ConfigError, TrustError: see `renew_certificate`.
    """
    authority = ca_certificate(read_founded(folder))
    server = read_certificate(folder / SERVER_CERTIFICATE)
    return [*warnings_for(authority, now, whose="the CA's"), *warnings_for(server, now, whose="the server's")]


def read_founded(folder: Path) -> FederationFile:
    """The federation file of a coordinator's folder, signed by the coordinator that lies there.

    Raises:
        ConfigError: there is none.
        TrustError: it is damaged.
    """
    if not (folder / FEDERATION).is_file():
        raise ConfigError(f"{folder} holds no {FEDERATION}", remedy="Found it first: mmrec federation init")
    return read_federation(folder / FEDERATION)


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate from a PEM file.

    Raises:
        ConfigError: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} holds no certificate: {error}", remedy="Restore it from a backup of the folder"
        ) from error


def _hosts(address: str, names: Sequence[str]) -> list[str]:
    """The host of the address, the further names, and loopback for the server's own programs, each once."""
    try:
        host = split_address(address)[0]
    except TrustError as error:
        raise UsageError(error.problem, remedy=error.remedy) from error
    wrong = next((name for name in (host, *names) if not is_host(name)), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} is neither a host name nor an IP address", remedy="Give it without port and path")
    return list(dict.fromkeys((host, *names, LOOPBACK)))


def _require_unfounded(folder: Path) -> None:
    if (folder / FEDERATION).exists():
        raise ConfigError(
            f"{folder} was founded before",
            remedy="Renew its certificate with `mmrec federation renew`, or found another federation in a new folder",
        )
    left = [name for name in _FOUNDED if (folder / name).exists()]
    if left:
        raise ConfigError(
            f"{folder} holds {', '.join(left)} but no {FEDERATION}",
            remedy="If a founding was cut short, remove these files (nobody has seen them) and found again",
        )


@contextmanager
def _all_or_nothing(paths: Sequence[Path]) -> Iterator[None]:
    """Take away again which of these files were made, if not all of them can be."""
    new = [path for path in paths if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            if path.exists():
                path.unlink()
        raise


def _sign_once(features: Path, key: SigningKey) -> None:
    """Sign the bundle, unless this coordinator has; another's signature is not replaced."""
    if not (features / SIGNATURE).exists():
        sign_bundle(features, key)
        return
    try:
        check_signature(features, open_bundle(features), key.public)
    except BundleSignatureError as error:
        raise BundleSignatureError(
            f"the bundle in {features} bears a {SIGNATURE} that is not by this coordinator's key {key.public.key_id}",
            remedy=f"Take a copy of the bundle without {SIGNATURE}, or put that coordinator's key.pem into the folder",
        ) from error


def _read_key(path: Path) -> Key:
    with file_faults(path):
        mode, content = path.stat().st_mode, path.read_bytes()
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others", remedy=f"chmod 600 {path}; if others had it, make a new one")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(f"{path} holds no EC private key in PEM form", remedy="Restore it from a backup")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _private_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
