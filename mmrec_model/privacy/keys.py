"""Ed25519 keys: who signs a ledger, a head, a countersignature.

A private key lives in one PEM (PKCS 8) file that only its owner can read; a looser mode is refused, not repaired,
because nobody knows who read it before. A signature always covers a domain tag, so that a signature made for one
purpose cannot be shown for another. Ed25519: RFC 8032.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mmrec_model.canonical import sha256_hex
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import create_file, file_faults

KEY_MODE: Final = 0o600
_PUBLIC_HEX: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE_HEX: Final = re.compile(r"[0-9a-f]{128}")


class PublicKey:
    """A verification key.

    Args:
        hexadecimal: 32 bytes as 64 lower-case hexadecimal digits.

    Raises:
        LedgerFault: `KEY` if it is not that.
    """

    def __init__(self, hexadecimal: str) -> None:
        if not _PUBLIC_HEX.fullmatch(hexadecimal):
            raise LedgerFault(
                FaultCode.KEY,
                f"a public key is 64 lower-case hexadecimal digits, got {hexadecimal[:80]!r}",
                remedy="Copy the key again from the partner's enrolment",
            )
        self.hexadecimal = hexadecimal
        self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(hexadecimal))

    @property
    def key_id(self) -> str:
        """The first 16 hexadecimal digits of SHA-256 of the 32 key bytes: a name to show, not a proof."""
        return sha256_hex(bytes.fromhex(self.hexadecimal))[:16]

    def verifies(self, signature: str, message: bytes, *, domain: bytes) -> bool:
        """Whether `signature` (128 lower-case hexadecimal digits) was made by this key over `domain` and `message`."""
        if not _SIGNATURE_HEX.fullmatch(signature):
            return False
        try:
            self._key.verify(bytes.fromhex(signature), domain + message)
        except InvalidSignature:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.hexadecimal == self.hexadecimal

    def __hash__(self) -> int:
        return hash(self.hexadecimal)

    def __repr__(self) -> str:
        return f"PublicKey({self.hexadecimal!r})"


class SigningKey:
    """A private key; its bytes are never shown or logged."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex())

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed; for test vectors and simulated partners."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def create(cls, path: Path) -> SigningKey:
        """Draw a new key and keep it at `path`, readable by the owner alone.

        Raises:
            LedgerFault: `EXISTS`; a key is never overwritten.
        """
        key = Ed25519PrivateKey.generate()
        create_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=KEY_MODE)
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key file.

        Raises:
            LedgerFault: `MISSING`, `FILE`, or `KEY` if others can read the file or it holds no Ed25519 key.
        """
        with file_faults(path), path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read()
        if mode & 0o077:
            raise LedgerFault(
                FaultCode.KEY,
                f"the key file {path} has mode {mode:04o}, the limit is {KEY_MODE:04o}",
                remedy=f"Run `chmod 600 {path}`; if others could read it, rotate the key",
            )
        try:
            key = load_pem_private_key(content, password=None)
        except (ValueError, TypeError) as error:
            raise _not_a_key(path) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _not_a_key(path)
        return cls(key)

    def sign(self, message: bytes, *, domain: bytes) -> str:
        """Signature over `domain` and `message` as 128 hexadecimal digits; the same input gives the same signature."""
        return self._key.sign(domain + message).hex()

    def __repr__(self) -> str:
        return f"SigningKey(key_id={self.public.key_id!r})"


def _not_a_key(path: Path) -> LedgerFault:
    return LedgerFault(
        FaultCode.KEY,
        f"{path} holds no unencrypted Ed25519 private key in PEM form",
        remedy="Restore the key file from a backup, or create a new key and rotate",
    )
