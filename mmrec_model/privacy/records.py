r"""The records of a privacy ledger: which types exist, what each may hold, how one is hashed and signed.

    hash = SHA-256(0x00 || "dp-ledger/v1\0" || canonical JSON of the record without `hash` and `sig`)
    sig  = Ed25519("dp-ledger/v1\0" || hash)

A body follows the table of its type in `bodies`. Floats are decimal strings in `Record.body`, which is what was hashed,
and floats in `Record.values`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.privacy.bodies import BODIES, RecordType
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fields import Table
from mmrec_model.privacy.keys import PublicKey, SigningKey

RECORD_VERSION: Final = 1
DOMAIN: Final = b"dp-ledger/v1\0"
NO_RECORD: Final = "0" * 64
"""`prev` of the first record."""
LINE_LIMIT: Final = 1 << 16
"""Longest line, in bytes."""

ValueT = TypeVar("ValueT")

_ENVELOPE: Final = frozenset({"v", "seq", "prev", "type", "body", "hash", "sig"})


@dataclass(frozen=True)
class Record:
    """One line of a ledger.

    Attributes:
        seq: position, from 0.
        prev: hash of the record before, 64 hexadecimal digits; zeros for the first.
        type: one of `RecordType`, once `values` was read.
        body: the fields in stored form.
        hash: of all of the above and the version.
        sig: over `hash`, by the partner's key in force.
    """

    seq: int
    prev: str
    type: str
    body: dict[str, JsonValue]
    hash: str
    sig: str

    @property
    def content(self) -> dict[str, JsonValue]:
        """What is hashed."""
        return {"v": RECORD_VERSION, "seq": self.seq, "prev": self.prev, "type": self.type, "body": self.body}

    @property
    def line(self) -> bytes:
        """The bytes in the file, with the newline."""
        return canonical_json({**self.content, "hash": self.hash, "sig": self.sig}) + b"\n"

    @cached_property
    def values(self) -> Mapping[str, object]:
        """The body with floats as floats.

        Raises:
            LedgerFault: `SCHEMA` or `LEAK`: the body does not follow the table of its type.
        """
        if self.type not in BODIES:
            raise LedgerFault(
                FaultCode.SCHEMA,
                f"record {self.seq} has the unknown type {self.type[:80]!r}",
                remedy=f"Version {RECORD_VERSION} knows {', '.join(RecordType)}; read it with a newer release",
            )
        return Table(BODIES[RecordType(self.type)]).read(self.body, f"record {self.seq} ({self.type})")

    def text(self, name: str) -> str:
        """A value of the body that is text; like its sisters it raises TypeError if the table says otherwise."""
        return _typed(self.values[name], str)

    def whole(self, name: str) -> int:
        """A value of the body that is a whole number."""
        return _typed(self.values[name], int)

    def number(self, name: str) -> float:
        """A value of the body that is a float."""
        return _typed(self.values[name], float)

    def table(self, name: str) -> dict[str, Any]:
        """A value of the body that is an object."""
        return _typed(self.values[name], dict)

    def maybe_text(self, name: str) -> str | None:
        """Text or null."""
        return None if self.values[name] is None else self.text(name)

    def maybe_number(self, name: str) -> float | None:
        """A float or null."""
        return None if self.values[name] is None else self.number(name)

    @property
    def charge(self) -> dict[str, object] | None:
        """The mechanism that this record spends: a reserve's, or a priced release's."""
        if self.type not in {RecordType.RESERVE, RecordType.RELEASE}:
            return None
        return None if self.values["mechanism"] is None else dict(self.table("mechanism"))


def record_hash(content: Mapping[str, JsonValue]) -> str:
    """Hash of a record without `hash` and `sig`; it is also the record's leaf in the Merkle tree."""
    return hashlib.sha256(b"\0" + DOMAIN + canonical_json(dict(content))).hexdigest()


def is_authentic(record: Record, key: PublicKey) -> bool:
    """Whether one record states its own hash and `key` signed it; its place in a chain is not looked at."""
    hashed = record_hash(record.content) == record.hash
    return hashed and key.verifies(record.sig, bytes.fromhex(record.hash), domain=DOMAIN)


def sign_record(seq: int, prev: str, record_type: str, body: Mapping[str, object], key: SigningKey) -> Record:
    """Build the record that continues a chain.

    Raises:
        LedgerFault: `SCHEMA` or `LEAK` if the body does not follow the table of its type.
    """
    unsigned = Record(seq, prev, str(record_type), stored_form(body), hash="", sig="")
    _ = unsigned.values
    digest = record_hash(unsigned.content)
    signature = key.sign(bytes.fromhex(digest), domain=DOMAIN)
    record = Record(unsigned.seq, prev, unsigned.type, unsigned.body, digest, signature)
    if len(record.line) > LINE_LIMIT:
        raise LedgerFault(
            FaultCode.SCHEMA,
            f"record {seq} ({record_type}) takes {len(record.line)} bytes, the limit is {LINE_LIMIT}",
            remedy="Store a digest of the long value instead",
        )
    return record


def stored_form(body: Mapping[str, object]) -> dict[str, JsonValue]:
    """`body` as it stands in the file: floats as decimal strings, tuples as lists.

    Raises:
        LedgerFault: `SCHEMA` if a value has no JSON form or is not finite.
    """
    try:
        stored: dict[str, JsonValue] = json.loads(canonical_json(_built_in(dict(body))))
    except (TypeError, ValueError, RecursionError) as error:
        raise LedgerFault(
            FaultCode.SCHEMA,
            f"a body has no canonical form: {error}",
            remedy="Use text, whole numbers and finite floats",
        ) from error
    return stored


def read_line(line: bytes, seq: int) -> Record:
    """Read one line without its newline; everything but form and version is still to be checked.

    Args:
        line: at most `LINE_LIMIT` bytes.
        seq: the place in the file, for the message.

    Raises:
        LedgerFault: `FORM` or `VERSION`.
    """
    try:
        fields = json.loads(line) if len(line) <= LINE_LIMIT else None
        whole = isinstance(fields, dict) and canonical_json(fields) == line
    except (ValueError, RecursionError):
        fields, whole = None, False
    if not whole or not isinstance(fields, dict) or "v" not in fields:
        raise _malformed(seq, "is not one canonical JSON object")
    if fields["v"] != RECORD_VERSION or isinstance(fields["v"], bool):
        raise LedgerFault(
            FaultCode.VERSION,
            f"line {seq + 1} has the record version {str(fields['v'])[:20]!r}, this release knows {RECORD_VERSION}",
            remedy="Read it with the release that wrote it",
        )
    if set(fields) != _ENVELOPE or type(fields["seq"]) is not int or not isinstance(fields["body"], dict):
        raise _malformed(seq, f"does not have exactly the fields {', '.join(sorted(_ENVELOPE))} with their types")
    texts = [fields[name] for name in ("prev", "type", "hash", "sig")]
    if not all(isinstance(text, str) for text in texts):
        raise _malformed(seq, "has a hash, type or signature that is not text")
    return Record(**{name: value for name, value in fields.items() if name != "v"})


def _typed(value: object, kind: type[ValueT]) -> ValueT:
    if not isinstance(value, kind):
        raise TypeError(f"the value is {type(value).__name__}, not {kind.__name__}")
    return value


def _built_in(value: object) -> JsonValue:
    # A float of numpy is a float, but its repr is not a decimal number.
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {name: _built_in(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_built_in(item) for item in value]
    return value  # type: ignore[return-value]  # anything else is refused by the encoder


def _malformed(seq: int, problem: str) -> LedgerFault:
    return LedgerFault(
        FaultCode.FORM, f"line {seq + 1} {problem}", remedy="The file was edited; restore it and compare the head"
    )
