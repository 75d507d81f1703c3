"""Heads: how a whole ledger is named in three values, who signed such a name, and where the partner keeps its last one.

A head says "the ledger has `size` records, the last is `hash`, all of them make `root`". The partner signs it for the
server (`SignedHead`), and with it the proof that the ledger grew out of the head before (`SignedGrowth`); the server
signs the head back (`Countersignature`). Each signature covers a nonce, so that an old one cannot be shown again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from mmrec_model.canonical import JsonValue, canonical_json
from mmrec_model.privacy.bodies import DIGEST, KEY_ID, NONCE, SIGNATURE, TEXT
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.fields import Field, Rows, Table, Whole
from mmrec_model.privacy.files import file_faults
from mmrec_model.privacy.keys import PublicKey, SigningKey
from mmrec_model.privacy.merkle import EMPTY_ROOT, Proof, verify_consistency
from mmrec_model.storage import write_atomically

HEAD_DOMAIN: Final = b"dp-ledger-head/v1\0"
GROWTH_DOMAIN: Final = b"dp-ledger-growth/v1\0"
COUNTERSIGN_DOMAIN: Final = b"dp-ledger-countersign/v1\0"

_HEAD: Final[Mapping[str, Field]] = {"size": Whole(), "hash": DIGEST, "root": DIGEST}
SIGNED: Final = Table({"partner": TEXT, **_HEAD, "nonce": NONCE, "key_id": KEY_ID, "signature": SIGNATURE})
GROWTH: Final = Table({"since": Whole(), "nodes": Rows(DIGEST), "signature": SIGNATURE})
_HEAD_FILE: Final = Table({"v": Whole(1), "head": Table(_HEAD), "countersigned": Rows(SIGNED)})


@dataclass(frozen=True)
class Head:
    """A state of a ledger.

    Attributes:
        size: number of records.
        hash: of the last record; zeros for an empty ledger.
        root: Merkle root over all record hashes.
    """

    size: int
    hash: str
    root: str


NO_HEAD: Final = Head(0, "0" * 64, EMPTY_ROOT)
"""The head of a ledger without records."""


@dataclass(frozen=True)
class _Statement:
    partner: str
    size: int
    hash: str
    root: str
    nonce: str
    key_id: str
    signature: str

    @property
    def head(self) -> Head:
        """The head it speaks of."""
        return Head(self.size, self.hash, self.root)

    @property
    def message(self) -> bytes:
        """The signed bytes, without the domain."""
        return _message(self.partner, self.head, self.nonce)

    def to_json(self) -> dict[str, JsonValue]:
        """The fields as a flat mapping."""
        return asdict(self)


@dataclass(frozen=True)
class SignedHead(_Statement):
    """A partner's word for its ledger; two of one size with different roots prove a fork to anyone."""

    def is_signed_by(self, key: PublicKey) -> bool:
        """Whether the partner's `key` made the signature."""
        return self.key_id == key.key_id and key.verifies(self.signature, self.message, domain=HEAD_DOMAIN)


@dataclass(frozen=True)
class Countersignature(_Statement):
    """The server's word that it saw this head of this partner and nothing that contradicts it."""

    def is_signed_by(self, key: PublicKey) -> bool:
        """Whether the server's `key` made the signature."""
        return self.key_id == key.key_id and key.verifies(self.signature, self.message, domain=COUNTERSIGN_DOMAIN)


@dataclass(frozen=True)
class SignedGrowth:
    """A partner's word for how the ledger under a head grew out of its first `since` records.

    It is signed, so that one which does not hold convicts the partner and nobody else could have made it.

    Attributes:
        since: records of the head before.
        nodes: consistency proof from there to the head it is shown with.
        signature: over both and that head with its nonce.
    """

    since: int
    nodes: Proof
    signature: str

    def is_signed_by(self, key: PublicKey, shown: SignedHead) -> bool:
        """Whether the partner's `key` made the signature, for the head `shown`."""
        return key.verifies(self.signature, _growth_message(shown, self.since, self.nodes), domain=GROWTH_DOMAIN)

    def holds(self, before: Head, shown: SignedHead) -> bool:
        """Whether this proves that the ledger under `shown` starts with the one under `before`."""
        return self.since == before.size and verify_consistency(
            before.size, shown.size, before.root, shown.root, self.nodes
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The fields as a mapping."""
        return {"since": self.since, "nodes": list(self.nodes), "signature": self.signature}


StatementT = TypeVar("StatementT", SignedHead, Countersignature)


def sign_head(partner: str, head: Head, nonce: str, key: SigningKey) -> SignedHead:
    """The partner's signature over its head and the server's nonce."""
    signature = key.sign(_message(partner, head, nonce), domain=HEAD_DOMAIN)
    return SignedHead(partner, head.size, head.hash, head.root, nonce, key.public.key_id, signature)


def countersign_head(partner: str, head: Head, nonce: str, key: SigningKey) -> Countersignature:
    """The server's signature over a partner's head and the nonce."""
    signature = key.sign(_message(partner, head, nonce), domain=COUNTERSIGN_DOMAIN)
    return Countersignature(partner, head.size, head.hash, head.root, nonce, key.public.key_id, signature)


def sign_growth(shown: SignedHead, since: int, nodes: Proof, key: SigningKey) -> SignedGrowth:
    """The partner's signature over the proof of growth that goes with a head."""
    return SignedGrowth(since, nodes, key.sign(_growth_message(shown, since, nodes), domain=GROWTH_DOMAIN))


def growth_from_json(value: JsonValue) -> SignedGrowth:
    """Read what `SignedGrowth.to_json` wrote; the signature is not checked here.

    Raises:
        LedgerFault: `SCHEMA`.
    """
    return SignedGrowth(**GROWTH.read(value, "SignedGrowth"))  # type: ignore[arg-type]


def statement_from_json(kind: type[StatementT], value: JsonValue) -> StatementT:
    """Read what `to_json` wrote; the signature is not checked here.

    Raises:
        LedgerFault: `SCHEMA`.
    """
    fields = SIGNED.read(value, kind.__name__)
    return kind(**fields)  # type: ignore[arg-type]


def head_from_json(value: JsonValue) -> Head:
    """Read a head from its three fields.

    Raises:
        LedgerFault: `SCHEMA`.
    """
    return Head(**Table(_HEAD).read(value, "Head"))  # type: ignore[arg-type]


class HeadFile:
    """The partner's own memory of the last head, apart from the ledger, and the last countersignature per server key.

    It makes a plain truncation of the ledger visible without any server; it should lie on another medium where there
    is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = NO_HEAD
        self.countersigned: tuple[Countersignature, ...] = ()

    def load(self) -> bool:
        """Read the file; False if there is none.

        Raises:
            LedgerFault: `HEAD` if it is damaged, `FILE` if it cannot be read.
        """
        if not self.path.exists():
            return False
        with file_faults(self.path):
            content = self.path.read_bytes()
        try:
            fields = json.loads(content)
            _HEAD_FILE.read(fields, "head file")
            self.head = head_from_json(fields["head"])
            self.countersigned = tuple(statement_from_json(Countersignature, item) for item in fields["countersigned"])
        except (ValueError, RecursionError, LedgerFault) as error:
            raise LedgerFault(
                FaultCode.HEAD,
                f"the head file {self.path} cannot be read: {error}",
                remedy="Restore it, or remove it and open the ledger with the head that the server countersigned",
            ) from error
        return True

    def save(self, head: Head, receipt: Countersignature | None = None) -> None:
        """Replace the head; a `receipt` replaces the former one of the same server key.

        Raises:
            LedgerFault: `FILE` if it cannot be written.
        """
        self.head = head
        if receipt is not None:
            others = tuple(item for item in self.countersigned if item.key_id != receipt.key_id)
            self.countersigned = (*others, receipt)
        document: dict[str, JsonValue] = {
            "v": 1,
            "head": asdict(head),
            "countersigned": [item.to_json() for item in self.countersigned],
        }
        with file_faults(self.path):
            write_atomically(self.path, canonical_json(document) + b"\n", mode=0o600)


def require_prefix(shown: Head, size: int, root_at: Callable[[int], str], *, whose: str) -> None:
    """Refuse a ledger of `size` records that does not start with the `shown` head.

    Args:
        shown: a head that was shown before.
        size: records of the ledger now.
        root_at: Merkle root of the first so many records.
        whose: who kept the head, for the message.

    Raises:
        LedgerFault: `ROLLBACK` or `FORK`.
    """
    if shown.size > size:
        raise LedgerFault(
            FaultCode.ROLLBACK,
            f"the ledger has {size} records, {whose} says {shown.size}",
            remedy="Restore the whole ledger; an older copy must not be continued",
        )
    if root_at(shown.size) != shown.root:
        raise LedgerFault(
            FaultCode.FORK,
            f"the first {shown.size} records are not those of {whose}",
            remedy="Find the copy that was continued elsewhere; neither may be continued before that is explained",
        )


def _growth_message(shown: SignedHead, since: int, nodes: Proof) -> bytes:
    grown: Mapping[str, JsonValue] = {"since": since, "nodes": list(nodes)}
    head: Mapping[str, JsonValue] = {"partner": shown.partner, **asdict(shown.head), "nonce": shown.nonce}
    return canonical_json({**head, **grown})


def _message(partner: str, head: Head, nonce: str) -> bytes:
    fields: Mapping[str, JsonValue] = {"partner": partner, **asdict(head), "nonce": nonce}
    return canonical_json(dict(fields))
