"""Verification of the bytes of a ledger, in numbered checks; each number has a forged fixture in tests/golden/ledger.

For every line, in order:
1. it is one canonical JSON object with exactly the seven fields (`FORM`);
2. its version is known (`VERSION`);
3. `seq` and `prev` continue the chain (`PLACE`);
4. `hash` is the hash of the content (`HASH`);
5. `sig` is a signature over it by the key in force (`SIGNATURE`);
6. the body follows the table of its type (`SCHEMA`, `LEAK`);
7. the record may follow those before it (`rules`);
and at the end
8. there is a first record, and the expected key was in force at the first or the last record (`EMPTY`, `KEY`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.history import History
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.privacy.records import DOMAIN, Record, read_line, record_hash
from mmrec_model.privacy.rules import check


@dataclass(frozen=True)
class Chain:
    """A verified ledger.

    Attributes:
        history: its complete records.
        size_bytes: bytes that they take.
        tail: bytes of a torn last line, which is no record; empty in a whole file.
        newline: whether the last complete record ends its line; False if the crash took just that byte.
    """

    history: History
    size_bytes: int
    tail: bytes
    newline: bool


def read_chain(content: bytes, public_key: PublicKey) -> Chain:
    """Verify all records.

    Args:
        content: the bytes of the file.
        public_key: the key that the reader trusts.

    Raises:
        LedgerFault: with the code of the first check that fails.
    """
    *lines, tail = content.split(b"\n")
    history = History()
    for line in lines:
        history.apply(verify_next(history, line))
    newline = True
    if tail:
        last = _complete(history, tail)
        if last is not None:
            history.apply(last)
            tail, newline = b"", False
    _require_trusted_key(history, public_key)
    return Chain(history, len(content) - len(tail), tail, newline)


def stated_key(content: bytes) -> PublicKey:
    """The key that the first record of a ledger names for itself: enough to find damage, not to know whose it is.

    Raises:
        LedgerFault: the first line is no record.
    """
    return PublicKey(str(read_line(content.partition(b"\n")[0], 0).body.get("public_key")))


def verify_next(history: History, line: bytes) -> Record:
    """Checks 1 to 7 of the line, without its newline, that follows `history`, which is not changed.

    Raises:
        LedgerFault: with the code of the first check that fails.
    """
    place = len(history.records)
    record = read_line(line, place)
    if (record.seq, record.prev) != (place, history.last_hash):
        raise LedgerFault(
            FaultCode.PLACE,
            f"line {place + 1} says it is record {record.seq} and does not continue the line before it",
            remedy="A record was dropped, moved or repeated; restore the file and compare the head",
        )
    if record_hash(record.content) != record.hash:
        raise LedgerFault(
            FaultCode.HASH,
            f"the content of record {place} does not have the hash it states",
            remedy="The record was edited; restore the file and compare the head",
        )
    key = history.keys.get("partner") or _first_key(record)
    if not key.verifies(record.sig, bytes.fromhex(record.hash), domain=DOMAIN):
        raise LedgerFault(
            FaultCode.SIGNATURE,
            f"record {place} is not signed by key {key.key_id}",
            remedy="The record was written by someone else; restore the file and compare the head",
        )
    check(history, record)
    return record


def _first_key(record: Record) -> PublicKey:
    if record.type != RecordType.OPEN:
        raise LedgerFault(
            FaultCode.STATE, f"the first record is {record.type[:80]!r}", remedy="A ledger starts with its open record"
        )
    return PublicKey(record.text("public_key"))


def _complete(history: History, tail: bytes) -> Record | None:
    # A crash can take the newline alone: then the record counts. A shorter line was never acknowledged.
    try:
        return verify_next(history, tail)
    except LedgerFault:
        return None


def _require_trusted_key(history: History, public_key: PublicKey) -> None:
    first = PublicKey(history.genesis.text("public_key"))
    if public_key not in {first, history.keys["partner"]}:
        raise LedgerFault(
            FaultCode.KEY,
            f"the ledger is signed by key {first.key_id}, expected {public_key.key_id}",
            remedy="Check which partner's ledger this is; a chain re-signed by another key proves nothing",
        )
