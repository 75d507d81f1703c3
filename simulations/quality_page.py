"""The quality of one or several systems as a part of a page: small tables and one figure, without scripts.

Every text is escaped by the template engine, names in the drawing by the drawing itself; equal records give equal text.
The part expects the style sheet of the report around it (`templates/report.css`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from mmrec_model.errors import DataError
from mmrec_model.storage import write_atomically
from simulations.figures import ACCENT, INK, SECOND, SOFT, STYLE, metric_label, page_svg, shown_name
from simulations.quality_record import QualityRecord, SliceRecord
from simulations.report import page_environment
from simulations.report_content import label

METRIC = "ndcg_at_10"
_MARKS = ((ACCENT, "o"), (SECOND, "s"), (INK, "D"), (SOFT, "^"))
_SHOWN = {"all": "whole history", "0": "nothing known", "1": "last event", "3": "last 3 events", "5": "last 5 events"}
MOST_SYSTEMS = len(_MARKS)
"""Systems in the figure; the tables show all of them."""


def quality_fragment(records: Sequence[QualityRecord]) -> Markup:
    """One HTML section on systems that were assessed on one panel, the first being the one that the page is about.

    Args:
        records: at least one; same panel, split and catalogue.

    Raises:
        DataError: no record, or records of different panels.
    """
    facts = {(one.split, one.items, one.overall.users, one.overall.targets) for one in records}
    if len(facts) != 1:
        raise DataError(
            f"{len(facts)} panels on one page, 1 is needed", remedy="Show systems that were assessed on the same users"
        )
    template = page_environment().get_template("quality.html.j2")
    text = template.render(
        records=records,
        first=records[0],
        slices=list(slice_rows(records)),
        metric=METRIC,
        metric_label=metric_label(METRIC),
        name=label,
        label=metric_label,
        # The drawing escapes what it shows; everything else is escaped by the template.
        figure=Markup(slice_figure(records[:MOST_SYSTEMS])),  # noqa: S704
    )
    return Markup(text)  # noqa: S704 - rendered with escaping on


def write_quality_page(records: Sequence[QualityRecord], path: Path) -> None:
    """A page of its own around the fragment.

    Raises:
        DataError: as `quality_fragment`.
    """
    page = page_environment().get_template("quality_page.html.j2")
    write_atomically(path, page.render(section=quality_fragment(records), title=records[0].system).encode())


def slice_rows(records: Sequence[QualityRecord]) -> Iterator[tuple[str, str, list[SliceRecord | None]]]:
    """Every slice that has users: its group, its name, and the slice of each record."""
    first = records[0]
    groups = (
        ("Held-out item", "targets", list(first.targets)),
        ("New users", "new_users", list(first.new_users)),
        ("Activity", "activity", list(first.activity)),
        ("Taste", "taste", list(first.taste)),
    )
    if first.held_out is not None and first.held_out.users:
        yield "Held-out item", "kept out of training", [one.held_out for one in records]
    if first.held_out_placed is not None and first.held_out_placed.users:
        yield "Held-out item", "with places for new items", [one.held_out_placed for one in records]
    for group, attribute, names in groups:
        for name in names:
            if getattr(first, attribute)[name].users:
                told = _SHOWN.get(name, name) if group == "New users" else name
                yield group, told, [getattr(one, attribute).get(name) for one in records]


def slice_figure(records: Sequence[QualityRecord]) -> str:
    """The metric of every slice with its standard error, one mark per system, and chance as a tick; as SVG."""
    rows = list(slice_rows(records))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 0.9 + 0.23 * len(rows)))
        axes = figure.subplots()
        for place, (record, (colour, mark)) in enumerate(zip(records, _MARKS, strict=False)):
            shift = 0.16 * (place - (len(records) - 1) / 2)
            shown = [
                (y, part.metrics[METRIC])
                for y, (_, _, each) in enumerate(rows)
                if (part := each[place]) is not None and part.metrics
            ]
            axes.errorbar(
                [one.value for _, one in shown], [y + shift for y, _ in shown], xerr=[one.error for _, one in shown],
                color=colour, marker=mark, ms=4.0, lw=1.0, ls="", label=shown_name(label(record.system)),
            )  # fmt: skip
        level = [(y, one.metrics[METRIC].chance) for y, (_, _, (one, *_)) in enumerate(rows) if one and one.metrics]
        axes.plot([x for _, x in level], [y for y, _ in level], color=SOFT, marker="|", ms=9, ls="", label="chance")
        axes.set_yticks(range(len(rows)), [f"{group}: {name}" for group, name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(left=0.0)
        axes.set_xlabel(metric_label(METRIC))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelsize=7.8)
        axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.55 / (0.23 * len(rows) + 0.3)), ncols=5, frameon=False)
        figure.subplots_adjust(left=0.27, right=0.985, top=0.985, bottom=0.75 / (0.9 + 0.23 * len(rows)))
        return page_svg(figure, "q1")
