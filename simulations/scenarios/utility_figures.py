"""The figure of a grid of prices: ndcg@10 against epsilon, in the colours of the page; every rival has its line."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulations.figures import ACCENT, SECOND, SOFT, STYLE, Line, end_labels, page_svg
from simulations.scenarios.utility_record import SystemEntry, UtilityGrid

_WIDTH, _HEIGHT = 7.4, 6.4
_GAP = 0.032
"""Between the names at the edge, of which there are some twenty."""
_DASHES = {"central": "-", "local": (0, (4, 2.5))}
_LABELS = {
    "exported": "exported model",
    "popularity_dp": "DP popularity",
    "free_content": "free content",
    "free_content_with_prior": "free content and popularity",
    "pairs": "pairs alone",
    "collaboration": "content, popularity and pairs",
    "content": "free content",
    "free": "free content and popularity",
    "trained": "all of these and the trained part",
    "train_items_alone": "exported, train items alone",
    "at_home": "exported, with own terms at home",
    "new_places": "exported, one place in ten for new items",
    "popularity": "popularity",
    "popularity_bounded": "bounded popularity",
    "ease": "EASE",
    "item_knn": "item-kNN",
    "bpr_mf": "BPR-MF",
    "lightgcn": "LightGCN",
    "vbpr": "VBPR",
    "als": "ALS",
    "dpals": "DPALS",
    "local_ease": "EASE alone",
    "local_item_knn": "item-kNN alone",
}


def label(name: str) -> str:
    """A system for reading."""
    return _LABELS.get(name, name)


def rival_label(kind: str, name: str) -> str:
    """The rival of a floor's name spends the whole price on it."""
    return f"{label(name)} (whole price)" if (kind, name) == ("rival", "popularity_dp") else label(name)


def utility_figure(record: UtilityGrid) -> str:
    """Lines of the exported model, of what is free and of the private rivals; a level of each without privacy."""
    systems = record.findings.systems
    epsilons = list(dict.fromkeys(one.epsilon for one in systems if one.kind == "exported" and one.epsilon))
    lines: list[Line] = []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT))
        axes = figure.subplots()
        drawn = (("exported", "exported", ACCENT, "own"), ("home", "at_home", ACCENT, "own"),
                 ("rung", "free_content_with_prior", SECOND, "floor"),
                 ("rung", "free_content", SECOND, "floor"), ("rung", "popularity_dp", SECOND, "floor"),
                 ("rival", "dpals", SOFT, "baseline"), ("rival", "popularity_dp", SOFT, "baseline"))  # fmt: skip
        for kind, name, colour, line in drawn:
            for noise in _DASHES:
                here = [one for one in systems if (one.kind, one.system, one.noise) == (kind, name, noise)]
                entries = [one for epsilon in epsilons for one in here if one.epsilon == epsilon]
                if entries:
                    _line(axes, entries, epsilons, colour, noise)
                    if name != "free_content" or noise == "central":
                        told = label(name) if name == "free_content" else f"{rival_label(kind, name)}, {noise}"
                        lines.append(Line(told, entries[-1].ndcg.value, line))
        for one in levels(systems):
            axes.axhline(one.ndcg.value, color=SOFT, lw=1.0, ls=(0, (1, 2)))
            lines.append(Line(label(one.system), one.ndcg.value, "baseline"))
        end = max(1, len(epsilons) - 1)
        end_labels(axes, lines, end, gap=_GAP)
        axes.set_xlim(-0.03 * end, end * 1.015)
        axes.set_ylim(0, 1.15 * max((line.value for line in lines), default=1.0) or 1.0)
        axes.set_xticks(
            range(len(epsilons)), ["no privacy" if epsilon == "inf" else f"ε {epsilon}" for epsilon in epsilons]
        )
        axes.set_ylabel("ndcg@10")
        axes.grid(visible=False, axis="x")
        figure.subplots_adjust(left=0.085, right=0.66, top=0.97, bottom=0.07)
        return page_svg(figure, "u1")


def _line(axes: Axes, entries: Sequence[SystemEntry], epsilons: Sequence[str], colour: str, noise: str) -> None:
    axes.errorbar(
        [epsilons.index(one.epsilon or "") for one in entries], [one.ndcg.value for one in entries],
        yerr=[2 * one.ndcg.error for one in entries],
        color=colour, ls=_DASHES[noise], marker="o", ms=3.4, mfc=colour if noise == "central" else "none",
        lw=1.8 if colour == ACCENT else 1.2, elinewidth=0.8, capsize=2,
    )  # fmt: skip


def levels(systems: Sequence[SystemEntry]) -> list[SystemEntry]:
    """Every rival without a price."""
    return [one for one in systems if one.kind == "rival" and one.epsilon is None]
