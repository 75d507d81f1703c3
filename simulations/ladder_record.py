"""The ladder of a finished run: every rung on the test items, what the gate saw of it, and what was exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmrec_model.config import RunConfig
from mmrec_model.evaluation.ranking import Ranks, per_user
from mmrec_model.ladder import rungs_of
from server.activity import cap_in_force
from server.collaboration import found_facts
from server.journal import read_journal
from simulations.run_record import LadderRecord, Metrics, ReleasedMetric, RungRecord
from simulations.workspace import REASONS


def ladder_record(
    config: RunConfig,
    out: Path,
    rank: Callable[[str], Ranks],
    validate: Callable[[str], Ranks],
    metrics: Callable[[Ranks], Metrics],
) -> LadderRecord:
    """The ladder of a workspace.

    Args:
        config: the plan.
        out: the workspace.
        rank: ranks the test items by a rung.
        validate: ranks the validation items of all partners by a rung.
        metrics: of ranks.
    """
    verdict = _verdict(out / "coordinator")
    rungs = {
        rung: RungRecord(
            test=metrics(rank(rung)),
            released=None if verdict is None else _released(config, verdict, rung, validate),
        )
        for rung in rungs_of(config)
    }
    reasons = (out / REASONS).read_text(encoding="utf-8").splitlines()
    return LadderRecord(
        exported=rungs_of(config)[-1] if verdict is None else verdict["rung"],
        metric=config.gate.metric,
        rungs=rungs,
        reasons=tuple(reasons),
        pair_items=config.collaboration.items,
        pair_dims=config.collaboration.dims,
        popularity_cap=cap_in_force(out / "coordinator", config),
        modalities=found_facts(out / "coordinator").get("modalities", {}),
    )


def _verdict(coordinator: Path) -> Mapping[str, Any] | None:
    events = [event for event in read_journal(coordinator / "run.jsonl") if event.get("event") == "gate"]
    return events[-1] if events else None


def _released(
    config: RunConfig, verdict: Mapping[str, Any], rung: str, validate: Callable[[str], Ranks]
) -> ReleasedMetric:
    figure = (verdict["measured"] or {"metrics": {}})["metrics"].get(rung, {})
    found = validate(rung)
    central = float(per_user(found, str(config.gate.metric)).mean()) if found.rank_U.size else None
    return ReleasedMetric(value=figure.get("value"), error=figure.get("error"), central=central)
