"""How a key is replaced: the statement that both keys sign, and the form in which a partner shows it to the server.

A `key_rotate` record carries the old and the new key's signature over the statement "at this place of this ledger this
role goes over to this key". The partner shows the record beside its head, with the path that proves it one of the
records under that head. `follow` believes it if, in this order, for every record shown:

1. it is a `key_rotate` of the role partner that the key known so far signed, after the last head that was shown;
2. both keys signed its statement for this place of this ledger;
3. it is one of the records under the shown head (RFC 9162, 2.1.3.2);
4. its reason is `scheduled`. Whoever stole a key can rotate it as well as its owner can, so a key that is called
   compromised is replaced by the operator's hand alone (`HeadBook.replace_key`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.privacy.bodies import DIGEST, TEXT, RecordType
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fields import Rows, Table, Text
from mmrec_model.privacy.heads import SignedHead
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.merkle import Proof, verify_inclusion
from mmrec_model.privacy.records import Record, is_authentic, read_line

ROTATION_DOMAIN: Final = b"dp-ledger-rotate/v1\0"

_PLACE: Final = Table({"role": TEXT, "genesis": DIGEST, "seq": Text(r"[0-9]{1,15}"), "prev": DIGEST, "new_key": DIGEST})
_SHOWN: Final = Table({"genesis": DIGEST, "record": Text(r"[ -~]{2,4096}"), "path": Rows(DIGEST)})


@dataclass(frozen=True)
class Place:
    """What a rotation is about: any other record at this place makes its signatures void.

    Attributes:
        role: whose key: `partner`, `server` or `governance`.
        genesis: hash of the ledger's first record.
        seq: place of the `key_rotate` record.
        prev: hash of the record before it.
        new_key: the key that takes over.
    """

    role: str
    genesis: str
    seq: int
    prev: str
    new_key: PublicKey

    @property
    def statement(self) -> bytes:
        """What both keys sign."""
        place: dict[str, JsonValue] = {"seq": self.seq, "prev": self.prev, "role": self.role}
        return canonical_json({**place, "genesis": self.genesis, "new_key": self.new_key.hexadecimal})

    def signed_by(self, key: SigningKey) -> str:
        """The signature of one of the two keys."""
        return key.sign(self.statement, domain=ROTATION_DOMAIN)

    def body(
        self, old_key: PublicKey | None, old_signature: str | None, new_signature: str, reason: str
    ) -> dict[str, object]:
        """The `key_rotate` record of this place.

        Args:
            old_key: the key in force; None for the first one of a role.
            old_signature: by that key; None without one.
            new_signature: by the new key.
            reason: `scheduled`, `compromised` or `enrolled`.
        """
        return {
            "role": self.role,
            "old_key_id": None if old_key is None else old_key.key_id,
            "new_key_id": self.new_key.key_id,
            "new_key": self.new_key.hexadecimal,
            "reason": reason,
            "old_signature": old_signature,
            "new_signature": new_signature,
        }

    def to_json(self) -> dict[str, JsonValue]:
        """The fields as text, for the other side to sign."""
        return {
            "role": self.role,
            "genesis": self.genesis,
            "seq": str(self.seq),
            "prev": self.prev,
            "new_key": self.new_key.hexadecimal,
        }

    @classmethod
    def from_json(cls, value: JsonValue) -> Place:
        """Read what `to_json` wrote.

        Raises:
            LedgerFault: `SCHEMA`.
        """
        fields = {name: str(item) for name, item in _PLACE.read(value, "rotation").items()}
        key = PublicKey(fields["new_key"])
        return cls(fields["role"], fields["genesis"], int(fields["seq"]), fields["prev"], key)


@dataclass(frozen=True)
class Rotation:
    """One `key_rotate` record as the partner shows it.

    Attributes:
        genesis: hash of the ledger's first record.
        record: the record.
        path: Merkle nodes from the record to the root of the head it is shown with.
    """

    genesis: str
    record: Record
    path: Proof

    def to_json(self) -> dict[str, JsonValue]:
        """The record as its canonical line, the path as a list."""
        return {"genesis": self.genesis, "record": self.record.line[:-1].decode(), "path": list(self.path)}

    @classmethod
    def from_json(cls, value: JsonValue) -> Rotation:
        """Read what `to_json` wrote; nothing is verified here.

        Raises:
            LedgerFault: `SCHEMA`, `FORM` or `VERSION`.
        """
        fields = _SHOWN.read(value, "rotation")
        path = fields["path"]
        nodes = tuple(str(node) for node in path) if isinstance(path, tuple) else ()
        return cls(str(fields["genesis"]), read_line(str(fields["record"]).encode(), 0), nodes)


def rotates(record: Record, old_key: PublicKey | None, *, genesis: str) -> bool:
    """Whether a `key_rotate` record bears the signatures of `old_key`, unless there was none, and of the new key.

    Raises:
        LedgerFault: `SCHEMA`, or `KEY` if the new key is none.
    """
    place = Place(record.text("role"), genesis, record.seq, record.prev, PublicKey(record.text("new_key")))
    old_signature, old_key_id = record.maybe_text("old_signature"), record.maybe_text("old_key_id")
    if (old_key_id, record.text("new_key_id")) != (old_key.key_id if old_key else None, place.new_key.key_id):
        return False
    if not place.new_key.verifies(record.text("new_signature"), place.statement, domain=ROTATION_DOMAIN):
        return False
    if old_key is None or old_signature is None:
        return old_key is None and old_signature is None
    return old_key.verifies(old_signature, place.statement, domain=ROTATION_DOMAIN)


def follow(rotations: Sequence[Rotation], key: PublicKey, shown: SignedHead, *, since: int) -> tuple[Rotation, ...]:
    """The rotations that lead from `key` to the key that signs `shown`, checked by the rule above.

    Args:
        rotations: as the partner shows them, in order; those up to the one that brought `key` are passed over.
        key: the key known so far.
        shown: the head beside them.
        since: records of the last head that the partner showed.

    Raises:
        LedgerFault: `SIGNATURE` or `KEY`.
    """
    known = [place for place, item in enumerate(rotations) if _new_key(item.record) == key.hexadecimal]
    followed = tuple(rotations[known[-1] + 1 if known else 0 :])
    for rotation in followed:
        record = rotation.record
        if not _continues(rotation, key, since):
            raise _not_followed(shown.partner, key, "is not signed by both keys for this place of the ledger")
        if not verify_inclusion(record.hash, record.seq, shown.size, rotation.path, shown.root):
            raise _not_followed(shown.partner, key, f"is not record {record.seq} under the head that it shows")
        if record.text("reason") != "scheduled":
            raise LedgerFault(
                FaultCode.KEY,
                f"partner {shown.partner!r} rotates its key {key.key_id} as '{record.text('reason')}'",
                remedy="Ask the partner by another road, then enrol its new key by hand",
            )
        key, since = PublicKey(record.text("new_key")), record.seq + 1
    return followed


def _continues(rotation: Rotation, key: PublicKey, since: int) -> bool:
    record = rotation.record
    if record.type != RecordType.KEY_ROTATE or record.seq < since or not is_authentic(record, key):
        return False
    return record.text("role") == "partner" and rotates(record, key, genesis=rotation.genesis)


def _new_key(record: Record) -> str:
    return str(record.body.get("new_key"))


def _not_followed(partner: str, key: PublicKey, finding: str) -> LedgerFault:
    return LedgerFault(
        FaultCode.SIGNATURE,
        f"the rotation of {partner!r} from key {key.key_id} {finding}",
        remedy="Have the partner show all rotations since its last head, in order",
    )


def rotations_from_json(value: JsonValue) -> tuple[Rotation, ...]:
    """Read a list of what `Rotation.to_json` wrote.

    Raises:
        LedgerFault: `SCHEMA`, `FORM` or `VERSION`.
    """
    if not isinstance(value, list):
        raise LedgerFault(FaultCode.SCHEMA, "the rotations are no list", remedy="Upgrade the older side")
    return tuple(Rotation.from_json(item) for item in value)
