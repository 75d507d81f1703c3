"""Run the cells of a scenario: what they share is made once, a finished cell is kept and never run again.

    OUT/data/              the embedded set, when no data is given
    OUT/features/SHARE/    one feature bundle per share of hidden media
    OUT/cells/NAME.json    every finished cell, written whole or not at all
    OUT/rivals/NAME.json   every rival that was found, where the scenario wants some
    OUT/work/NAME/         the federation of the cell that runs now; real sites with fresh ledgers
    OUT/grid.json          the whole grid, and report.html beside it

Each cell is a federation of its own through the loopback door, as if the others did not exist: the price of a cell is
what its sites' ledgers allow it, and trying many of them on real data would cost the sum. A cell is bound to its plan,
its partners and their interactions by a digest, so a folder never mixes cells of two grids.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import RunConfig
from mmrec_model.data.schema import INTERACTIONS
from mmrec_model.data.tables import find_file
from mmrec_model.errors import UsageError
from mmrec_model.features.bundle import FeatureBundle
from mmrec_model.storage import sha256_of_file, write_atomically
from simulations import federation
from simulations.partition import Groups
from simulations.progress import Progress
from simulations.record import software
from simulations.report import REPORT_FILE
from simulations.scenarios.cell_assessment import CHANCE, Finished, Measures, assess_cell
from simulations.scenarios.grid_record import (
    EXPORTED,
    GRID_FILE,
    CellFile,
    FindingsT,
    GridRecord,
    read_cell,
    write_record,
)
from simulations.scenarios.interface import Cell, Evidence, Scenario, select
from simulations.scenarios.rival_record import RivalFile
from simulations.scenarios.rival_runs import Arena, find_rivals, refuse_unknown
from simulations.synthetic.answer import FILE_NAME, KnownAnswer
from simulations.workspace import MARKER, Recipe, divide, encode, found, plan

CELLS = "cells"
RIVALS = "rivals"
_WORK = "work"


@dataclass
class Shared:
    """What cells have in common: bundles by share of hidden media, and partners by how users are divided."""

    base: Recipe
    bundles: dict[float, FeatureBundle] = field(default_factory=dict)
    divided: dict[tuple[str | None, int | None], Groups] = field(default_factory=dict)

    def recipe(self, cell: Cell) -> Recipe:
        """The recipe of a cell with the bundle that it reads, in a folder of its own: a process opens a site once."""
        folder = _bundle_folder(self.base.out, cell.recipe.hidden)
        return replace(cell.recipe, out=self.base.out / _WORK / cell.name, features=folder)

    def groups(self, recipe: Recipe) -> Groups:
        """The partners of a recipe; they do not depend on the seed of a repetition."""
        key = (recipe.silo, recipe.partners)
        if key not in self.divided:
            self.divided[key] = divide(replace(recipe, seed=self.base.seed))
        return self.divided[key]

    def data(self, recipe: Recipe) -> str:
        """Digest of all that a recipe's sites read."""
        groups: dict[str, JsonValue] = {name: list[JsonValue](users) for name, users in self.groups(recipe).items()}
        split = None if recipe.split is None else str(recipe.split)
        return sha256_hex(canonical_json({"interactions": self._rows, "partners": groups, "split": split}))

    @cached_property
    def _rows(self) -> str:
        table = find_file(self.base.data, INTERACTIONS)
        return "" if table is None else sha256_of_file(table)


def claim(out: Path, *, overwrite: bool) -> None:
    """Make a folder for a grid, or take the one of a grid that was stopped.

    Raises:
        UsageError: the folder holds something else.
    """
    strange = out.exists() and any(out.iterdir()) and not (out / CELLS).is_dir()
    if (strange and not (out / "data" / FILE_NAME).is_file()) or (out / MARKER).exists():
        raise UsageError(f"{out} is not empty and holds no grid", remedy="Name a new folder with --out")
    if overwrite:
        for part in (CELLS, RIVALS, _WORK, "features"):
            shutil.rmtree(out / part, ignore_errors=True)
        for name in (GRID_FILE, REPORT_FILE):
            (out / name).unlink(missing_ok=True)
    (out / CELLS).mkdir(parents=True, exist_ok=True)


def run_grid(
    scenario: Scenario[FindingsT],
    base: Recipe,
    *,
    seeds: int,
    only: Sequence[str],
    rivals: Sequence[str] | None,
    command: str,
    name: str,
    progress: Progress,
) -> GridRecord[FindingsT]:
    """Run what is not finished, then write `grid.json` and the page.

    Args:
        scenario: the grid.
        base: what all cells have in common; its folder was claimed.
        seeds: repetitions of every cell.
        only: filters on the cells (`select`); finished cells outside of them count in the result.
        rivals: names of those to find, where the scenario has any; None for all.
        command: the command line that repeats the grid.
        name: of the data.
        progress: told about every encoded item, every cell and every rival.

    Raises:
        UsageError: a filter that fits no cell, an unknown rival, or a finished cell that was made from something else.
        MmrecError: a cell failed.
    """
    shared = Shared(base)
    whole = _encoded(base, 0.0, progress)
    cells = scenario.cells(base, whole.modalities, seeds)
    _refuse_strangers(base.out, cells)
    arena = _arena(scenario, shared, whole)
    if arena is not None:
        refuse_unknown(arena, rivals)
    chosen = {cell.name for cell in select(cells, only)}
    wanted = [cell for cell in cells if cell.name in chosen or _file(base.out, cell).is_file()]
    for share in dict.fromkeys(cell.recipe.hidden for cell in wanted):
        shared.bundles[share] = _encoded(base, share, progress) if share else whole
    measures = Measures()
    files = []
    for done, cell in enumerate(wanted):
        progress("cells", done, len(wanted))
        files.append(_finished(cell, shared) or _run(cell, shared, measures))
    progress("cells", len(wanted), len(wanted))
    with federation.one_thread():
        numbers = range(base.seed, base.seed + seeds)
        found = [] if arena is None else find_rivals(arena, rivals, numbers, progress)
    shutil.rmtree(base.out / _WORK, ignore_errors=True)
    record = _grid(scenario, shared, files, found, (len(cells), seeds), (command, name))
    write_record(record, base.out / GRID_FILE)
    write_atomically(base.out / REPORT_FILE, scenario.page(record).encode())
    return record


def _arena(scenario: Scenario[FindingsT], shared: Shared, whole: FeatureBundle) -> Arena | None:
    """Where the scenario's rivals are found; None where it has none."""
    if scenario.rivals is None:
        return None
    wanted = scenario.rivals(shared.base)
    return Arena(
        wanted,
        shared.base.out / RIVALS,
        shared.base.out / _WORK / RIVALS,
        shared.groups(wanted.recipe),
        whole,
        sha256_hex(f"{shared.data(wanted.recipe)} {whole.digest}".encode()),
    )


def _encoded(base: Recipe, share: float, progress: Progress) -> FeatureBundle:
    """The bundle of a share of hidden media; vectors of media that were encoded before come from the store."""
    stage = f" ({share:.0%} hidden)" if share else ""
    recipe = replace(base, hidden=share, features=_bundle_folder(base.out, share))
    return encode(
        recipe,
        lambda medium, done, total, unreadable: progress(f"encoding {medium}{stage}", done, total, unreadable),
    )


def _bundle_folder(out: Path, share: float) -> Path:
    return out / "features" / f"{share:g}"


def _file(out: Path, cell: Cell) -> Path:
    return out / CELLS / f"{cell.name}.json"


def _refuse_strangers(out: Path, cells: Sequence[Cell]) -> None:
    strange = {path.name for path in (out / CELLS).glob("*.json")} - {_file(out, cell).name for cell in cells}
    if strange:
        raise _of_another_grid(min(strange))


def _of_another_grid(name: str) -> UsageError:
    return UsageError(
        f"{name} was made with other settings, data or features than this grid asks for",
        remedy="Name a new folder with --out, repeat the settings, or add --overwrite",
    )


def _inputs(shared: Shared, recipe: Recipe, config: RunConfig) -> str:
    return sha256_hex(f"{shared.data(recipe)} {config.digest}".encode())


def _finished(cell: Cell, shared: Shared) -> CellFile | None:
    """The cell as it was left by an earlier start.

    Raises:
        UsageError: it was made from other data, by another plan or with other features.
    """
    path = _file(shared.base.out, cell)
    if not path.is_file():
        return None
    kept = read_cell(path)
    recipe = shared.recipe(cell)
    config = plan(recipe, shared.bundles[recipe.hidden], shared.groups(recipe))
    if kept.inputs != _inputs(shared, recipe, config):
        raise _of_another_grid(path.name)
    return kept


def _run(cell: Cell, shared: Shared, measures: Measures) -> CellFile:
    started = time.monotonic()
    recipe, bundle = shared.recipe(cell), shared.bundles[cell.recipe.hidden]
    shutil.rmtree(recipe.out, ignore_errors=True)
    recipe.out.mkdir(parents=True)
    # The coordinator reads the bundle in its own workspace; all cells have the same.
    (recipe.out / "features").symlink_to(recipe.bundle_folder)
    config = plan(recipe, bundle, shared.groups(recipe))
    sites = found(recipe, shared.groups(recipe), config)
    federation.train(federation.Prepared(recipe, config, bundle, sites), "loopback", _silent, federation.Stopwatch())
    with federation.one_thread():
        record, ranks = assess_cell(Finished(cell, recipe, config, sites, shared.data(recipe)), measures)
    record = record.model_copy(update={"seconds": time.monotonic() - started})
    kept = CellFile(inputs=_inputs(shared, recipe, config), record=record, test_ranks=ranks)
    write_record(kept, _file(shared.base.out, cell))
    shutil.rmtree(recipe.out)
    return read_cell(_file(shared.base.out, cell))


def _grid(  # noqa: PLR0917 - the parts of the file
    scenario: Scenario[FindingsT],
    shared: Shared,
    files: Sequence[CellFile],
    rivals: Sequence[RivalFile],
    size: tuple[int, int],
    names: tuple[str, str],
) -> GridRecord[FindingsT]:
    base, bundles = shared.base, shared.bundles
    known = KnownAnswer.load(base.data) if (base.data / FILE_NAME).is_file() else None
    records = [file.record for file in files]
    chance = records[0].floors[CHANCE]
    epsilon = records[0].epsilon if len({record.epsilon for record in records}) == 1 else None
    return scenario.record(
        scenario=scenario.name,
        command=names[0],
        version=software(),
        data=names[1],
        users=max(sum(map(len, groups.values())) for groups in shared.divided.values()),
        items=len(next(iter(bundles.values())).item_ids),
        partners=max(map(len, shared.divided.values())),
        users_evaluated=len(files[0].test_ranks[EXPORTED]),
        epsilon=epsilon,
        delta=None if all(record.epsilon is None for record in records) else base.delta,
        rounds=base.training.rounds,
        seed=base.seed,
        seeds=size[1],
        bundles={f"{share:g}": bundle.digest for share, bundle in bundles.items()},
        cells_in_grid=size[0],
        chance=chance,
        cells=records,
        findings=scenario.conclude(Evidence(files, chance.ndcg_at_10, known, rivals)),
    )


def _silent(stage: str, done: int, total: int, unreadable: int = 0) -> None:
    """The bar of a grid counts cells."""
