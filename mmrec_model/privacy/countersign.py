"""The server's side: one book with the last head of every partner, and the rule by which a head is countersigned.

A head is countersigned if, in this order:
1. the partner is known and its signature is valid (`KEY`, `SIGNATURE`);
2. no fork of this partner is open (`FORK`);
3. it does not contradict the last head of the same size; if it does, the two signatures are kept as a proof (`FORK`);
4. it answers the nonce that was asked for last; the same answer again gives the same countersignature (`NONCE`);
5. it is not shorter than the last head (`ROLLBACK`);
6. a consistency proof shows that it only grew (`FORK`).

The book is one JSON file, replaced as a whole before a signature leaves. It holds nothing private. One process uses it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.privacy.bodies import DIGEST, NONCE, RecordType
from mmrec_model.privacy.chain import is_authentic
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fields import Nullable, Table
from mmrec_model.privacy.files import file_faults
from mmrec_model.privacy.heads import (
    NO_HEAD,
    SIGNED,
    Countersignature,
    Head,
    SignedHead,
    countersign_head,
    statement_from_json,
)
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.merkle import verify_consistency
from mmrec_model.privacy.records import Record
from mmrec_model.storage import write_atomically

_FORK = Table({"first": SIGNED, "second": SIGNED})
_ENTRY = Table(
    {
        "public_key": DIGEST,
        "nonce": Nullable(NONCE),
        "shown": Nullable(SIGNED),
        "receipt": Nullable(SIGNED),
        "fork": Nullable(_FORK),
    }
)


@dataclass(frozen=True)
class ForkProof:
    """Two heads of one size, signed by one partner, that differ: whoever has the public key can check it."""

    first: SignedHead
    second: SignedHead

    def verifies(self, key: PublicKey) -> bool:
        """Whether this proves that the holder of `key` showed two histories."""
        same_place = (self.first.partner, self.first.size) == (self.second.partner, self.second.size)
        differs = self.first.head != self.second.head
        return same_place and differs and self.first.is_signed_by(key) and self.second.is_signed_by(key)

    def to_json(self) -> dict[str, JsonValue]:
        """Both heads as mappings."""
        return {"first": self.first.to_json(), "second": self.second.to_json()}

    @classmethod
    def from_json(cls, value: JsonValue) -> ForkProof:
        """Read what `to_json` wrote.

        Raises:
            LedgerFault: `SCHEMA`.
        """
        _FORK.read(value, "ForkProof")
        fields = value if isinstance(value, dict) else {}
        return cls(statement_from_json(SignedHead, fields["first"]), statement_from_json(SignedHead, fields["second"]))


@dataclass(frozen=True)
class Challenge:
    """What the server asks of a partner: its head with this nonce, and a proof of growth from `size` records."""

    partner: str
    nonce: str
    size: int


@dataclass(frozen=True)
class _Entry:
    public_key: PublicKey
    nonce: str | None = None
    shown: SignedHead | None = None
    receipt: Countersignature | None = None
    fork: ForkProof | None = None

    @property
    def head(self) -> Head:
        return NO_HEAD if self.shown is None else self.shown.head


class HeadBook:
    """The heads of all partners.

    Args:
        path: the file; read if it exists.
        key: the server's key.

    Raises:
        LedgerFault: `HEAD` if the file cannot be read.
    """

    def __init__(self, path: Path, key: SigningKey) -> None:
        self.path = path
        self._key = key
        self._entries = _read_book(path)

    @property
    def partners(self) -> tuple[str, ...]:
        """Names of all enrolled partners."""
        return tuple(sorted(self._entries))

    def enrol(self, partner: str, public_key: PublicKey) -> None:
        """Take in a new partner; a second enrolment with the same key does nothing.

        Raises:
            LedgerFault: `KEY` if the partner has another key; that changes by `rotate` alone.
        """
        known = self._entries.get(partner)
        if known is None:
            self._keep(partner, _Entry(public_key))
        elif known.public_key != public_key:
            raise LedgerFault(
                FaultCode.KEY,
                f"partner {partner!r} is enrolled with key {known.public_key.key_id}, not {public_key.key_id}",
                remedy="Ask the partner for its key_rotate record",
            )

    def rotate(self, partner: str, record: Record) -> None:
        """Follow a partner to its new key, by the `key_rotate` record that the key known so far signed.

        Raises:
            LedgerFault: `SIGNATURE` if it did not, or `KEY` if the partner is unknown.
        """
        entry = self._entry(partner)
        valid = record.type == RecordType.KEY_ROTATE and is_authentic(record, entry.public_key)
        if not valid or record.text("role") != "partner":
            raise LedgerFault(
                FaultCode.SIGNATURE,
                f"the record is no rotation of partner {partner!r}'s key {entry.public_key.key_id}",
                remedy="Send all rotations since enrolment, in order",
            )
        self._keep(partner, replace(entry, public_key=PublicKey(record.text("new_key"))))

    def challenge(self, partner: str) -> Challenge:
        """A fresh nonce for the partner's next head; an older nonce is void from now on.

        Raises:
            LedgerFault: `KEY` if the partner is unknown, `FORK` while a fork is open.
        """
        entry = self._entry(partner)
        _require_no_fork(partner, entry)
        nonce = secrets.token_hex(16)
        self._keep(partner, replace(entry, nonce=nonce))
        return Challenge(partner, nonce, entry.head.size)

    def countersign(self, shown: SignedHead, growth: Sequence[str] = ()) -> Countersignature:
        """Check a head by the rule above, remember it, sign it.

        Args:
            shown: the partner's answer to the last challenge.
            growth: consistency proof from the challenge's size to this head's.

        Raises:
            LedgerFault: with the code of the first check that fails.
        """
        entry = self._entry(shown.partner)
        if not shown.is_signed_by(entry.public_key):
            raise LedgerFault(
                FaultCode.SIGNATURE,
                f"the head of {shown.partner!r} is not signed by its key {entry.public_key.key_id}",
                remedy="Refuse the message; after a rotation the partner sends its key_rotate record first",
            )
        _require_no_fork(shown.partner, entry)
        self._require_one_history(shown, entry)
        if entry.receipt is not None and (shown.head, shown.nonce) == (entry.head, entry.receipt.nonce):
            return entry.receipt
        _require_growth(shown, entry, growth)
        receipt = countersign_head(shown.partner, shown.head, shown.nonce, self._key)
        self._keep(shown.partner, replace(entry, nonce=None, shown=shown, receipt=receipt))
        return receipt

    def head(self, partner: str) -> Head:
        """The last head of a partner; size 0 if none was shown.

        Raises:
            LedgerFault: `KEY` if the partner is unknown.
        """
        return self._entry(partner).head

    def receipt(self, partner: str) -> Countersignature | None:
        """The last countersignature for a partner."""
        return self._entry(partner).receipt

    def fork(self, partner: str) -> ForkProof | None:
        """The proof of a fork, if the partner showed one."""
        return self._entry(partner).fork

    def _require_one_history(self, shown: SignedHead, entry: _Entry) -> None:
        if entry.shown is None or shown.size != entry.head.size or shown.head == entry.head:
            return
        forked = replace(entry, fork=ForkProof(entry.shown, shown))
        self._keep(shown.partner, forked)
        _require_no_fork(shown.partner, forked)

    def _entry(self, partner: str) -> _Entry:
        if partner not in self._entries:
            raise LedgerFault(
                FaultCode.KEY, f"partner {partner!r} is not enrolled", remedy="Enrol it with its public key first"
            )
        return self._entries[partner]

    def _keep(self, partner: str, entry: _Entry) -> None:
        entries = {**self._entries, partner: entry}
        document: dict[str, JsonValue] = {"v": 1, "partners": {name: _to_json(item) for name, item in entries.items()}}
        with file_faults(self.path):
            write_atomically(self.path, canonical_json(document) + b"\n")
        self._entries = entries


def _require_no_fork(partner: str, entry: _Entry) -> None:
    if entry.fork is not None:
        raise LedgerFault(
            FaultCode.FORK,
            f"partner {partner!r} signed two different heads of {entry.fork.first.size} records",
            remedy="Stop its runs; show both signed heads to the partner and its auditor",
        )


def _require_growth(shown: SignedHead, entry: _Entry, growth: Sequence[str]) -> None:
    if shown.nonce != entry.nonce:
        raise LedgerFault(
            FaultCode.NONCE,
            f"the head of {shown.partner!r} does not answer the last challenge",
            remedy="Drop the message: it is late or a replay; challenge again",
        )
    if shown.size < entry.head.size:
        raise LedgerFault(
            FaultCode.ROLLBACK,
            f"partner {shown.partner!r} shows {shown.size} records, it showed {entry.head.size} before",
            remedy="The partner restores its whole ledger; an older copy must not be continued",
        )
    if not verify_consistency(entry.head.size, shown.size, entry.head.root, shown.root, growth):
        raise LedgerFault(
            FaultCode.FORK,
            f"partner {shown.partner!r}: no proof that its {shown.size} records start with the {entry.head.size} known",
            remedy="Ask for the ledger itself; if the first records differ, another copy was continued",
        )


def _to_json(entry: _Entry) -> JsonValue:
    return {
        "public_key": entry.public_key.hexadecimal,
        "nonce": entry.nonce,
        "shown": entry.shown.to_json() if entry.shown else None,
        "receipt": entry.receipt.to_json() if entry.receipt else None,
        "fork": entry.fork.to_json() if entry.fork else None,
    }


def _read_book(path: Path) -> dict[str, _Entry]:
    if not path.exists():
        return {}
    with file_faults(path):
        content = path.read_bytes()
    try:
        document = json.loads(content)
        if set(document) != {"v", "partners"} or document["v"] != 1:
            raise ValueError("not a book of version 1")
        return {name: _read_entry(name, value) for name, value in document["partners"].items()}
    except (ValueError, TypeError, AttributeError, RecursionError, LedgerFault) as error:
        raise LedgerFault(
            FaultCode.HEAD, f"the head book {path} cannot be read: {error}", remedy="Restore it from a backup"
        ) from error


def _read_entry(name: str, value: JsonValue) -> _Entry:
    _ENTRY.read(value, name)
    fields = value if isinstance(value, dict) else {}
    shown, receipt, fork = fields["shown"], fields["receipt"], fields["fork"]
    return _Entry(
        PublicKey(str(fields["public_key"])),
        None if fields["nonce"] is None else str(fields["nonce"]),
        None if shown is None else statement_from_json(SignedHead, shown),
        None if receipt is None else statement_from_json(Countersignature, receipt),
        None if fork is None else ForkProof.from_json(fork),
    )
