"""A run record as one page that a person can read: self-contained HTML without scripts, fonts or pictures from outside.

Every text of the record is escaped by the template engine, and a content policy in the page forbids scripts and any
request, so a partner's name cannot act. Equal records give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmrec_model.storage import write_atomically
from simulations import figures, report_content, report_ladder, report_numbers, report_promise
from simulations.run_record import RunRecord, parse_run

REPORT_FILE = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: Mapping[str, object], folder: Path) -> Path:
    """Render `report.html` from the dictionary of a `run.json`.

    Args:
        run: the document, as `run_record.as_json` gives it.
        folder: where the page goes; made if absent.

    Returns:
        The path of the page.

    Raises:
        DataError: the dictionary is not of the schema.
    """
    path = folder / REPORT_FILE
    write_atomically(path, render(parse_run(run)).encode())
    return path


def render(record: RunRecord) -> str:
    """The page as HTML text."""
    limit = report_content.budget(record)
    drawings = {
        "verdict": figures.verdict_interval(record),
        "curve": figures.learning_curve(record, report_content.levels(record)),
        "epsilon": None if limit is None else figures.epsilon_spent(record, limit),
        "clip": figures.clip_curve(record),
        "partners": figures.partner_map(record),
    }
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            run=record,
            say=report_content,
            promise=report_promise,
            ladder=report_ladder,
            metric=record.verdict.metric,
            metric_label=figures.metric_label(record.verdict.metric),
            # The drawings escape what they show; everything else is escaped here.
            figures={name: Markup(svg) if svg else None for name, svg in drawings.items()},  # noqa: S704
            budget=limit,
        )
    )


def page_environment() -> Environment:
    """Templates, escaping and number formats of every page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(report_numbers.FILTERS)
    return environment
