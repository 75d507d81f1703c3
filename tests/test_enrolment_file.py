"""The enrolment: nothing private in it, every field signed, and the opening of the ledger bound to the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mmrec_model.canonical import canonical_json
from mmrec_model.enrolment_file import ENROLMENT_DOMAIN, EnrolmentFile, read_enrolment, sign_enrolment
from mmrec_model.errors import TrustError, UsageError
from mmrec_model.privacy.heads import Head, SignedHead, sign_head
from mmrec_model.privacy.keys import SigningKey

KEY = SigningKey.from_seed(b"s" * 32)
OTHER = SigningKey.from_seed(b"o" * 32)
RECORD = "a" * 64


def node_key(curve: ec.EllipticCurve | None = None) -> str:
    public = ec.generate_private_key(curve or ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


NODE_KEY = node_key()


def opening(key: SigningKey = KEY, head: Head | None = None) -> SignedHead:
    return sign_head("north", head or Head(1, RECORD, RECORD), "0" * 32, key)


def enrolment(**changes: object) -> EnrolmentFile:
    values = {"federation": "f" * 64, "users": 60, "node_key": NODE_KEY, **changes}
    return sign_enrolment(opening(), KEY, **values)


def write(folder: Path, document: object) -> Path:
    path = folder / "enrolment.json"
    path.write_text(json.dumps(document))
    return path


def signed(values: dict[str, object], key: SigningKey = KEY) -> EnrolmentFile:
    """A file that its author signed, whatever it says."""
    values = {name: value for name, value in values.items() if name != "signature"}
    return EnrolmentFile.model_validate(
        {**values, "signature": key.sign(canonical_json(values), domain=ENROLMENT_DOMAIN)}
    )


def test_it_holds_public_things_alone() -> None:
    allowed = {
        "format",
        "federation",
        "partner",
        "users",
        "site_key",
        "node_key",
        "ledger_opening",
        "opening_nonce",
        "opening_signature",
        "signature",
    }
    assert set(json.loads(enrolment().to_bytes())) == allowed


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    file = enrolment()
    (tmp_path / "e").write_bytes(file.to_bytes())
    assert read_enrolment(tmp_path / "e", fingerprint=file.fingerprint) == file
    assert file.opening == opening()


def test_another_fingerprint_is_refused_and_none_is_no_answer(tmp_path: Path) -> None:
    file = enrolment()
    path = write(tmp_path, file.model_dump())
    with pytest.raises(TrustError, match="Do not enrol"):
        read_enrolment(path, fingerprint=enrolment(users=61).fingerprint)
    with pytest.raises(UsageError):
        read_enrolment(path, fingerprint="")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("federation", "0" * 64),
        ("partner", "south"),
        ("users", 61),
        ("site_key", OTHER.public.hexadecimal),
        ("node_key", node_key()),
        ("ledger_opening", "b" * 64),
        ("opening_nonce", "1" * 32),
        ("opening_signature", "0" * 128),
        ("signature", "0" * 128),
    ],
)
def test_a_change_of_any_field_is_refused_even_if_its_fingerprint_was_compared(
    field: str, value: object, tmp_path: Path
) -> None:
    changed = EnrolmentFile.model_validate({**enrolment().model_dump(), field: value})
    with pytest.raises(TrustError, match="not signed"):
        read_enrolment(write(tmp_path, changed.model_dump()), fingerprint=changed.fingerprint)


def test_the_opening_of_somebody_elses_ledger_is_refused(tmp_path: Path) -> None:
    theirs = opening(OTHER)
    file = signed({**enrolment().model_dump(), "opening_signature": theirs.signature})
    with pytest.raises(TrustError, match="opening"):
        read_enrolment(write(tmp_path, file.model_dump()), fingerprint=file.fingerprint)


def test_a_head_of_more_than_one_record_is_no_opening() -> None:
    later = opening(head=Head(2, RECORD, "b" * 64))
    with pytest.raises(TrustError, match="opening"):
        sign_enrolment(later, KEY, federation="f" * 64, users=60, node_key=NODE_KEY)


ED25519 = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.mark.parametrize(
    "key", [node_key(ec.SECP256R1()), ED25519.decode(), "ecdsa-sha2-nistp384 AAAA", "", NODE_KEY + "\n#"]
)
def test_a_node_key_that_flower_would_refuse_is_refused(key: str) -> None:
    with pytest.raises(TrustError, match=r"node_key|node key"):
        enrolment(node_key=key)


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", ".hidden", "-x", "a" * 65, "north\n", "näh"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(TrustError, match="partner"):
        sign_enrolment(
            sign_head(name, Head(1, RECORD, RECORD), "0" * 32, KEY),
            KEY,
            federation="f" * 64,
            users=60,
            node_key=NODE_KEY,
        )


@pytest.mark.parametrize("document", [[], {}, {**enrolment().model_dump(), "epsilon": 4.0}, {"format": 9}])
def test_what_is_no_enrolment_is_refused(document: object, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="no enrolment"):
        read_enrolment(write(tmp_path, document), fingerprint="0" * 32)
