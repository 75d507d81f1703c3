"""The federation file: every field is signed, the CA is the one named, and the fingerprint tells two files apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mmrec_model.canonical import JsonValue
from mmrec_model.errors import TrustError, UsageError
from mmrec_model.federation_file import (
    FederationFile,
    ca_certificate,
    certificate_fingerprint,
    read_federation,
    require_fingerprint,
    require_valid,
    sign_federation,
    split_address,
)
from mmrec_model.privacy.keys import SigningKey
from server.certificates import CA_DAYS, certify_server, make_authority, make_server_key
from server.founding import _pem

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = SigningKey.from_seed(b"c" * 32)
AUTHORITY = make_authority("test", NOW)


def fields(**changes: JsonValue) -> dict[str, JsonValue]:
    return {
        "name": "Three shops",
        "address": "fl.example.org:8443",
        "ca_certificate": _pem(AUTHORITY[1]).decode(),
        "ca_fingerprint": certificate_fingerprint(AUTHORITY[1]),
        "features_digest": "f" * 64,
        "items": 40,
        "code_digest": "c" * 64,
        "protocol_version": 2,
        "flwr_version": "1.41.0",
        "created": "2026-05-01T00:00:00+00:00",
        **changes,
    }


FILE = sign_federation(fields(), KEY)


def write(folder: Path, document: object) -> Path:
    path = folder / "federation.json"
    path.write_text(json.dumps(document))
    return path


def test_what_was_written_reads_back_with_the_same_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(FILE.to_bytes())
    read = read_federation(tmp_path / "f")
    assert read == FILE
    assert read.fingerprint == FILE.fingerprint
    assert (read.host, read.port) == ("fl.example.org", 8443)
    require_fingerprint(read, FILE.fingerprint)


CHANGES: dict[str, JsonValue] = {
    "name": "Another",
    "address": "evil.example.org:8443",
    "coordinator_key": SigningKey.from_seed(b"e" * 32).public.hexadecimal,
    "features_digest": "0" * 64,
    "items": 41,
    "code_digest": "0" * 64,
    "protocol_version": 3,
    "flwr_version": "1.42.0",
    "created": "2026-05-02T00:00:00+00:00",
    "ca_certificate": _pem(make_authority("test", NOW)[1]).decode(),
    "ca_fingerprint": "0" * 64,
    "signature": "0" * 128,
}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_a_change_of_any_field_breaks_the_signature(field: str, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="not signed"):
        read_federation(write(tmp_path, {**FILE.model_dump(), field: CHANGES[field]}))


def test_every_field_is_tried() -> None:
    assert set(FederationFile.model_fields) - set(CHANGES) == {"format"}


def test_another_ca_under_the_honest_fingerprint_is_refused_although_it_is_signed(tmp_path: Path) -> None:
    other = _pem(make_authority("test", NOW)[1]).decode()
    swapped = sign_federation(fields(ca_certificate=other), KEY)
    with pytest.raises(TrustError, match="the federation file says"):
        read_federation(write(tmp_path, swapped.model_dump()))


@pytest.mark.parametrize("certificate", ["", "no certificate", "server", "two"])
def test_what_is_not_one_ca_certificate_is_refused(certificate: str, tmp_path: Path) -> None:
    server = certify_server(make_server_key().public_key(), ["a.example"], AUTHORITY, NOW)
    known = {"server": _pem(server).decode(), "two": 2 * _pem(AUTHORITY[1]).decode()}
    signed = sign_federation(fields(ca_certificate=known.get(certificate, certificate)), KEY)
    with pytest.raises(TrustError, match="CA"):
        read_federation(write(tmp_path, signed.model_dump()))


def test_a_file_that_a_man_in_the_middle_made_and_signed_himself_has_another_fingerprint() -> None:
    his = sign_federation(fields(), SigningKey.from_seed(b"e" * 32))
    with pytest.raises(TrustError, match="Do not join"):
        require_fingerprint(his, FILE.fingerprint)
    with pytest.raises(UsageError):
        require_fingerprint(his, his.fingerprint[:-1])


@pytest.mark.parametrize(
    "document", [[], {}, {"format": 2}, None, {**FILE.model_dump(), "format": 2}, {**FILE.model_dump(), "extra": 1}]
)
def test_what_is_no_federation_file_is_refused(document: object, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="no federation file"):
        read_federation(write(tmp_path, document))


def test_a_file_that_is_absent_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="cannot be read"):
        read_federation(tmp_path / "absent")
    (tmp_path / "large").write_bytes(b" " * (1 << 17))
    with pytest.raises(TrustError, match="larger"):
        read_federation(tmp_path / "large")


def test_a_ca_certificate_counts_between_its_dates_alone() -> None:
    certificate = ca_certificate(FILE)
    for moment in (NOW, NOW + timedelta(days=CA_DAYS)):
        require_valid(certificate, moment, whose="the CA's")
    for moment, remedy in ((NOW - timedelta(hours=2), "clock"), (NOW + timedelta(days=CA_DAYS, seconds=1), "Renew")):
        with pytest.raises(TrustError, match=remedy):
            require_valid(certificate, moment, whose="the CA's")


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":1", "host:0", "host:65536", "::1:80", "[]:1", "a b:1", "h:\uff11"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(TrustError):
        sign_federation(fields(address=address), KEY)


@pytest.mark.parametrize(
    ("address", "parts"), [("h:1", ("h", 1)), ("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:65535", ("::1", 65535))]
)
def test_addresses_are_split_at_the_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert sign_federation(fields(address=address), KEY).host == parts[0]
