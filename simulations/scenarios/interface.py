"""What a scenario is: a plain function from a base recipe to a list of named cells, and a page over their records.

A cell is a variation of the recipe: one short federation through the loopback door. The runner prepares data, partners
and feature bundles once, runs the cells that are not finished yet, and hands their records to the scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmrec_model.config import Modality
from mmrec_model.errors import UsageError
from simulations.scenarios.grid_record import CellFile, Findings, GridRecord
from simulations.synthetic.answer import KnownAnswer
from simulations.workspace import Recipe


@dataclass(frozen=True)
class Cell:
    """One federation of a grid.

    Attributes:
        axes: what makes it different, by axis; the values are safe in file names.
        recipe: its variation of the base recipe; the runner sets folders.
    """

    axes: Mapping[str, str]
    recipe: Recipe

    @property
    def name(self) -> str:
        """Unique in its grid, and safe as a file name."""
        return "_".join(f"{axis}-{value}" for axis, value in self.axes.items())


@dataclass(frozen=True)
class Scenario:
    """A named grid.

    Attributes:
        name: what `--scenario` calls it.
        rounds: federated rounds of a cell, unless the command says otherwise.
        cells: from the base recipe, the modalities of its feature bundle and a number of seeds to all cells.
        conclude: from finished cells, the chance level of the metric and the known answer to what the grid shows.
        page: the whole grid as HTML.
    """

    name: str
    rounds: int
    cells: Callable[[Recipe, Sequence[Modality], int], list[Cell]]
    conclude: Callable[[Sequence[CellFile], float, KnownAnswer | None], Findings]
    page: Callable[[GridRecord], str]


def select(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that pass every filter.

    Args:
        cells: all of a grid.
        only: filters `AXIS=VALUE` or `AXIS=VALUE,VALUE`; filters of one axis add up.

    Raises:
        UsageError: a filter of another form, or an axis or value that no cell has.
    """
    wanted: dict[str, set[str]] = {}
    for text in only:
        axis, _, values = text.partition("=")
        known = sorted({cell.axes[axis] for cell in cells if axis in cell.axes})
        for value in values.split(","):
            if value not in known:
                axes = ", ".join(cells[0].axes) if cells else "none"
                raise UsageError(
                    f"--only {text!r}: no cell has {axis!r} of {value!r}, known are {known[:20]}",
                    remedy=f"Write AXIS=VALUE with an axis of {axes}",
                )
            wanted.setdefault(axis, set()).add(value)
    return [cell for cell in cells if all(cell.axes[axis] in values for axis, values in wanted.items())]
