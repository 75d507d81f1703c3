"""`mmrec simulate --scenario NAME`: run or go on with a grid, and say where its page is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from rich.console import Console

from mmrec_model.bars import Bars
from mmrec_model.errors import UsageError
from simulations.embedded import embedded_data
from simulations.scenarios.registry import scenario_of
from simulations.scenarios.runner import claim, run_grid
from simulations.workspace import Recipe


def run(
    name: str,
    base: Recipe,
    *,
    embedded: bool,
    rounds: int | None,
    seeds: int,
    only: Sequence[str],
    rivals: str | None,
    given: Collection[str],
    overwrite: bool,
    command: str,
    data_name: str,
) -> None:
    """Run a scenario into the base recipe's folder.

    Args:
        name: of the scenario.
        base: what all cells have in common.
        embedded: make the embedded set; the recipe's data folder is not read.
        rounds: of every cell; None for the scenario's own number.
        seeds: repetitions of every cell.
        only: filters on the cells.
        rivals: names with commas of those to find, or `none`; None for all that the scenario has.
        given: options of the command line, by parameter name; one that the scenario would not read is refused.
        overwrite: forget the finished cells of the folder.
        command: the command line that repeats the grid.
        data_name: what the data is called.

    Raises:
        UsageError: no such scenario, or a folder, option, filter or rival that does not fit.
        MmrecError: a cell failed.
    """
    scenario = scenario_of(name)
    unread = sorted(scenario.sets & set(given))
    if unread:
        raise UsageError(
            f"the scenario {name} does not read --{unread[0].replace('_', '-')}", remedy="Leave the option out"
        )
    names = None if rivals is None else [] if rivals == "none" else rivals.split(",")
    claim(base.out, overwrite=overwrite)
    with Bars() as bars:
        source = embedded_data(base.out, base.seed, bars) if embedded else base.data
        training = base.training.model_copy(update={"rounds": scenario.rounds if rounds is None else rounds})
        base = replace(base, data=source, training=training)
        record = run_grid(
            scenario, base, seeds=seeds, only=only, rivals=names, command=command, name=data_name, progress=bars
        )
    console = Console()
    for line in scenario.summary(record):
        console.print(line, highlight=False)
    console.print(
        f"{len(record.cells)} of {record.cells_in_grid} cells; report: {base.out / 'report.html'}", highlight=False
    )
