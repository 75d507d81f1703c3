"""What follows from the records of a ledger: keys and budget in force, open runs, dangling reserves, what is spent.

`History` takes records that were checked (`rules.check`); it reads no file and refuses nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mmrec_model.canonical import canonical_json
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.heads import Countersignature, Head
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.privacy.merkle import MerkleTree
from mmrec_model.privacy.records import NO_RECORD, Record, stored_form
from mmrec_model.privacy.rotation import Place

BUDGET_DOMAIN = b"dp-ledger-budget/v1\0"
_ONCE: dict[str, str] = {
    RecordType.COUNTERSIGN: "nonce",
    RecordType.AUDIT_RESULT: "audit_plan",
    RecordType.RECOVERED: "torn_digest",
}
_KEY_FIELDS = {"partner": "public_key", "server": "server_key", "governance": "governance_key"}


@dataclass(frozen=True)
class Budget:
    """Limits in force; None means that nothing is limited.

    Attributes:
        epsilon: at `delta`, for everything on the ledger.
        rho: of the Rényi filter at the order fixed in `open`.
        delta: failure probability, fixed in `open`.
    """

    epsilon: float | None
    rho: float | None
    delta: float


@dataclass
class History:
    """The records of one ledger and their consequences.

    Attributes:
        records: in order.
        tree: Merkle tree over their hashes.
        by_hash: the same records by hash.
        keys: key in force per role; a role without a key is absent.
        closed: whether the ledger takes no more records.
        runs: per planned run whether it is still open.
        attempts: number of reserves per (run, round).
        nonces: (run, round) that each server nonce serves.
        dangling: reserves without a commit, by hash, oldest first; they are spent.
        once: (type, value) of what a record may name once: a countersignature's nonce, an audit plan, torn bytes.
        budget_changes: number of budget changes.
    """

    records: list[Record] = field(default_factory=list)
    tree: MerkleTree = field(default_factory=MerkleTree)
    by_hash: dict[str, Record] = field(default_factory=dict)
    keys: dict[str, PublicKey] = field(default_factory=dict)
    closed: bool = False
    runs: dict[str, bool] = field(default_factory=dict)
    attempts: dict[tuple[str, int], int] = field(default_factory=dict)
    nonces: dict[str, tuple[str, int]] = field(default_factory=dict)
    dangling: dict[str, Record] = field(default_factory=dict)
    once: set[tuple[str, str]] = field(default_factory=set)
    budget_changes: int = 0

    @property
    def head(self) -> Head:
        """The state after the last record."""
        return Head(len(self.records), self.last_hash, self.tree.root())

    @property
    def last_hash(self) -> str:
        """What the next record's `prev` must be."""
        return self.records[-1].hash if self.records else NO_RECORD

    @property
    def genesis(self) -> Record:
        """The `open` record.

        Raises:
            LedgerFault: `EMPTY` before it is written.
        """
        if not self.records:
            raise LedgerFault(
                FaultCode.EMPTY,
                "the ledger holds no complete record",
                remedy="Restore the file, or create a new ledger",
            )
        return self.records[0]

    @property
    def partner(self) -> str:
        """Name of the partner."""
        return self.genesis.text("partner")

    @property
    def budget(self) -> Budget:
        """Limits in force: of the last budget change, else of `open`."""
        source = self.genesis
        if self.budget_changes:
            source = next(item for item in reversed(self.records) if item.type == RecordType.BUDGET_CHANGE)
        limits = source.maybe_number("epsilon_budget"), source.maybe_number("rho_budget")
        return Budget(*limits, delta=self.genesis.number("delta"))

    def next_attempt(self, run_id: str, round_number: int) -> int:
        """The attempt number that the next reserve of this round must have."""
        return self.attempts.get((run_id, round_number), 0)

    def spent(self) -> list[dict[str, object]]:
        """Mechanisms charged so far, in order: every reserve, committed or not, and every priced release."""
        return [charge for record in self.records if (charge := record.charge) is not None]

    def rotation_place(self, role: str, new_key: PublicKey) -> Place:
        """What the old and the new key sign for a rotation that is the next record."""
        return Place(role, self.genesis.hash, len(self.records), self.last_hash, new_key)

    def budget_statement(self, epsilon: float | None, rho: float | None) -> bytes:
        """What the governance key signs for the next budget change of this ledger, whenever it is appended."""
        change = {"change": self.budget_changes + 1, "epsilon_budget": epsilon, "rho_budget": rho}
        return canonical_json(stored_form({**change, "genesis": self.genesis.hash}))

    def apply(self, record: Record) -> None:
        """Take in the next, checked record."""
        self.records.append(record)
        self.tree.append(record.hash)
        self.by_hash[record.hash] = record
        if record.type in _ONCE:
            self.once.add((record.type, record.text(_ONCE[record.type])))
        match record.type:
            case RecordType.OPEN:
                self._apply_open(record)
            case RecordType.PLAN:
                self.runs[record.text("run_id")] = True
            case RecordType.RESERVE:
                self._apply_reserve(record)
            case RecordType.COMMIT:
                del self.dangling[record.text("reserve")]
            case RecordType.CLOSE:
                self._apply_close(record.maybe_text("run_id"))
            case RecordType.KEY_ROTATE:
                self.keys[record.text("role")] = PublicKey(record.text("new_key"))
            case RecordType.BUDGET_CHANGE:
                self.budget_changes += 1

    def _apply_reserve(self, record: Record) -> None:
        place = record.text("run_id"), record.whole("round")
        self.attempts[place] = self.next_attempt(*place) + 1
        self.dangling[record.hash] = record
        nonce = record.maybe_text("server_nonce")
        if nonce is not None:
            self.nonces[nonce] = place

    def _apply_open(self, record: Record) -> None:
        for role, name in _KEY_FIELDS.items():
            key = record.maybe_text(name)
            if key is not None:
                self.keys[role] = PublicKey(key)

    def _apply_close(self, run_id: str | None) -> None:
        if run_id is None:
            self.closed = True
        else:
            self.runs[run_id] = False


def countersignature_of(record: Record, partner: str) -> Countersignature:
    """The server's signature as a `countersign` record keeps it."""
    texts = [record.text(name) for name in ("hash", "root", "nonce", "server_key_id", "signature")]
    return Countersignature(partner, record.whole("size"), *texts)
