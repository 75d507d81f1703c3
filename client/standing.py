"""Where a site stands: what was spent and on what, what was decided, what waits, what the coordinator has confirmed.

Read from the ledger, the operator's decisions, the outbox and the diary, without a lock, so it works while the site
answers. For the partner's own eyes: nothing here leaves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Final

from client.approval import Decision, budget_limit, last_about, objection, read_decisions
from client.pricing import price
from client.site import Site
from mmrec_model.canonical import JsonValue
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.privacy.events import from_record
from mmrec_model.privacy.history import History

LAST_WORKS: Final = 10
"""Entries of the diary that are shown."""


@dataclass(frozen=True)
class Cost:
    """What releases cost, by the accountant that enforces the budget.

    Attributes:
        releases: number of charges of each kind.
        zero_out: epsilon if a user's data is replaced by nothing: the guarantee.
        replace_one: epsilon if it is replaced by other data.
    """

    releases: dict[str, int]
    zero_out: float
    replace_one: float


@dataclass(frozen=True)
class BudgetStanding:
    """The budget of the data set.

    Attributes:
        delta: of all epsilons.
        limit: what may be spent, zero-out; None if nothing limits it.
        total: everything that was spent.
        runs: each run's releases alone; epsilons of runs do not add up to the total.
        without_commit: charges under which nothing has left yet, and perhaps never will.
    """

    delta: float
    limit: float | None
    total: Cost
    runs: dict[str, Cost]
    without_commit: int

    @property
    def remaining(self) -> float | None:
        """Epsilon between the total and the limit."""
        return None if self.limit is None else self.limit - self.total.zero_out

    def to_json(self) -> dict[str, JsonValue]:
        """All of it, as numbers; an epsilon that is infinite is null."""
        return {
            "delta": self.delta,
            "epsilon_limit": self.limit,
            "epsilon_remaining": _finite(self.remaining),
            "total": _cost(self.total),
            "runs": {run: _cost(cost) for run, cost in self.runs.items()},
            "without_commit": self.without_commit,
        }


@dataclass(frozen=True)
class Work:
    """An entry of the diary."""

    run_id: str
    round: int
    kind: str
    seconds: float


@dataclass(frozen=True)
class Approval:
    """The decision that counts for a run, and why it does not let the run go on; empty if it does."""

    run_id: str
    decision: str
    at: str
    objection: str


@dataclass(frozen=True)
class Waiting:
    """A reply in the outbox: of which release, and whether it may have been sent."""

    run_id: str
    round: int
    release: str
    size: int
    committed: bool


@dataclass(frozen=True)
class Standing:
    """Everything that `mmrec site status` shows.

    Attributes:
        name: of the site.
        records: on the ledger.
        works: the last entries of the diary, oldest first.
        approvals: of every run that was decided about.
        waiting: replies in the outbox, oldest first.
        receipts: heads that the coordinator countersigned, as numbers of records, last first; at most three.
    """

    name: str
    records: int
    works: tuple[Work, ...]
    approvals: tuple[Approval, ...]
    waiting: tuple[Waiting, ...]
    receipts: tuple[int, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """All of it."""
        return asdict(self)


def budget_of(site: Site) -> BudgetStanding:
    """What was spent and what is left.

    Raises:
        LedgerFault: the ledger cannot be read.
    """
    history, delta = site.inspect_ledger().history, site.policy.max_delta
    charged = [record for record in history.records if record.charge is not None]
    runs = dict.fromkeys(record.maybe_text("run_id") or "" for record in charged)
    limit = budget_limit(site, history)
    return BudgetStanding(
        delta=delta,
        limit=_finite(limit),
        total=_cost_of(history, delta, None),
        runs={run: _cost_of(history, delta, run) for run in runs},
        without_commit=len(history.dangling),
    )


def standing_of(site: Site) -> Standing:
    """What the site has done and decided.

    Raises:
        LedgerFault: the ledger cannot be read.
        ConfigError: the decisions cannot be read.
    """
    history = site.inspect_ledger().history
    decisions = read_decisions(site.approvals)
    runs = dict.fromkeys(decision.run_id for decision in decisions if decision.run_id)
    receipts = [record.whole("size") for record in history.records if record.type == RecordType.COUNTERSIGN]
    return Standing(
        name=site.config.name,
        records=len(history.records),
        works=_works(site),
        approvals=tuple(_approval(site, history, run, last_about(decisions, run)) for run in runs),
        waiting=_waiting(site, history),
        receipts=tuple(reversed(receipts[-3:])),
    )


def _works(site: Site) -> tuple[Work, ...]:
    timed = [entry for entry in site.noted() if "seconds" in entry]
    return tuple(Work(**entry) for entry in timed[-LAST_WORKS:])


def _approval(site: Site, history: History, run_id: str, last: Decision | None) -> Approval:
    if last is None:
        raise ValueError(f"nobody decided about run '{run_id}'")
    return Approval(run_id, last.decision, last.at, objection(site, history, last, run_id, None) or "")


def _waiting(site: Site, history: History) -> tuple[Waiting, ...]:
    sizes = {path.stem: path.stat().st_size for path in site.outbox.glob("*.safetensors")}
    return tuple(
        Waiting(
            record.text("run_id"),
            record.whole("round"),
            record.text("kind"),
            sizes[record.hash],
            committed=record.hash not in history.dangling,
        )
        for record in history.records
        if record.hash in sizes
    )


def _cost_of(history: History, delta: float, run_id: str | None) -> Cost:
    """Of one run, "" for releases of none, None for everything."""
    counted: Counter[str] = Counter()
    events = []
    for record in history.records:
        charge = record.charge
        if charge is not None and (run_id is None or (record.maybe_text("run_id") or "") == run_id):
            counted[record.text("kind" if record.type == RecordType.RESERVE else "name")] += 1
            events.append(from_record(charge))
    return Cost(dict(counted), price(events, delta), price(events, delta, "replace_one"))


def _cost(cost: Cost) -> dict[str, JsonValue]:
    return {**asdict(cost), "zero_out": _finite(cost.zero_out), "replace_one": _finite(cost.replace_one)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and value < float("inf") else None
