"""A signed chain of records in one file: verified when opened, locked while open, durable when `append` returns.

Recovery after a crash, in this order, so that a second crash at any point loses nothing: the chain is verified; it is
compared with every head that was ever shown, and nothing was changed if it is refused; the bytes of a torn last line
are copied aside; they are cut off; a `recovered` record states their digest. A record whose newline alone is missing
counts. What a chain cannot show is a missing tail: for that the last head is kept apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Self, TypeAlias

from mmrec_model.canonical import sha256_hex
from mmrec_model.closing import Closing
from mmrec_model.errors import BudgetExhausted
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.chain import Chain, read_chain, stated_key
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import AppendFile, create_file, file_faults, locked_folder
from mmrec_model.privacy.heads import Countersignature, Head, HeadFile, require_prefix
from mmrec_model.privacy.history import History
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.records import NO_RECORD, Record, sign_record
from mmrec_model.privacy.rules import check

Pricing: TypeAlias = Callable[[Sequence[Mapping[str, object]], float], float]
"""Epsilon of a list of mechanisms at a delta; infinity for one without noise."""


class Journal(Closing):
    """One open chain; use it as a context, or `close` it.

    `create` and `open` make one. With a `price`, no reserve or priced release is written that would make the total
    exceed the epsilon budget in force.
    """

    def __init__(self, file: AppendFile, heads: HeadFile, key: SigningKey, history: History) -> None:
        self._file = file
        self._heads = heads
        self._key = key
        self._history = history
        self._price: Pricing | None = None
        self._mutex = threading.RLock()

    @classmethod
    def create(
        cls,
        path: Path,
        key: SigningKey,
        body: Mapping[str, object],
        *,
        head_path: Path | None = None,
        price: Pricing | None = None,
    ) -> Self:
        """Start a ledger with its `open` record.

        Args:
            path: file to make, JSON lines.
            key: the partner's key.
            body: fields of `open`; `key_id` and `public_key` are those of `key` and need not be given.
            head_path: where the last head is kept; `path` with the ending `.head` by default.
            price: see the class.

        Raises:
            LedgerFault: `EXISTS` if there is a ledger, or the head of a former one; `SCHEMA` for a bad body.
        """
        named = {"key_id": key.public.key_id, "public_key": key.public.hexadecimal}
        record = sign_record(0, NO_RECORD, RecordType.OPEN, {**named, **body}, key)
        _require_key(PublicKey(record.text("public_key")), key)
        check(History(), record)
        heads = HeadFile(head_path or default_head_path(path))
        with locked_folder(path.parent):
            if path.exists() or (heads.load() and heads.head.size > 1):
                raise LedgerFault(
                    FaultCode.EXISTS,
                    f"there is, or was, a ledger: {path} exists or {heads.path} remembers {heads.head.size} records",
                    remedy="Open or restore it; a spent budget does not start again",
                )
            heads.save(Head(1, record.hash, record.hash))
            create_file(path, record.line, mode=0o600)
        return cls.open(path, key, head_path=head_path, price=price)

    @classmethod
    def open(
        cls,
        path: Path,
        key: SigningKey,
        *,
        pinned: Head | None = None,
        head_path: Path | None = None,
        price: Pricing | None = None,
        accept_missing_head: bool = False,
    ) -> Self:
        """Verify a ledger, compare it with every known head, recover a torn last line, and take it for writing.

        Args:
            path: the file.
            key: the partner's key in force.
            pinned: the head that the server, or an external anchor, saw last.
            head_path: where the last own head is kept; `path` with the ending `.head` by default.
            price: see the class.
            accept_missing_head: open although neither `pinned` nor the head file says how long the ledger was.

        Raises:
            LedgerFault: with the code of the first check that fails; nothing was changed then.
        """
        file = AppendFile(path)
        try:
            chain = read_chain(file.read(), key.public)
            _require_key(chain.history.keys["partner"], key)
            heads = HeadFile(head_path or default_head_path(path))
            if not heads.load() and pinned is None and not accept_missing_head:
                raise _head_missing(heads.path)
            _compare(chain.history, heads, pinned)
            journal = cls(file, heads, key, chain.history)
            journal._price = price
            journal._recover(chain)
        except BaseException:
            file.close()
            raise
        return journal

    def append(self, record_type: str, body: Mapping[str, object]) -> Record:
        """Check, sign and write one record; it is durable when this returns.

        Raises:
            LedgerFault: the record is refused, or the file cannot be written (`BROKEN`).
            BudgetExhausted: the record would spend more than the budget in force.
        """
        with self._mutex:
            history = self._history
            record = sign_record(len(history.records), history.last_hash, record_type, body, self._key)
            check(history, record)
            self._require_budget(record)
            self._file.append(record.line)
            history.apply(record)
            self._remember_head()
            return record

    @property
    def history(self) -> History:
        """Everything that follows from the records; to be read only."""
        return self._history

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, in order."""
        return tuple(self._history.records)

    @property
    def head(self) -> Head:
        """The state after the last record."""
        return self._history.head

    def close(self) -> None:
        """Release the lock; the ledger itself goes on."""
        self._file.close()

    def _require_budget(self, record: Record) -> None:
        if record.charge is None or self._price is None:
            return
        budget = self._history.budget
        epsilon = self._price([*self._history.spent(), record.charge], budget.delta)
        if budget.epsilon is not None and not epsilon <= budget.epsilon:
            raise BudgetExhausted(
                f"with this {record.type} epsilon would be {epsilon:.6g}, the budget is {budget.epsilon:.6g}",
                remedy="Stop this run, or have the budget changed by partner and governance",
            )

    def _recover(self, chain: Chain) -> None:
        if chain.tail:
            self._set_aside(chain)
        elif not chain.newline:
            self._file.append(b"\n")
        for kept in () if self._history.closed else self._torn_files():
            with file_faults(kept):
                content = kept.read_bytes()
            if (RecordType.RECOVERED, sha256_hex(content)) not in self._history.once:
                body = {"torn_digest": sha256_hex(content), "torn_bytes": len(content), "kept_as": kept.name}
                self.append(RecordType.RECOVERED, body)
        self._remember_head()

    def _remember_head(self, receipt: Countersignature | None = None) -> None:
        try:
            self._heads.save(self.head, receipt)
        except LedgerFault:
            # The record is written, so it is spent; without its head the next one may not follow.
            self.close()
            raise

    def _set_aside(self, chain: Chain) -> None:
        if self._history.closed:
            raise LedgerFault(
                FaultCode.TORN,
                f"{len(chain.tail)} bytes follow the close of the ledger",
                remedy="Find out who wrote them; a closed ledger takes no more records",
            )
        if not any(file.read_bytes() == chain.tail for file in self._torn_files()):
            names = (self._file.path.with_name(f"{self._file.path.name}.torn-{number}") for number in count(1))
            create_file(next(path for path in names if not path.exists()), chain.tail, mode=0o600)
        self._file.cut(chain.size_bytes)

    def _torn_files(self) -> list[Path]:
        name = self._file.path.name
        kept = [path for path in self._file.path.parent.iterdir() if path.name.startswith(f"{name}.torn-")]
        return sorted(kept)


def inspect_chain(path: Path) -> Chain:
    """Verify a ledger as `Journal.open` does, without its lock, and change nothing: a torn line stays where it is.

    Raises:
        LedgerFault: with the code of the first check that fails.
    """
    heads = HeadFile(default_head_path(path))
    # Before the ledger: a record that is written meanwhile is then more than the head says, never less.
    if not heads.load():
        raise _head_missing(heads.path)
    with file_faults(path):
        content = path.read_bytes()
    chain = read_chain(content, stated_key(content))
    _compare(chain.history, heads, None)
    return chain


def default_head_path(path: Path) -> Path:
    """Where the last head of the ledger at `path` is kept if nothing else is said."""
    return path.with_suffix(".head")


def _compare(history: History, heads: HeadFile, pinned: Head | None) -> None:
    shown = [(heads.head, f"the head file {heads.path.name}")]
    shown += [(receipt.head, "the last countersignature") for receipt in heads.countersigned]
    if pinned is not None:
        shown.append((pinned, "the pinned head"))
    for head, whose in shown:
        require_prefix(head, len(history.records), history.tree.root, whose=whose)


def _require_key(in_force: PublicKey, key: SigningKey) -> None:
    if in_force != key.public:
        raise LedgerFault(
            FaultCode.KEY,
            f"the ledger is signed by key {in_force.key_id}, the key given is {key.public.key_id}",
            remedy="Use the key in force; a new key takes over by rotation",
        )


def _head_missing(path: Path) -> LedgerFault:
    return LedgerFault(
        FaultCode.HEAD,
        f"the head file {path} is missing, so nothing says how long the ledger was",
        remedy="Restore it, or open the ledger with the head that the server countersigned",
    )
