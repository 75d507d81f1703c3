"""Figures of the report: matplotlib drawings as SVG text that lives inside an HTML page.

Colours are CSS variables of the page (`--ink`, `--accent`, ...), letters stay letters in the page's own font, and
nothing is loaded from outside; so one figure serves light, dark and print. Equal records give equal bytes. Names come
from partners and are hostile until proven otherwise: no mathematics is parsed, control characters are dropped, and
matplotlib escapes what is left.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from simulations.run_record import PartnerRecord, RunRecord

INK, SOFT, RULE, ACCENT, SECOND, BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "ink", SOFT: "soft", RULE: "rule", ACCENT: "accent", SECOND: "second", BAD: "bad"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmrec",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "font.size": 8.4,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 8.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
_KINDS = {"floor": SECOND, "own": ACCENT}
_WIDTH = 7.4
_MAP_HEIGHT = 4.3
NAMED_PARTNERS = 12

Box: TypeAlias = tuple[float, float, float, float]
"""Left, right, bottom, top in points."""


@dataclass(frozen=True)
class Line:
    """A labelled level to compare with: `kind` is `floor`, `baseline`, or `own` for what the page is about."""

    label: str
    value: float
    kind: str


def learning_curve(record: RunRecord, lines: Sequence[Line]) -> str | None:
    """Validation metric after every round, the test value as a ring, and the levels; null without any round.

    Where partners released the metric, it stands as a square with the standard error of its noise.
    """
    if not record.rounds:
        return None
    metric = record.verdict.metric
    rounds = [row.round for row in record.rounds]
    values = [float(getattr(row.validation, metric)) for row in record.rounds]
    with mpl.rc_context(STYLE):
        figure, axes = _axes(3.5)
        end = max(*rounds, 1)
        for line in lines:
            floor = line.kind == "floor"
            axes.axhline(line.value, color=SECOND if floor else SOFT, lw=1.1, ls=(0, (5, 3)) if floor else (0, (1, 2)))
        end_labels(axes, lines, end)
        axes.plot(rounds, values, color=ACCENT, marker="o" if len(rounds) <= 25 else "", ms=3.6)
        _released(axes, record)
        final = float(getattr(record.metrics, metric))
        axes.plot([max(rounds)], [final], marker="o", ms=8, mfc="none", mec=ACCENT, mew=1.8, ls="", clip_on=False)
        top = max([*values, final, *(line.value for line in lines)], default=0.0)
        axes.set_xlim(-0.02 * end, end * 1.015)
        axes.set_ylim(0, top * 1.08 or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlabel("round (0 is the start, before any training)")
        axes.set_ylabel(metric_label(metric))
        axes.grid(visible=False, axis="x")
        figure.subplots_adjust(left=0.085, right=0.72, top=0.97, bottom=0.15)
        return page_svg(figure, "f1")


def _released(axes: Axes, record: RunRecord) -> None:
    """The verdict's metric as the partners released it; the axis is not stretched for it."""
    for row in record.evaluations:
        figure = row.metrics.get(record.verdict.metric)
        if figure is not None and figure.value is not None:
            axes.errorbar(
                [row.round], [figure.value], yerr=[figure.error or 0.0], color=INK, marker="s", ms=4.2,
                mfc=INK if row.exported else "none", lw=1.1, capsize=2.5, ls="",
            )  # fmt: skip


def epsilon_spent(record: RunRecord, budget: float) -> str | None:
    """Epsilon after every round, and at each partner in the end, against the plan's budget; null without privacy."""
    spent = [(row.round, row.epsilon) for row in record.rounds if row.epsilon is not None]
    partners = sorted(
        ((one.epsilon, one.name) for one in record.partners if one.epsilon is not None), key=lambda pair: pair[0]
    )
    if not spent and not partners:
        return None
    top = max([budget, *(y for _, y in spent), *(y for y, _ in partners)])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 2.9))
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.15, 1]})
        left.axhline(budget, color=BAD, lw=1.2, ls=(0, (5, 3)))
        left.annotate("budget", (0, budget), (3, 3), textcoords="offset points", color=BAD, va="bottom")
        left.plot([x for x, _ in spent], [y for _, y in spent], color=ACCENT, drawstyle="steps-post")
        left.set_xlim(-0.02, max([1, *(x for x, _ in spent)]) * 1.02)
        left.set_ylim(0, top * 1.14)
        left.set_xlabel("round")
        left.set_ylabel("ε spent so far")
        left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        right.axvline(budget, color=BAD, lw=1.2, ls=(0, (5, 3)))
        right.set_xlim(0, top * 1.1)
        named = len(partners) <= NAMED_PARTNERS
        _partner_strip(right, partners, named=named)
        figure.subplots_adjust(left=0.085, right=0.985, top=0.97, bottom=0.17, wspace=0.55 if named else 0.2)
        return page_svg(figure, "f2")


def clip_curve(record: RunRecord) -> str | None:
    """The clip of the next round after every round; null with flat clipping."""
    clips = [(row.round, row.clip) for row in record.rounds if row.clip is not None]
    if not clips:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = _axes(1.7)
        axes.plot([x for x, _ in clips], [y for _, y in clips], color=ACCENT)
        axes.set_ylim(0, 1.15 * max(y for _, y in clips))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlabel("round")
        axes.set_ylabel("clip")
        figure.subplots_adjust(left=0.085, right=0.985, top=0.95, bottom=0.29)
        return page_svg(figure, "f4")


def partner_map(record: RunRecord) -> str | None:
    """Each partner's test metric of the model over what it has alone, area by users; null if nobody was evaluated."""
    metric = record.verdict.metric
    points = [
        (float(getattr(one.alone.metrics, metric)), float(getattr(one.metrics, metric)), one)
        for one in record.partners
        if one.metrics is not None and one.alone is not None
    ]
    if not points:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = _axes(_MAP_HEIGHT)
        top = max(max(x, y) for x, y, _ in points) * 1.16 or 1.0
        axes.plot([0, top], [0, top], color=SOFT, lw=1.0, ls=(0, (5, 3)))
        axes.text(top * 0.015, top * 0.975, "above the line: joining helps", color=SOFT, va="top", size=7.8)
        most = max(one.users for _, _, one in points) or 1
        for x, y, one in points:
            colour = ACCENT if y >= x else BAD
            axes.scatter([x], [y], s=_area(one, most), facecolor=colour, edgecolor=colour, alpha=0.32, lw=1.2)
        _name_discs(axes, points, scale=1.0 / top, most=most)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel(f"{metric_label(metric)}, alone")
        axes.set_ylabel(f"{metric_label(metric)}, federated model")
        figure.subplots_adjust(left=0.085, right=0.985, top=0.97, bottom=0.12)
        return page_svg(figure, "f3")


def verdict_interval(record: RunRecord) -> str:
    """The difference to the best floor with its interval, on an axis that shows zero."""
    verdict = record.verdict
    colour = ACCENT if verdict.low > 0 else BAD if verdict.high < 0 else SOFT
    reach = max(abs(verdict.low), abs(verdict.high), abs(verdict.difference), 1e-4) * 1.25
    with mpl.rc_context({**STYLE, "axes.spines.left": False, "axes.grid": False}):
        figure = Figure(figsize=(_WIDTH, 0.8))
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=1.0)
        axes.plot([verdict.low, verdict.high], [0, 0], color=colour, lw=5, alpha=0.35)
        axes.plot([verdict.difference], [0], color=colour, marker="o", ms=8)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7))
        axes.text(-reach, 0.6, "floor is better", color=SOFT, ha="left", va="center", size=7.8)
        axes.text(reach, 0.6, "federated model is better", color=SOFT, ha="right", va="center", size=7.8)
        figure.subplots_adjust(left=0.06, right=0.94, top=0.98, bottom=0.3)
        return page_svg(figure, "f0")


def metric_label(metric: str) -> str:
    """`ndcg_at_10` as a reader writes it: ndcg@10."""
    return metric.replace("_at_", "@")


def shown_name(name: str, limit: int = 22) -> str:
    """A partner's name without control, format or unassigned characters, cut to `limit`."""
    clean = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in name)
    clean = " ".join(clean.split()) or "(no name)"
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def _worth_naming(
    points: Sequence[tuple[float, float, PartnerRecord]], limit: int = 8
) -> list[tuple[float, float, PartnerRecord]]:
    """All of a few; of many the worst, the one that loses most, the one that gains most and the largest."""
    if len(points) <= limit:
        return list(points)
    chosen = (
        min(points, key=lambda point: point[1]),
        min(points, key=lambda point: point[1] - point[0]),
        max(points, key=lambda point: point[1] - point[0]),
        max(points, key=lambda point: point[2].users),
    )
    by_name: Mapping[str, tuple[float, float, PartnerRecord]] = {point[2].name: point for point in chosen}
    return list(by_name.values())


def _partner_strip(axes: Axes, partners: Sequence[tuple[float, str]], *, named: bool) -> None:
    """One row per partner, a dot at its epsilon; names only where there is room for them."""
    places = list(range(len(partners)))
    axes.hlines(places, 0, [value for value, _ in partners], color=RULE, lw=1.2)
    axes.plot([value for value, _ in partners], places, color=ACCENT, marker="o", ms=4.5 if named else 3, ls="")
    axes.set_yticks(places if named else [], [shown_name(name) for _, name in partners] if named else [])
    if not named:
        axes.set_ylabel(f"{len(partners)} partners, sorted")
    axes.set_ylim(-0.7, max(len(partners) - 0.3, 0.7))
    axes.set_xlabel("ε spent at each partner")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelsize=7.8)


def _area(partner: PartnerRecord, most: int) -> float:
    return 24 + 520 * partner.users / most


def _name_discs(axes: Axes, discs: Sequence[tuple[float, float, PartnerRecord]], *, scale: float, most: int) -> None:
    """Write names below, above, right or left of their discs, where they cover fewest discs and earlier names."""
    taken: list[Box] = [_box(x * scale, y * scale, _area(one, most) ** 0.5 / 2, 0.0) for x, y, one in discs]
    for x, y, one in _worth_naming(discs):
        name = shown_name(one.name)
        reach, half = _area(one, most) ** 0.5 / 2 + 8, 2.3 * len(name)
        shifts = (0.0, -reach), (0.0, reach), (reach + half - 3, 0.0), (-reach - half + 3, 0.0)
        boxes = [_box(x * scale, y * scale, 6.0, half, shift) for shift in shifts]
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        axes.annotate(
            name, (x, y), shifts[best], textcoords="offset points", ha="center", va="center_baseline", size=7.8
        )


def _box(
    right: float, up: float, half_height: float, half_width: float, shift: tuple[float, float] = (0.0, 0.0)
) -> Box:
    x, y = right * 72 * _WIDTH * 0.9 + shift[0], up * 72 * _MAP_HEIGHT * 0.85 + shift[1]
    half_width = half_width or half_height
    return x - half_width, x + half_width, y - half_height, y + half_height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def end_labels(axes: Axes, lines: Sequence[Line], end: int, *, gap: float = 0.062) -> None:
    """Write each level's name at the right edge, `gap` of the largest apart and else as near as can be."""
    ordered = sorted(lines, key=lambda one: one.value)
    steps = np.arange(len(ordered)) * gap * (max((line.value for line in lines), default=1.0) or 1.0)
    # With the steps taken off, keeping apart is keeping in order, and the nearest such heights are a regression.
    heights = isotonic_regression([line.value for line in ordered] - steps).x + steps if ordered else []
    for line, height in zip(ordered, heights, strict=True):
        axes.annotate(
            line.label,
            xy=(end * 1.015, line.value),
            xytext=(end * 1.05, height),
            color=_KINDS.get(line.kind, SOFT),
            va="center",
            size=7.8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": RULE, "lw": 0.7, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height))
    return figure, figure.subplots()


def page_svg(figure: Figure, prefix: str) -> str:
    """Only the <svg> element, scalable, with the page's variables for colours and its own prefix on every id."""
    figure.patch.set_alpha(0.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=empty)
    text = stream.getvalue()
    text = re.sub(r"<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0], prefix), text)


def _page_tag(tag: str, prefix: str) -> str:
    """One tag of the drawing for this page; the text between tags, where names stand, is never touched."""
    if tag.startswith("<svg"):
        tag = re.sub(r' (width|height)="[^"]*"', "", tag)
    tag = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", tag)
    tag = re.sub(r"font-family: [^;\"]*;?", "", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    return tag
