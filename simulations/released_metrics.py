"""What the coordinator learned of quality through the priced exit, beside what the owner of all data sees.

The released figures are the coordinator's own, read from its journal; the central ones are the same metrics of the
same states over the same validation items, without noise. Where the two differ by many standard errors, one is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmrec_model.config import RunConfig
from mmrec_model.evaluation.ranking import Ranks, per_user
from mmrec_model.protocol import Arrays
from server.checkpoint import CheckpointStore
from server.journal import read_journal
from simulations.run_record import EvaluationRecord, ReleasedMetric


def evaluation_records(
    config: RunConfig, coordinator: Path, exported: Arrays, rank: Callable[[Arrays], Ranks]
) -> list[EvaluationRecord]:
    """One entry per evaluation that the plan names and the journal tells of.

    Args:
        config: the plan.
        coordinator: the coordinator's folder.
        exported: the trained arrays and the prior of the exported state.
        rank: ranks the validation items of all partners under such a state.

    Raises:
        ModelError: the snapshot of an evaluated round is missing or damaged.
    """
    events = [event for event in read_journal(coordinator / "run.jsonl") if event.get("event") == "evaluated"]
    told = {event["round"]: event for event in events}
    store = CheckpointStore(coordinator / "rounds", config.digest)
    records = []
    for round_ in config.evaluated_rounds:
        if round_ not in told:
            continue
        is_exported = round_ > config.training.rounds
        found = rank(exported if is_exported else store.load(round_)[0].travelling)
        records.append(_record(config, told[round_], found, is_exported=is_exported))
    return records


def _record(config: RunConfig, event: Mapping[str, Any], found: Ranks, *, is_exported: bool) -> EvaluationRecord:
    measured = event["measured"] or {"users": None, "users_error": None, "metrics": {}}
    released = {name: measured["metrics"].get(name, {}) for name in config.evaluation.metrics}
    return EvaluationRecord(
        round=config.training.rounds if is_exported else event["round"],
        exported=is_exported,
        users=measured["users"],
        users_error=measured["users_error"],
        central_users=found.rank_U.size,
        metrics={
            name: ReleasedMetric(value=figure.get("value"), error=figure.get("error"), central=_mean(found, name))
            for name, figure in released.items()
        },
        replies=len(event["accepted"]),
        rejected=event["rejected"],
    )


def _mean(found: Ranks, name: str) -> float | None:
    return float(per_user(found, name).mean()) if found.rank_U.size else None
