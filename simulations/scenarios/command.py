"""`mmrec simulate --scenario NAME`: run or go on with a grid, and say where its page is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mmrec_model.bars import Bars
from simulations.embedded import embedded_data
from simulations.scenarios.grid_figures import hidden_name, subset_name
from simulations.scenarios.grid_page import answer_sentences, plus_minus
from simulations.scenarios.grid_record import GridRecord
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
        overwrite: forget the finished cells of the folder.
        command: the command line that repeats the grid.
        data_name: what the data is called.

    Raises:
        UsageError: no such scenario, or a folder or filter that does not fit.
        MmrecError: a cell failed.
    """
    scenario = scenario_of(name)
    claim(base.out, overwrite=overwrite)
    with Bars() as bars:
        source = embedded_data(base.out, base.seed, bars) if embedded else base.data
        training = base.training.model_copy(update={"rounds": scenario.rounds if rounds is None else rounds})
        base = replace(base, data=source, training=training)
        record = run_grid(scenario, base, seeds=seeds, only=only, command=command, name=data_name, progress=bars)
    _show(record, base.out)


def _show(record: GridRecord, out: Path) -> None:
    console = Console()
    for best in record.findings.best:
        where = f"{subset_name(best)}, {best.fusion}"
        console.print(f"{hidden_name(best.hidden)}: {where}, ndcg@10 {plus_minus(best.test)}", highlight=False)
    if record.findings.answer is not None:
        console.print(f"known answer: {' '.join(answer_sentences(record.findings.answer))}", highlight=False)
    console.print(
        f"{len(record.cells)} of {record.cells_in_grid} cells; report: {out / 'report.html'}", highlight=False
    )
