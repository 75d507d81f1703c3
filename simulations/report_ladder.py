"""The ladder of a run for reading: every rung, what the gate saw of it, and why the budget was split as it was."""

from __future__ import annotations

from dataclasses import dataclass

from simulations.figures import metric_label
from simulations.report_numbers import ABSENT, with_error
from simulations.run_record import RunRecord

_RUNGS = {
    "popularity": "Popularity alone",
    "content": "Free content alone",
    "free": "Free content and popularity",
    "pairs": "Pairs of items alone",
    "collaboration": "Content, popularity and pairs",
    "trained": "All of these and the trained part",
}


@dataclass(frozen=True)
class RungRow:
    """One rung of the ladder for reading: on the test items, as released to the gate, and whether it was exported."""

    label: str
    test: float
    released: str
    exported: bool


def rung_rows(record: RunRecord) -> list[RungRow]:
    """The rungs of the run, from the simplest up."""
    metric = record.verdict.metric
    return [
        RungRow(
            label=_RUNGS.get(name, name),
            test=float(getattr(rung.test, metric)),
            released=ABSENT if rung.released is None else with_error(rung.released.value, rung.released.error),
            exported=name == record.ladder.exported,
        )
        for name, rung in record.ladder.rungs.items()
    ]


def cap_sentence(record: RunRecord) -> str:
    """How many items of a user popularity counted, in one sentence; empty where no quantile chose that."""
    cap, privacy = record.ladder.popularity_cap, record.config.get("privacy")
    quantile = privacy.get("activity_quantile") if isinstance(privacy, dict) else None
    if not quantile or cap is None or not isinstance(privacy, dict):
        return ""
    return (
        f"Popularity counted {cap} distinct items of a user at most: the noised activity of the users puts "
        f"{quantile:.0%} of them within that, and the plan allows {privacy['popularity_cap']}."
    )


def gate_sentence(record: RunRecord) -> str:
    """What the gate decided, in one sentence."""
    chosen = _RUNGS.get(record.ladder.exported, record.ladder.exported)
    if record.ladder.metric is None:
        return f"This run had no gate: {chosen.lower()} was exported whatever it is worth."
    figures = [rung.released for rung in record.ladder.rungs.values()]
    if all(one is None or one.value is None for one in figures):
        return f"The partners released no figure for the gate, so the floor was exported: {chosen.lower()}."
    return (
        f"The gate exported the rung with the best released {metric_label(record.ladder.metric)} on the validation "
        f"items: {chosen.lower()}. The choice was part of the price."
    )
