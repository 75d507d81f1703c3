"""The page of a grid of modalities: tables, one map, and what follows in words, in the style of a run's report.

Every number stands in `grid.json`. What is not certain is said as plainly as what is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mmrec_model.config import MODALITIES, Modality
from simulations.report import page_environment
from simulations.report_numbers import four, plain_delta, signed
from simulations.scenarios.grid_record import Estimate
from simulations.scenarios.modality_figures import heat_map, hidden_name, subset_name
from simulations.scenarios.modality_record import AnswerRecord, Contribution, Entry, ModalityGrid


@dataclass(frozen=True)
class Row:
    """One subset: its places by fusion, None where a cell has not run, and the untrained model."""

    name: str
    places: list[Entry | None]
    untrained: float


@dataclass(frozen=True)
class Table:
    """All subsets with one share of hidden media."""

    title: str
    fusions: list[str]
    rows: list[Row]
    best: Entry


def render_modalities(record: ModalityGrid) -> str:
    """The page as HTML text."""
    found = record.findings
    return (
        page_environment()
        .get_template("modalities.html.j2")
        .render(
            grid=record,
            lede=lede(record),
            tables=tables(record),
            contributions=[(one, hidden_name(one.hidden)) for one in found.contributions],
            modalities=[name for name in MODALITIES if any(name in entry.modalities for entry in found.table)],
            words=words(record),
            answer=None if found.answer is None else answer_sentences(found.answer),
            limits=limits(record),
            pm=plus_minus,
            # The drawing escapes what it shows; everything else is escaped by the engine.
            figure=Markup(heat_map(record)),  # noqa: S704
        )
    )


def tables(record: ModalityGrid) -> list[Table]:
    """One table per share of hidden media, in the order of the cells."""
    result = []
    fusions = list(dict.fromkeys(entry.fusion for entry in record.findings.table))
    for best in record.findings.best:
        entries = [entry for entry in record.findings.table if entry.hidden == best.hidden]
        places = {(subset_name(entry), entry.fusion): entry for entry in entries}
        rows = [
            Row(
                name=name,
                places=[places.get((name, fusion)) for fusion in fusions],
                untrained=next(entry.untrained for entry in entries if subset_name(entry) == name),
            )
            for name in dict.fromkeys(map(subset_name, entries))
        ]
        result.append(Table(hidden_name(best.hidden), fusions, rows, best))
    return result


def lede(record: ModalityGrid) -> str:
    """The grid in one sentence."""
    price = "without privacy" if record.epsilon is None else _price(record.epsilon, record.delta)
    bests = "; ".join(
        f"{hidden_name(best.hidden)}, {subset_name(best)} with {_fusion(best.fusion)}: {plus_minus(best.test)}"
        for best in record.findings.best
    )
    return f"{len(record.cells)} federations of {record.rounds} rounds, {price}. Best by validation, ndcg@10 — {bests}."


def words(record: ModalityGrid) -> list[str]:
    """What each modality adds, in the mean over fusions, and what hiding media costs."""
    sentences = []
    for one in record.findings.contributions:
        if one.fusion == "mean":
            parts = ", ".join(f"{name} {_signed_pm(value)}" for name, value in _by_value(one))
            sentences.append(f"With {hidden_name(one.hidden)}, the modalities add {parts} on average over the fusions.")
    sentences += _cost_of_hiding(record)
    above = sum(cell.verdict.low > 0 for cell in record.cells)
    below = sum(cell.verdict.high < 0 for cell in record.cells)
    sentences.append(
        f"Of {len(record.cells)} trained models {above} are above the best floor of their cell with 95 % confidence, "
        f"{below} below it, and {len(record.cells) - above - below} are neither."
    )
    return sentences


def _cost_of_hiding(record: ModalityGrid) -> list[str]:
    """What all modalities together reach with hidden media, over the fusions that were run with and without."""
    full = {(one.hidden, one.fusion): one.full for one in record.findings.contributions if one.fusion != "mean"}
    sentences = []
    for share in dict.fromkeys(hidden for hidden, _ in full if hidden != "0"):
        both = [fusion for hidden, fusion in full if hidden == share and ("0", fusion) in full]
        if both:
            with_it, without = (sum(full[hidden, fusion] for fusion in both) / len(both) for hidden in (share, "0"))
            names = ", ".join(map(_fusion, both))
            sentences.append(
                f"With {hidden_name(share)} all modalities together reach {with_it:.4f} instead of {without:.4f}, "
                f"as the mean over {names}."
            )
    return sentences


def answer_sentences(answer: AnswerRecord) -> list[str]:
    """Whether the known answer was recovered, first in two or three words and then in detail."""
    order = sorted(answer.planted, key=lambda name: -answer.planted[name])
    found = sorted(answer.found, key=lambda name: -answer.found[name].value)
    seen = [name for name, state in answer.signs.items() if state == "recovered"]
    sentences = [
        "Recovered." if answer.recovered else "Not recovered in full.",
        f"In truth the modalities add, from most to least: {', '.join(f'{n} {answer.planted[n]:.4f}' for n in order)}.",
        f"The grid finds: {', '.join(f'{n} {_signed_pm(answer.found[n])}' for n in found)}.",
        f"{len(seen)} of {len(order)} modalities are found to add something, as they do in truth"
        + ("." if len(seen) == len(order) else f"; not {', '.join(n for n in order if n not in seen)}."),
    ]
    for state in ("recovered", "undecided", "contradicted"):
        pairs = [
            f"{pair.first} over {pair.second} ({_signed_pm(pair.found)})"
            for pair in answer.pairs
            if pair.state == state
        ]
        if pairs:
            sentences.append(f"Order {state}: {', '.join(pairs)}.")
    return sentences


def limits(record: ModalityGrid) -> list[str]:
    """What the figures do not say."""
    seeds = (
        f"One seed ({record.seed}): another one draws other noise, and ± does not contain that."
        if record.seeds == 1
        else f"{record.seeds} seeds from {record.seed} on; ± is over users, after the mean over seeds."
    )
    missing = record.cells_in_grid - len(record.cells)
    choice = (
        "The best place is chosen on the validation items and shown on the test items; the tables show every test "
        "figure, and the largest of many is too good by chance."
    )
    error = (
        f"± is one standard error over {record.users_evaluated:,} users. All cells share the users, so differences "
        "between them are surer than two such errors suggest."
    )
    found = [
        seeds,
        choice,
        error,
        f"{record.rounds} rounds are few: larger fusions may need more of them, or more users, to pay for their noise.",
        "Each cell is priced as if the others did not exist. On real data, trying them all would cost their sum.",
    ]
    return found + ([f"{missing} of {record.cells_in_grid} cells have not been run."] if missing else [])


def summary(record: ModalityGrid) -> list[str]:
    """Lines for the screen: the best places, and the known answer."""
    lines = [
        f"{hidden_name(best.hidden)}: {subset_name(best)}, {best.fusion}, ndcg@10 {plus_minus(best.test)}"
        for best in record.findings.best
    ]
    if record.findings.answer is not None:
        lines.append(f"known answer: {' '.join(answer_sentences(record.findings.answer))}")
    return lines


def plus_minus(value: Estimate) -> str:
    """`0.0812 ± 0.0041`."""
    return f"{four(value.value)} ± {four(value.error)}"


def _signed_pm(value: Estimate) -> str:
    return f"{signed(value.value)} ± {four(value.error)}"


def _by_value(one: Contribution) -> Sequence[tuple[Modality, Estimate]]:
    return sorted(one.values.items(), key=lambda pair: -pair[1].value)


def _fusion(name: str) -> str:
    return name.replace("_", " ")


def _price(epsilon: float, delta: float | None) -> str:
    return f"each at ε {epsilon:.2f}, δ {plain_delta(delta)} per user and partner"
