"""Figures of a grid: one map of all places, complete media beside hidden ones, in the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from simulations.figures import ACCENT, SECOND, STYLE, page_svg
from simulations.scenarios.modality_record import Entry, ModalityGrid

_WIDTH, _ROW = 7.4, 0.235


def subset_name(entry: Entry) -> str:
    """`text + image`."""
    return " + ".join(entry.modalities)


def heat_map(record: ModalityGrid) -> str:
    """ndcg@10 of every subset (rows) and fusion (columns); one panel per share of hidden media, one scale for all."""
    table = record.findings.table
    rows = list(dict.fromkeys(map(subset_name, table)))
    columns = list(dict.fromkeys(entry.fusion for entry in table))
    shares = list(dict.fromkeys(entry.hidden for entry in table))
    values = [entry.test.value for entry in table]
    with mpl.rc_context({**STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        height = 1.05 + _ROW * len(rows)
        figure = Figure(figsize=(_WIDTH, height))
        panels = figure.subplots(1, len(shares), squeeze=False, sharey=True)[0]
        for axes, share in zip(panels, shares, strict=True):
            _panel(axes, [entry for entry in table if entry.hidden == share], rows, columns, (min(values), max(values)))
            axes.set_title(hidden_name(share), fontsize=8.4, loc="left")
        for best in record.findings.best:
            place = columns.index(best.fusion), rows.index(subset_name(best))
            frame = Rectangle(place, 1, 1, fill=False, edgecolor=SECOND, lw=1.8, zorder=3)
            panels[shares.index(best.hidden)].add_patch(frame)
        figure.subplots_adjust(left=0.23, right=0.995, top=1 - 0.25 / height, bottom=0.78 / height, wspace=0.04)
        return page_svg(figure, "g1")


def hidden_name(share: str) -> str:
    """A share of hidden media in words."""
    return "media as they are" if share == "0" else f"{float(share):.0%} of the media hidden"


def _panel(
    axes: Axes, entries: Sequence[Entry], rows: Sequence[str], columns: Sequence[str], span: tuple[float, float]
) -> None:
    low, high = span
    for entry in entries:
        x, y = columns.index(entry.fusion), rows.index(subset_name(entry))
        shade = (entry.test.value - low) / (high - low) if high > low else 1.0
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=ACCENT, alpha=0.06 + 0.62 * shade, lw=0))
        text = f"{entry.test.value:.3f}".removeprefix("0")
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center_baseline", fontsize=6.4)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    names = [name.replace("_", " ") for name in columns]
    axes.set_xticks([x + 0.6 for x in range(len(columns))], names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks([y + 0.5 for y in range(len(rows))], list(rows))
    axes.tick_params(length=0, labelsize=7.4)
