"""The page of a grid of prices: goals, one figure, every system at every price, tests, and what was not measured.

Every number stands in `grid.json`. What is not certain is said as plainly as what is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from simulations.figures import metric_label
from simulations.report import page_environment
from simulations.report_numbers import four, plain_delta, with_error
from simulations.scenarios.cell_assessment import NEW_PLACES
from simulations.scenarios.grid_record import EXPORTED, Estimate, Traffic
from simulations.scenarios.rival_record import RivalRecord
from simulations.scenarios.utility_figures import label, rival_label, utility_figure
from simulations.scenarios.utility_findings import RUNGS, SYSTEMS, Place
from simulations.scenarios.utility_goals import COLD_EPSILON, ONE_ROUND
from simulations.scenarios.utility_record import Goal, Rung, SystemEntry, UtilityGrid

NOISES = {
    "central": "One draw of noise over all users: one partner holds them all. This is exactly what secure aggregation "
    "with distributed noise would give; the product does not have secure aggregation yet",
    "local": "Each partner draws its own noise, as the product does today",
}
CONVENTION = (
    "At test time every system sees the user's train and validation items; where it says “train items alone”, the "
    "train items."
)
ENOUGH_USERS = 30
"""Users with a cold item from which on the page shows a figure; `grid.json` has all."""
_UNPRICED = {"popularity_dp": "popularity_bounded", "dpals": "als"}
"""Rival with a price -> the same method without one."""
_READING_HISTORIES = frozenset({EXPORTED, "dpals"})
"""Systems of the tables by price that are shown under both conventions, rungs but for what was exported left out."""


@dataclass(frozen=True)
class Row:
    """One system, its places by epsilon, None where it was not measured."""

    label: str
    places: list[Estimate | None]
    own: bool = False


@dataclass(frozen=True)
class Table:
    """All systems with one place of the noise."""

    title: str
    epsilons: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class GateRow:
    """What the gate did at one price, and what it cost, for reading."""

    epsilon: str
    noise: str
    exported: str
    released: Mapping[str, Estimate]
    spent: float | None
    pairs: int
    pairs_up: int
    scorer_down: int
    others: int


def render_utility(record: UtilityGrid) -> str:
    """The page as HTML text."""
    found = record.findings
    return (
        page_environment()
        .get_template("utility.html.j2")
        .render(
            grid=record,
            lede=lede(record),
            noises=" ".join(f"{name.capitalize()}: {text}." for name, text in NOISES.items()),
            tables=tables(record),
            plain=[one for one in found.systems if one.kind == "rival" and one.epsilon is None],
            goals=goal_rows(record),
            goal_noises=list(dict.fromkeys(goal.noise for goal in found.goals)),
            gates=[_gate_row(rung) for rung in found.rungs],
            gate_metric=metric_label(found.rungs[0].metric) if found.rungs else "",
            gate_rungs=[name for name in RUNGS if any(name in rung.released for rung in found.rungs)],
            cold=[one for one in found.cold if one.systems[EXPORTED].users >= ENOUGH_USERS],
            cold_systems=[name for name in (NEW_PLACES, *SYSTEMS) if any(name in one.systems for one in found.cold)],
            words=words(record),
            limits=limits(record),
            convention=CONVENTION,
            label=label,
            settings=settings,
            # The drawing escapes what it shows; everything else is escaped by the engine.
            figure=Markup(utility_figure(record)),  # noqa: S704
        )
    )


def goal_rows(record: UtilityGrid) -> list[list[Goal]]:
    """The goals, each with one entry per place of the noise."""
    rows: dict[str, list[Goal]] = {}
    for goal in record.findings.goals:
        rows.setdefault(goal.text, []).append(goal)
    return list(rows.values())


def tables(record: UtilityGrid) -> list[Table]:
    """One table per place of the noise: what was exported, its rungs, and the private rivals."""
    systems = record.findings.systems
    epsilons = list(dict.fromkeys(one.epsilon for one in systems if one.kind == "exported" and one.epsilon))
    result = []
    for noise in dict.fromkeys(one.noise for one in systems if one.kind == "exported"):
        here = [one for one in systems if one.noise == noise]
        rows = []
        for kind, name in dict.fromkeys((one.kind, one.system) for one in here):
            places = {one.epsilon: one for one in here if (one.kind, one.system) == (kind, name)}
            if kind == "rival":
                plain = _UNPRICED.get(name, name)
                free = [one for one in systems if one.kind == "rival" and one.system == plain]
                places |= {"inf": free[0]} if free else {}
            rows.append(_row(rival_label(kind, name), places, epsilons, own=kind == "exported"))
            if name in _READING_HISTORIES:
                alone = [places[epsilon].train_items_alone if epsilon in places else None for epsilon in epsilons]
                if any(alone):
                    rows.append(Row("the same, train items alone as input", alone))
        result.append(Table(NOISES[noise or "local"], epsilons, rows))
    return result


def _row(name: str, places: dict[str | None, SystemEntry], epsilons: Sequence[str], *, own: bool) -> Row:
    return Row(name, [places[epsilon].ndcg if epsilon in places else None for epsilon in epsilons], own)


def _gate_row(rung: Rung) -> GateRow:
    none = Traffic(up=0, down=0)
    return GateRow(
        epsilon="none" if rung.epsilon == "inf" else rung.epsilon,
        noise=rung.noise,
        exported=", ".join(f"{label(name)} ({count})" for name, count in rung.exported.items()),
        released=rung.released,
        spent=rung.spent,
        pairs=rung.pairs,
        pairs_up=rung.traffic.get("pairs", none).up,
        scorer_down=rung.traffic.get("scorer", none).down,
        others=max((max(one.up, one.down) for wave, one in rung.traffic.items() if wave not in ONE_ROUND), default=0),
    )


def lede(record: UtilityGrid) -> str:
    """The grid in one sentence or two."""
    own = [one for one in record.findings.systems if one.kind == "exported"]
    parts = []
    for noise in dict.fromkeys(one.noise for one in own):
        figures = ", ".join(
            f"{four(one.ndcg.value)} {'without privacy' if one.epsilon == 'inf' else f'at ε {one.epsilon}'}"
            for one in own
            if one.noise == noise
        )
        parts.append(f"{noise} noise {figures}")
    ease = next((one for one in record.findings.systems if one.system == "ease"), None)
    beside = "" if ease is None else f" EASE without privacy reaches {four(ease.ndcg.value)}."
    return f"Exported models, ndcg@10 — {'; '.join(parts)}.{beside}"


def words(record: UtilityGrid) -> list[str]:
    """What the tables say together: many draws of noise, the gate's own noise, staying alone, and cold items."""
    systems = record.findings.systems
    own = {(one.epsilon or "", one.noise or ""): one.ndcg.value for one in systems if one.kind == "exported"}
    return [*_cost_of_many_draws(own), *_cost_of_the_gate(systems, own), *_alone(systems, own), *_cold_items(record)]


def _cost_of_many_draws(own: Mapping[Place, float]) -> Iterator[str]:
    costs = [
        f"{own[epsilon, 'central'] - value:.4f} at ε {epsilon}"
        for (epsilon, noise), value in own.items()
        if noise == "local" and epsilon != "inf" and (epsilon, "central") in own
    ]
    if costs:
        yield f"Many draws of noise instead of one cost the exported model {', '.join(costs)} in ndcg@10."


def _cost_of_the_gate(systems: Sequence[SystemEntry], own: Mapping[Place, float]) -> Iterator[str]:
    best: dict[Place, float] = {}
    for one in systems:
        if one.kind == "rung":
            place = one.epsilon or "", one.noise or ""
            best[place] = max(best.get(place, 0.0), one.ndcg.value)
    lost = {place: value - own[place] for place, value in best.items()}
    if lost:
        (epsilon, noise), most = max(lost.items(), key=lambda pair: pair[1])
        where = "without privacy" if epsilon == "inf" else f"at ε {epsilon}"
        yield (
            "The gate sees noised validation scores alone. It missed the rung that is best on the test items by "
            f"{most:.4f} at most ({where}, {noise} noise), and by {sum(lost.values()) / len(lost):.4f} on average."
        )


def _alone(systems: Sequence[SystemEntry], own: Mapping[Place, float]) -> Iterator[str]:
    alone = [one for one in systems if one.kind == "rival" and one.system.startswith("local_")]
    if alone:
        best = max(alone, key=lambda one: one.validation)
        below = [place for place, value in own.items() if value < best.ndcg.value]
        told = ", ".join(f"ε {epsilon} with {noise} noise" for epsilon, noise in below) or "no ε"
        yield (
            f"Partners that stay alone pay no price and reach {four(best.ndcg.value)} with {label(best.system)}, on "
            f"average over all users; the exported model is below that at {told}."
        )
        home = {(one.epsilon or "", one.noise or ""): one.ndcg.value for one in systems if one.kind == "home"}
        if home:
            below = [place for place, value in home.items() if value < best.ndcg.value]
            told = ", ".join(f"ε {epsilon} with {noise} noise" for epsilon, noise in below) or "no ε"
            yield (
                "With their own popularity and pairs beside the exported model, which never leave them and cost "
                f"nothing, partners reach {four(min(home.values()))} to {four(max(home.values()))}, below staying "
                f"alone at {told}."
            )


def _cold_items(record: UtilityGrid) -> Iterator[str]:
    for one in record.findings.cold:
        if one.held_out and (one.epsilon, one.noise) == (COLD_EPSILON, "central"):
            times = {name: found.recall.value / found.chance for name, found in one.systems.items()}
            told = ", ".join(f"{label(name)} {value:.1f}" for name, value in times.items())
            yield (
                f"Recall of items that nobody trained on, at ε {COLD_EPSILON} and central noise, in times chance: "
                f"{told}. Popularity and pairs know nothing of such items."
            )
            if NEW_PLACES in one.others:
                kept, model = one.others[NEW_PLACES], one.others[EXPORTED]
                yield (
                    "One place in ten of every list for new items, where a tenth of the catalogue is new, costs all "
                    f"other items {model - kept:.4f} ndcg@10 ({kept:.4f} after {model:.4f})."
                )


def limits(record: UtilityGrid) -> list[str]:
    """What the figures do not say."""
    missing = record.cells_in_grid - len(record.cells)
    seeds = (
        f"One seed ({record.seed}): another one draws other noise, and ± does not contain that."
        if record.seeds == 1
        else f"Up to {record.seeds} seeds from {record.seed} on; ± is over users and seeds."
    )
    training = (
        "Nothing was trained: the pairs of items get what popularity and the gate leave."
        if record.rounds == 0
        else f"{record.rounds} training rounds took a part of the budget from the pairs."
    )
    conventions = f"{CONVENTION} The two must not be compared with each other."
    choice = (
        "Rivals are chosen by exact validation figures, and so are rivals with a price, at no price. The exported rung "
        "is chosen by a released figure whose price is part of ε."
    )
    price = (
        f"δ is {plain_delta(record.delta)}; ε is per user and partner, for one user's whole data. Each cell is priced "
        "as if the others did not exist."
    )
    found = [seeds, training, conventions, choice, price, "Cold items were measured with the first seed alone."]
    return found + ([f"{missing} of {record.cells_in_grid} cells have not been run."] if missing else [])


def settings(one: RivalRecord) -> str:
    """The chosen configuration but for what its price says: `l2 300`."""
    chosen = one.trials[one.chosen].settings
    told = {name: value for name, value in chosen.items() if name not in {"epsilon", "delta", "noise"}}
    return ", ".join(f"{name} {value}" for name, value in told.items()) or "nothing to choose"


def summary(record: UtilityGrid) -> list[str]:
    """Lines for the screen: what was exported, and the goals."""
    lines = [
        f"ε {one.epsilon}, {one.noise} noise: ndcg@10 {with_error(one.ndcg.value, one.ndcg.error)}"
        for one in record.findings.systems
        if one.kind == "exported"
    ]
    states = [goal.met for goal in record.findings.goals]
    return [*lines, f"goals: {states.count(True)} met, {states.count(False)} missed, {states.count(None)} not measured"]
