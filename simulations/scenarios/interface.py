"""What a scenario is: a plain function from a base recipe to a list of named cells, and a page over their records.

A cell is a variation of the recipe: one short federation through the loopback door. The runner prepares data, partners
and feature bundles once, runs the cells that are not finished yet, finds the rivals that the scenario wants beside
them, and hands all records to the scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from mmrec_model.config import Modality
from mmrec_model.errors import UsageError
from simulations.scenarios.grid_record import CellFile, FindingsT, GridRecord
from simulations.scenarios.rival_record import RivalFile
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
class Evidence:
    """What a scenario concludes from.

    Attributes:
        cells: finished ones, at least one; all with the same test users.
        chance: ndcg@10 of a random order.
        known: the truth behind synthetic data.
        rivals: those that were found, with the same test users.
    """

    cells: Sequence[CellFile]
    chance: float
    known: KnownAnswer | None = None
    rivals: Sequence[RivalFile] = ()


@dataclass(frozen=True)
class RivalPlan:
    """Which rivals a scenario wants beside its cells.

    Attributes:
        recipe: its partners are those that stay alone or add noise of their own.
        epsilons: prices of the rivals that have one.
    """

    recipe: Recipe
    epsilons: tuple[float, ...]


@dataclass(frozen=True)
class Scenario(Generic[FindingsT]):
    """A named grid.

    Attributes:
        name: what `--scenario` calls it.
        rounds: federated rounds of a cell, unless the command says otherwise.
        sets: options of the command, by parameter name, that the scenario sets itself and would not read.
        cells: from the base recipe, the modalities of its feature bundle and a number of seeds to all cells.
        conclude: from what was measured to findings.
        page: the whole grid as HTML.
        summary: lines for the screen.
        record: class of its `grid.json`.
        rivals: from the base recipe to the rivals that are found once beside the cells; None for none.
    """

    name: str
    rounds: int
    sets: frozenset[str]
    cells: Callable[[Recipe, Sequence[Modality], int], list[Cell]]
    conclude: Callable[[Evidence], FindingsT]
    page: Callable[[GridRecord[FindingsT]], str]
    summary: Callable[[GridRecord[FindingsT]], list[str]]
    record: type[GridRecord[FindingsT]]
    rivals: Callable[[Recipe], RivalPlan] | None = None


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
