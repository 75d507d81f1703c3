"""What the report says: sentences and table rows made from a run record, as plain text that the page escapes.

Each sentence states what was measured and how sure it is; a result below the floor is said as plainly as one above it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pydantic import JsonValue

from mmrec_model.config import MODALITIES
from simulations.figures import Line, metric_label, shown_name
from simulations.report_numbers import MINUS, four, plain_delta, signed, with_error
from simulations.run_record import HeadRecord, Metrics, PartnerRecord, RunRecord

FREE_FLOOR = "free_content"
_LABELS = {
    "chance": "Chance",
    "popularity_dp": "Popularity as released",
    "free_content": "Free content profile",
    "free_content_with_prior": "Free content + popularity prior",
    "popularity": "Popularity",
    "item_knn": "Item-kNN",
    "ease": "EASE",
}
_HEADS = {
    "ctr": "Click, if shown",
    "cvr": "Conversion, if clicked",
    "rating": "Rating",
    "category": "Next category",
}
_ALONE = {"free_content_with_prior": "free content", "ease": "own EASE"}
_SHORT = {"popularity_dp": "Popularity (released)", "free_content_with_prior": "Free content + prior"}
_MODEL = "Federated model"
_TITLES = {"helps": "It was worth it.", "hurts": "It was not worth it.", "unclear": "No measurable difference."}


@dataclass(frozen=True)
class System:
    """One row of the table of systems. `kind` is `model`, `floor` or `baseline`; `error` is null where exact."""

    label: str
    kind: str
    metrics: Metrics
    error: Metrics | None
    times_chance: float | None
    share: float


@dataclass(frozen=True)
class PartnerRow:
    """One partner for reading: figures are the verdict's metric, null where nobody could be evaluated.

    `alone` is what the partner has without the federation, `system` with what.
    """

    record: PartnerRecord
    name: str
    model: float | None
    floor: float | None
    alone: float | None
    system: str

    @property
    def difference(self) -> float | None:
        """Model minus floor."""
        return None if self.model is None or self.floor is None else self.model - self.floor

    @property
    def gain(self) -> float | None:
        """Model minus what the partner has alone."""
        return None if self.model is None or self.alone is None else self.model - self.alone


@dataclass(frozen=True)
class EvaluationRow:
    """One released metric for reading: of which state, with its error, without noise, and from how many partners."""

    state: str
    metric: str
    released: str
    central: str
    replies: int


def label(name: str) -> str:
    """The reader's name of a floor or baseline."""
    return _LABELS.get(name, name.replace("_", " "))


def verdict_kind(record: RunRecord) -> str:
    """`helps`, `hurts` or `unclear`: whether the interval of the difference lies above, below or across zero."""
    return "helps" if record.verdict.low > 0 else "hurts" if record.verdict.high < 0 else "unclear"


def result_sentence(record: RunRecord) -> str:
    """The whole run in one sentence."""
    metric, privacy = record.verdict.metric, record.privacy
    value, error = _of(record.metrics, metric), _of(record.standard_errors, metric)
    if privacy.epsilon is None:
        start = "Without differential privacy,"
    else:
        start = f"At ε {privacy.epsilon:.2f}, δ {plain_delta(privacy.delta)} per user and partner,"
    best = record.verdict.best_floor
    parts = [
        f"{start} the federated model reaches {metric_label(metric)} {value:.4f} ± {error:.4f}",
        f"the best floor, {label(best)}, reaches {_of(record.floors[best], metric):.4f}",
    ]
    if "ease" in record.baselines:
        ease = _of(record.baselines["ease"], metric)
        parts.append(f"EASE, with all data in one place and no privacy, {ease:.4f}")
    return "; ".join(parts) + "."


def verdict_title(record: RunRecord) -> str:
    """Three words on whether it was worth it."""
    return _TITLES[verdict_kind(record)]


def verdict_text(record: RunRecord) -> str:
    """The difference to the best floor with its interval, and what follows from it."""
    verdict = record.verdict
    floor = _of(record.floors[verdict.best_floor], verdict.metric)
    relative = f" ({verdict.difference / floor:+.1%})".replace("-", MINUS) if floor > 0 else ""
    fact = (
        f"Federated model minus {label(verdict.best_floor)}: {signed(verdict.difference)} "
        f"{metric_label(verdict.metric)}{relative}, 95 % interval {signed(verdict.low)} to {signed(verdict.high)} "
        f"over {record.users_evaluated:,} users."
    )
    meaning = {
        "helps": "The interval lies above zero: training together gave better lists than the best floor.",
        "hurts": "The interval lies below zero: training together gave worse lists. Use the floor; it costs less.",
        "unclear": "The interval contains zero: this run does not show that training helped. The floor costs less.",
    }[verdict_kind(record)]
    return f"{fact} {meaning}"


def systems(record: RunRecord) -> list[System]:
    """All systems, best first by the verdict's metric."""
    metric = record.verdict.metric
    chance = _of(record.floors["chance"], metric) if "chance" in record.floors else 0.0
    rows: list[tuple[str, str, Metrics, Metrics | None]]
    rows = [(_MODEL, "model", record.metrics, record.standard_errors)]
    rows += [(label(n), "floor", m, record.floor_standard_errors.get(n)) for n, m in record.floors.items()]
    rows += [(label(n), "baseline", m, record.baseline_standard_errors.get(n)) for n, m in record.baselines.items()]
    top = max(_of(metrics, metric) for _, _, metrics, _ in rows) or 1.0
    table = [
        System(
            label=name,
            kind=kind,
            metrics=metrics,
            error=error,
            times_chance=_of(metrics, metric) / chance if chance > 0 else None,
            share=_of(metrics, metric) / top,
        )
        for name, kind, metrics, error in rows
    ]
    return sorted(table, key=lambda row: (-_of(row.metrics, metric), row.label))


@dataclass(frozen=True)
class HeadRow:
    """One head of the table; `gain` is the share of the constant's loss that the head takes away."""

    label: str
    record: HeadRecord
    gain: float | None


def head_rows(record: RunRecord) -> list[HeadRow]:
    """The heads of the run, in order."""
    return [
        HeadRow(_HEADS[name], one, 1.0 - one.loss / one.constant_loss if one.constant_loss else None)
        for name, one in record.heads.items()
    ]


def levels(record: RunRecord) -> list[Line]:
    """Floors and baselines as levels of the learning curve."""
    metric = record.verdict.metric
    lines = [Line(_SHORT.get(n, label(n)), _of(m, metric), "floor") for n, m in record.floors.items()]
    return lines + [Line(f"{label(n)} (no privacy)", _of(m, metric), "baseline") for n, m in record.baselines.items()]


def floor_for_partners(record: RunRecord) -> str:
    """The floor that partners are compared with: the best one, or free content where that was not measured."""
    known = {name for one in record.partners for name in one.floor_metrics}
    best = record.verdict.best_floor
    return best if best in known or FREE_FLOOR not in known else FREE_FLOOR


def partner_rows(record: RunRecord) -> list[PartnerRow]:
    """Partners, largest first."""
    metric, floor = record.verdict.metric, floor_for_partners(record)
    rows = [
        PartnerRow(
            record=one,
            name=shown_name(one.name, 48),
            model=None if one.metrics is None else _of(one.metrics, metric),
            floor=_of(one.floor_metrics[floor], metric) if floor in one.floor_metrics else None,
            alone=None if one.alone is None else _of(one.alone.metrics, metric),
            system="" if one.alone is None else _ALONE.get(one.alone.system, label(one.alone.system)),
        )
        for one in record.partners
    ]
    return sorted(rows, key=lambda row: (-row.record.users, row.name))


def partners_sentence(record: RunRecord) -> str:
    """How many partners gain, the worst one by name, and the one that loses most."""
    metric = metric_label(record.verdict.metric)
    rows = [row for row in partner_rows(record) if row.model is not None]
    if not rows:
        return "No partner had a user to evaluate."
    worst = min(rows, key=lambda row: row.model or 0.0)
    text = f"Worst partner: {worst.name} at {metric} {worst.model or 0.0:.4f} ({worst.record.users:,} users)."
    compared = [(row.difference, row) for row in rows if row.difference is not None]
    if not compared:
        return text
    gain = sum(1 for difference, _ in compared if difference >= 0)
    text = (
        f"The federated model is at or above {label(floor_for_partners(record))} at {gain} of {len(compared)}. {text}"
    )
    lowest, row = min(compared, key=lambda pair: pair[0])
    if lowest < 0:
        text += f" Largest loss: {row.name}, {signed(lowest)}."
    return text


def joining_sentence(record: RunRecord) -> str:
    """What joining gives over staying alone: by partner, the worst one, and over all users with its interval."""
    found = record.alone
    sure = (
        "above zero" if found.low > 0 else "below zero: on average users are better off alone" if found.high < 0
        else "across zero: the run does not show that joining pays"
    )  # fmt: skip
    left_out = "".join(f" {label(name)} was left out ({reason})." for name, reason in found.left_out.items())
    return (
        f"Alone, a partner pays no price and uses the better of free content with its own popularity and EASE on its "
        f"own users' rows, by its own validation items. Joining gives {found.better} of {found.partners} partners "
        f"more: {metric_label(found.metric)} {signed(found.mean)} on average over partners, {signed(found.worst)} at "
        f"the worst. Over all users {signed(found.difference)}, 95 % interval {signed(found.low)} to "
        f"{signed(found.high)}, which lies {sure}.{left_out}"
    )


def replies_sentence(record: RunRecord) -> str:
    """How many replies counted and why others did not."""
    accepted = sum(row.replies for row in record.rounds)
    reasons: Counter[str] = Counter()
    for row in record.rounds:
        reasons.update(row.rejected)
    refused = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()) if count)
    return f"{accepted:,} replies were accepted; rejected: {refused or 'none'}."


def clip_sentence(record: RunRecord) -> str:
    """What the clip did in a run with adaptive clipping; empty with flat clipping."""
    clips = [row.clip for row in record.rounds if row.clip is not None]
    if not clips:
        return ""
    return (
        f"The clip, the bound of one person's gradient, went from {clips[0]:.3g} to {clips[-1]:.3g} "
        f"({min(clips):.3g} at least, {max(clips):.3g} at most). It follows a noised count of the people within it, "
        "which every step releases with its gradients; the price above covers both."
    )


def fusion_sentence(record: RunRecord) -> str:
    """Which family fuses which modalities; a record from before there was a choice is one of attention."""
    part = record.config.get("model")
    model = part if isinstance(part, dict) else {}
    chosen = model.get("modalities")
    read = chosen if isinstance(chosen, list) else list(record.features.modalities)
    names = ", ".join(name for name in MODALITIES if name in read)
    text = f"{str(model.get('fusion', 'attention')).replace('_', ' ')} over {names}"
    if model.get("fusion") == "decision":
        text += f"; {model.get('decision_weights')} weights, combined by rule {model.get('decision_rule')}"
    training = record.config.get("training")
    dropout = training.get("modality_dropout") if isinstance(training, dict) else None
    return text + (f"; {dropout:.0%} of them hidden in training" if isinstance(dropout, float) and dropout else "")


def evaluation_rows(record: RunRecord) -> list[EvaluationRow]:
    """Every released metric, oldest first, beside the same metric without noise."""
    return [
        EvaluationRow(
            state="the exported model" if row.exported else f"the state after round {row.round}",
            metric=metric_label(name),
            released=with_error(figure.value, figure.error),
            central=four(figure.central),
            replies=row.replies,
        )
        for row in record.evaluations
        for name, figure in row.metrics.items()
    ]


def evaluations_sentence(record: RunRecord) -> str:
    """What the coordinator may know of quality, how sure it is, and which evaluations gave no figure."""
    missing = sum(not any(figure.value is not None for figure in row.metrics.values()) for row in record.evaluations)
    text = (
        "This is what the coordinator learns: each partner sends noised sums over its users, charged to its budget. "
        "± is the standard error of the noise alone. Without noise, over the same users, only the owner of all the "
        "data can compute it."
    )
    return f"{text} {missing} of {len(record.evaluations)} evaluations gave no figure." if missing else text


def budget(record: RunRecord) -> float | None:
    """The plan's price limit at one partner: `config.privacy.epsilon`, else the run's epsilon."""
    part = record.config.get("privacy")
    value = part.get("epsilon") if isinstance(part, dict) else None
    return float(value) if isinstance(value, int | float) else record.privacy.epsilon


def flat(value: JsonValue, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted key, text) pairs in key order."""
    if isinstance(value, dict) and value:
        return [pair for key in value for pair in flat(value[key], f"{prefix}.{key}" if prefix else key)]
    return [(prefix, _text(value))]


def _of(metrics: Metrics, name: str) -> float:
    return float(getattr(metrics, name))


def _text(value: JsonValue) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key} {text}" for key, text in flat(value)) if value else "none"
    return str(value)
