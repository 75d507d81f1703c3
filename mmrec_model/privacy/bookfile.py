"""The file of a head book: what the server knows of every partner, as one JSON object that is replaced as a whole.

    {"v": 2, "partners": {NAME: {"public_key", "former", "nonce", "shown", "receipt", "fork"}}}

`former` says how the key in force came to be: every earlier key with the `key_rotate` record that ended it, or null
where an operator replaced it by hand. Version 1 had no `former` and forks without growth; it is still read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.privacy.bodies import DIGEST, NONCE
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fields import Nullable, Rows, Table, Text
from mmrec_model.privacy.files import file_faults
from mmrec_model.privacy.fork import FORK, ForkProof
from mmrec_model.privacy.heads import NO_HEAD, SIGNED, Countersignature, Head, SignedHead, statement_from_json
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.storage import write_atomically

VERSION: Final = 2

_LINE: Final = Text(r"[^\x00-\x1f]{2,65536}")
_ENTRY: Final = Table(
    {
        "public_key": DIGEST,
        "former": Rows(Table({"public_key": DIGEST, "record": Nullable(_LINE)})),
        "nonce": Nullable(NONCE),
        "shown": Nullable(SIGNED),
        "receipt": Nullable(SIGNED),
        "fork": Nullable(FORK),
    }
)


@dataclass(frozen=True)
class FormerKey:
    """A key that was in force, and the line of the `key_rotate` record that ended it; None for an operator's hand."""

    public_key: PublicKey
    record: str | None


@dataclass(frozen=True)
class Entry:
    """One partner.

    Attributes:
        public_key: the key in force.
        former: keys before it, oldest first.
        nonce: asked for last and not answered yet.
        shown: the last head that was countersigned.
        receipt: its countersignature.
        fork: the proof that blocks this partner, until an operator explains it.
    """

    public_key: PublicKey
    former: tuple[FormerKey, ...] = ()
    nonce: str | None = None
    shown: SignedHead | None = None
    receipt: Countersignature | None = None
    fork: ForkProof | None = None

    @property
    def head(self) -> Head:
        """The last head; `NO_HEAD` if none was shown."""
        return NO_HEAD if self.shown is None else self.shown.head

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """All keys, the one in force last."""
        return (*(item.public_key for item in self.former), self.public_key)

    def to_json(self) -> dict[str, JsonValue]:
        """The entry as it stands in the file."""
        return {
            "public_key": self.public_key.hexadecimal,
            "former": [{"public_key": item.public_key.hexadecimal, "record": item.record} for item in self.former],
            "nonce": self.nonce,
            "shown": self.shown.to_json() if self.shown else None,
            "receipt": self.receipt.to_json() if self.receipt else None,
            "fork": self.fork.to_json() if self.fork else None,
        }


def write_book(path: Path, entries: Mapping[str, Entry]) -> None:
    """Replace the file.

    Raises:
        LedgerFault: `FILE` if it cannot be written.
    """
    partners: dict[str, JsonValue] = {name: entry.to_json() for name, entry in entries.items()}
    with file_faults(path):
        write_atomically(path, canonical_json({"v": VERSION, "partners": partners}) + b"\n")


def read_book(path: Path) -> dict[str, Entry]:
    """The entries by partner; none if there is no file.

    Raises:
        LedgerFault: `HEAD` if the file is damaged, `FILE` if it cannot be read.
    """
    if not path.exists():
        return {}
    with file_faults(path):
        content = path.read_bytes()
    try:
        document = json.loads(content)
        if set(document) != {"v", "partners"} or document["v"] not in {1, VERSION}:
            raise ValueError(f"not a book of version {VERSION}")
        entries = document["partners"].items()
        return {name: _read_entry(name, _upgraded(value) if document["v"] == 1 else value) for name, value in entries}
    except (ValueError, TypeError, AttributeError, RecursionError, LedgerFault) as error:
        raise LedgerFault(
            FaultCode.HEAD, f"the head book {path} cannot be read: {error}", remedy="Restore it from a backup"
        ) from error


def _upgraded(value: JsonValue) -> JsonValue:
    if not isinstance(value, dict):
        return value
    fork = value.get("fork")
    return {**value, "former": [], "fork": {**fork, "growth": None} if isinstance(fork, dict) else fork}


def _read_entry(name: str, value: JsonValue) -> Entry:
    _ENTRY.read(value, name)
    fields = value if isinstance(value, dict) else {}
    nonce, shown, receipt, fork, former = (fields[part] for part in ("nonce", "shown", "receipt", "fork", "former"))
    return Entry(
        PublicKey(str(fields["public_key"])),
        tuple(_read_former(item) for item in former) if isinstance(former, list) else (),
        None if nonce is None else str(nonce),
        None if shown is None else statement_from_json(SignedHead, shown),
        None if receipt is None else statement_from_json(Countersignature, receipt),
        None if fork is None else ForkProof.from_json(fork),
    )


def _read_former(value: JsonValue) -> FormerKey:
    fields = value if isinstance(value, dict) else {}
    record = fields["record"]
    return FormerKey(PublicKey(str(fields["public_key"])), None if record is None else str(record))
