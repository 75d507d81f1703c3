from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.keys import PublicKey, SigningKey


def test_a_created_key_loads_as_the_same_key_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    key = SigningKey.create(tmp_path / "keys" / "partner.pem")
    assert SigningKey.load(tmp_path / "keys" / "partner.pem").public == key.public
    assert (tmp_path / "keys" / "partner.pem").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["partner.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644])
def test_a_key_file_that_others_can_open_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "partner.pem"
    SigningKey.create(path)
    path.chmod(mode)
    with pytest.raises(LedgerFault, match="chmod 600") as caught:
        SigningKey.load(path)
    assert caught.value.code is FaultCode.KEY


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "partner.pem"
    key = SigningKey.create(path)
    with pytest.raises(LedgerFault) as caught:
        SigningKey.create(path)
    assert caught.value.code is FaultCode.EXISTS
    assert SigningKey.load(path).public == key.public


def test_what_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"\0" * 32, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", other):
        path = tmp_path / "partner.pem"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(LedgerFault) as caught:
            SigningKey.load(path)
        assert caught.value.code is FaultCode.KEY


def test_a_missing_key_file_is_a_typed_refusal(tmp_path: Path) -> None:
    with pytest.raises(LedgerFault) as caught:
        SigningKey.load(tmp_path / "absent.pem")
    assert caught.value.code is FaultCode.MISSING


def test_a_signature_holds_for_its_key_message_and_domain_alone() -> None:
    key, other = (SigningKey.from_seed(bytes([value]) * 32) for value in (1, 2))
    signature = key.sign(b"message", domain=b"a\0")
    assert key.public.verifies(signature, b"message", domain=b"a\0")
    assert not key.public.verifies(signature, b"message", domain=b"b\0")
    assert not key.public.verifies(signature, b"massage", domain=b"a\0")
    assert not other.public.verifies(signature, b"message", domain=b"a\0")


def test_a_signature_has_one_spelling() -> None:
    key = SigningKey.from_seed(bytes([1]) * 32)
    signature = key.sign(b"message", domain=b"a\0")
    for spelling in (signature.upper(), signature[:64] + " " + signature[64:], signature + "00", "", "zz" * 64):
        assert not key.public.verifies(spelling, b"message", domain=b"a\0")


@pytest.mark.parametrize("text", ["", "0" * 63, "A" * 64, "g" * 64, " " + "0" * 64])
def test_a_public_key_is_64_lower_case_hexadecimal_digits(text: str) -> None:
    with pytest.raises(LedgerFault) as caught:
        PublicKey(text)
    assert caught.value.code is FaultCode.KEY


def test_the_private_key_is_not_shown() -> None:
    seed = bytes(range(32))
    shown = repr(SigningKey.from_seed(seed))
    assert seed.hex() not in shown
    assert "56475aa75463474c" in shown
