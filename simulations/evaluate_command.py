"""`mmrec evaluate`: an exported model on a public panel, of people who agreed to be measured, without any partner.

Reads the model's folder, its feature bundle and the panel; sends nothing. The popularity of items, and so the slices by
it, is that of the panel's own train rows. Figures carry no noise: run it on data that may be published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(help="Folder `model` of a run.")]
Data = Annotated[Path, typer.Option(help="The panel: a folder in partner format.")]
Features = Annotated[Path | None, typer.Option(help="The run's feature bundle; by default `features` beside MODEL.")]
Split = Annotated[
    str | None,
    typer.Option(help="How to hold out (docs/evaluation.md); by default as the panel pins, or the last item."),
]
Out = Annotated[Path | None, typer.Option(help="Write the record to this file.")]
Page = Annotated[Path | None, typer.Option(help="Write an HTML page to this file.")]
Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate")(evaluate)


def evaluate(  # noqa: PLR0917 - one argument per option
    model: Model,
    data: Data,
    features: Features = None,
    split: Split = None,
    out: Out = None,
    page: Page = None,
    as_json: Json = False,
) -> None:
    """Measure an exported model on a public panel of users who agreed to it."""
    from rich.markup import escape  # noqa: PLC0415

    from mmrec_model.bars import Bars  # noqa: PLC0415
    from mmrec_model.data.split_rules import SplitRule  # noqa: PLC0415
    from simulations import public_panel  # noqa: PLC0415
    from simulations.quality_page import write_quality_page  # noqa: PLC0415
    from simulations.quality_record import quality_json, write_quality  # noqa: PLC0415

    rule = None if split is None else SplitRule.parse(split)
    with Bars() as bars:
        record, notices = public_panel.assess_export(
            model, data, features=features, rule=rule, progress=lambda done, total: bars("scoring", done, total)
        )
        for notice in notices:
            bars.say(escape(notice))
    if out is not None:
        write_quality(record, out)
    if page is not None:
        write_quality_page([record], page)
    if as_json:
        typer.echo(quality_json(record), nl=False)
    else:
        public_panel.show(record)
