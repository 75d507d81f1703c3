"""`enrolment.json`: what a coordinator must know of a partner before it joins, in one signed file.

Promises:
1. It holds the fields below and no other, so nothing private: no user, no limit of the policy, no budget, no digest of
   the data. The number of users is public (docs/site.md).
2. Every field is covered by the site's Ed25519 signature over the canonical JSON of all others, so whoever wrote it has
   the site's key.
3. The opening of the ledger is signed as a head of one record (`mmrec_model.privacy.heads`), so the coordinator
   can hold the partner to it: the first ledger that the partner shows must have grown from this very record.
4. It names the federation that it is for, and is none for another.

That key and name belong together is what the fingerprint is compared for, by a road that is not this system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from pydantic import Field, ValidationError

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config_types import Count, Digest, Strict
from mmrec_model.errors import TrustError
from mmrec_model.federation_file import Signature
from mmrec_model.fingerprint import fingerprint_of, fits
from mmrec_model.privacy.heads import SignedHead
from mmrec_model.privacy.keys import PublicKey, SigningKey

ENROLMENT: Final = "enrolment.json"
ENROLMENT_DOMAIN: Final = b"mmrec-enrolment/v1\0"
_MOST_BYTES: Final = 1 << 14
PARTNER_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""A deployed partner's name: it becomes a file name and a word of a command."""
NodeKey = Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{1,300}$")]
"""The public half of a node's key for Flower, as OpenSSH writes it, without a comment."""


class EnrolmentFile(Strict):
    """The file's fields.

    Attributes:
        format: of the file.
        federation: digest of the federation file that the partner joined with.
        partner: its name.
        users: its public number of users.
        site_key: public key that signs its ledger; 64 hexadecimal digits.
        node_key: public key by which its node logs in.
        ledger_opening: hash of the first record of its ledger.
        opening_nonce: drawn for this file.
        opening_signature: of the site's key over the ledger's head of that one record, with the nonce.
        signature: of the site's key over all other fields.
    """

    format: Literal[1] = 1
    federation: Digest
    partner: Annotated[str, Field(pattern=rf"^{PARTNER_NAME}$")]
    users: Count
    site_key: Digest
    node_key: NodeKey
    ledger_opening: Digest
    opening_nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    opening_signature: Signature
    signature: Signature

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form of all fields, the signature included."""
        return sha256_hex(ENROLMENT_DOMAIN + canonical_json(self.model_dump()))

    @property
    def fingerprint(self) -> str:
        """What is compared out of band, see `mmrec_model.fingerprint`."""
        return fingerprint_of(self.digest)

    @property
    def public_key(self) -> PublicKey:
        """The site's key."""
        return PublicKey(self.site_key)

    @property
    def opening(self) -> SignedHead:
        """The ledger's head of one record; the Merkle root over one record is the record's hash (RFC 6962, 2.1)."""
        return SignedHead(
            self.partner,
            1,
            self.ledger_opening,
            self.ledger_opening,
            self.opening_nonce,
            self.public_key.key_id,
            self.opening_signature,
        )

    def to_bytes(self) -> bytes:
        """The file; it reads back to the same fields."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def sign_enrolment(
    opening: SignedHead, key: SigningKey, *, federation: str, users: int, node_key: str
) -> EnrolmentFile:
    """The signed file.

    Args:
        opening: the ledger's head of one record, signed by `key`.
        key: the site's.
        federation: digest of the federation file.
        users: the public number of users.
        node_key: the node's public key.

    Raises:
        TrustError: a field is not as documented.
    """
    values: dict[str, JsonValue] = {
        "format": 1,
        "federation": federation,
        "partner": opening.partner,
        "users": users,
        "site_key": key.public.hexadecimal,
        "node_key": node_key,
        "ledger_opening": opening.hash,
        "opening_nonce": opening.nonce,
        "opening_signature": opening.signature,
    }
    signature = key.sign(canonical_json(values), domain=ENROLMENT_DOMAIN)
    return _checked(_parsed(canonical_json({**values, "signature": signature}), "the enrolment"))


def read_enrolment(path: Path, *, fingerprint: str) -> EnrolmentFile:
    """Read an enrolment and check that it is the one that was compared, whole, and signed by its own key.

    Args:
        path: the file as it came.
        fingerprint: as the partner's operator read it out.

    Raises:
        TrustError: unreadable, above 16 KiB, forged, of another format, or with another fingerprint.
        UsageError: `fingerprint` is none.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise TrustError(
            f"{path} cannot be read: {error.strerror or error}", remedy="Name the partner's enrolment.json"
        ) from error
    if len(content) > _MOST_BYTES:
        raise TrustError(f"{path} is larger than {_MOST_BYTES} bytes", remedy="Ask the partner for the file again")
    file = _parsed(content, str(path))
    if not fits(fingerprint, file.digest):
        raise TrustError(
            f"the enrolment of '{file.partner}' has the fingerprint {file.fingerprint}, the one given is another",
            remedy="Do not enrol it: the file is not the partner's. Compare with its operator, not by the same road",
        )
    return _checked(file)


def _checked(file: EnrolmentFile) -> EnrolmentFile:
    signed = canonical_json(file.model_dump(exclude={"signature"}))
    if not file.public_key.verifies(file.signature, signed, domain=ENROLMENT_DOMAIN):
        raise _refused(f"the enrolment of '{file.partner}' is not signed by the key {file.public_key.key_id} it names")
    if not file.opening.is_signed_by(file.public_key):
        raise _refused(f"the opening of the ledger of '{file.partner}' is not signed by its key")
    try:
        node_key = load_ssh_public_key(file.node_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refused(f"the node key of '{file.partner}' cannot be read: {error}") from error
    if not isinstance(node_key, EllipticCurvePublicKey) or not isinstance(node_key.curve, SECP384R1):
        raise _refused(f"the node key of '{file.partner}' is no ECDSA key on P-384")
    return file


def _refused(problem: str) -> TrustError:
    return TrustError(problem, remedy="Ask the partner for the file again, as `mmrec site init` wrote it")


def _parsed(content: bytes, source: str) -> EnrolmentFile:
    try:
        return EnrolmentFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        raise TrustError(
            f"{source} is no enrolment: {place}: {first['msg']}",
            remedy="Ask the partner for the file again; a newer format needs a newer mmrec",
        ) from error
