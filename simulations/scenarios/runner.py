"""Run the cells of a scenario: what they share is made once, a finished cell is kept and never run again.

    OUT/data/              the embedded set, when no data is given
    OUT/features/SHARE/    one feature bundle per share of hidden media
    OUT/cells/NAME.json    every finished cell, written whole or not at all
    OUT/work/NAME/         the federation of the cell that runs now; real sites with fresh ledgers
    OUT/grid.json          the whole grid, and report.html beside it

Each cell is a federation of its own through the loopback door, as if the others did not exist: the price of a cell is
what its sites' ledgers allow it, and trying many of them on real data would cost the sum. A cell is bound to its plan,
its partners and their interactions by a digest, so a folder never mixes cells of two grids.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.pricing import price
from client.site import Site
from mmrec_model.canonical import canonical_json, sha256_hex
from mmrec_model.config import RunConfig
from mmrec_model.data.schema import INTERACTIONS
from mmrec_model.data.tables import find_file
from mmrec_model.errors import UsageError
from mmrec_model.evaluation.ranking import Ranks, chance_level, paired_difference
from mmrec_model.features.bundle import FeatureBundle
from mmrec_model.model.items import Items
from mmrec_model.planning import plan_events
from mmrec_model.protocol import Arrays, trained_arrays
from mmrec_model.storage import sha256_of_file, write_atomically
from server.journal import read_journal
from simulations import federation
from simulations.assessment import Panel, Part, all_metrics, errors, floor_ranks, metrics, model_ranks, panel_of
from simulations.partition import Groups
from simulations.progress import Progress
from simulations.record import final_state, software
from simulations.report import REPORT_FILE
from simulations.run_record import Metrics, Verdict
from simulations.scenarios.grid_record import GRID_FILE, CellFile, CellRecord, GridRecord, read_cell, write_record
from simulations.scenarios.interface import Cell, Scenario, select
from simulations.synthetic.answer import FILE_NAME, KnownAnswer
from simulations.workspace import MARKER, Recipe, divide, encode, found, plan

CELLS = "cells"
CHANCE = "chance"
_WORK = "work"


@dataclass(frozen=True)
class Shared:
    """What all cells have in common: partners, feature bundles by share of hidden media, and a digest of the data."""

    base: Recipe
    groups: Groups
    bundles: dict[float, FeatureBundle]
    digest: str

    def recipe(self, cell: Cell) -> Recipe:
        """The recipe of a cell with the bundle that it reads, in a folder of its own: a process opens a site once."""
        folder = _bundle_folder(self.base.out, cell.recipe.hidden)
        return replace(cell.recipe, out=self.base.out / _WORK / cell.name, features=folder)


@dataclass
class Measures:
    """What cells are measured with, made once: the users of both parts, and the floors of what a model may read."""

    panels: dict[Part, Panel] = field(default_factory=dict)
    floors: dict[str, dict[str, Ranks]] = field(default_factory=dict)

    def panel(self, sites: Sequence[Site], part: Part) -> Panel:
        """All users with a held-out item of `part`; the same in every cell."""
        if part not in self.panels:
            self.panels[part] = panel_of([site.dataset for site in sites], part)
        return self.panels[part]

    def floors_of(self, config: RunConfig, items: Items, test: Panel, state: Arrays) -> dict[str, Ranks]:
        """The floors; families that fuse vectors share one untrained model, which reads no trained weight."""
        trained = set() if config.model.fusion == "decision" else {"fusion", "fusion_layers", "fusion_heads"}
        key = sha256_hex(canonical_json(config.model_dump(mode="json", exclude={"model": trained})))
        if key not in self.floors:
            self.floors[key] = floor_ranks(config, items, test, state)
        return self.floors[key]


def claim(out: Path, *, overwrite: bool) -> None:
    """Make a folder for a grid, or take the one of a grid that was stopped.

    Raises:
        UsageError: the folder holds something else.
    """
    strange = out.exists() and any(out.iterdir()) and not (out / CELLS).is_dir()
    if (strange and not (out / "data" / FILE_NAME).is_file()) or (out / MARKER).exists():
        raise UsageError(f"{out} is not empty and holds no grid", remedy="Name a new folder with --out")
    if overwrite:
        for part in (CELLS, _WORK, "features"):
            shutil.rmtree(out / part, ignore_errors=True)
        for name in (GRID_FILE, REPORT_FILE):
            (out / name).unlink(missing_ok=True)
    (out / CELLS).mkdir(parents=True, exist_ok=True)


def run_grid(
    scenario: Scenario,
    base: Recipe,
    *,
    seeds: int,
    only: Sequence[str],
    command: str,
    name: str,
    progress: Progress,
) -> GridRecord:
    """Run what is not finished, then write `grid.json` and the page.

    Args:
        scenario: the grid.
        base: what all cells have in common; its folder was claimed.
        seeds: repetitions of every cell.
        only: filters on the cells (`select`); finished cells outside of them count in the result.
        command: the command line that repeats the grid.
        name: of the data.
        progress: told about every encoded item and every cell.

    Raises:
        UsageError: a filter that fits no cell, or a finished cell that was made from something else.
        MmrecError: a cell failed.
    """
    groups = divide(base)
    whole = _encoded(base, 0.0, progress)
    cells = scenario.cells(base, whole.modalities, seeds)
    _refuse_strangers(base.out, cells)
    chosen = {cell.name for cell in select(cells, only)}
    wanted = [cell for cell in cells if cell.name in chosen or _file(base.out, cell).is_file()]
    shares = dict.fromkeys(cell.recipe.hidden for cell in wanted)
    bundles = {share: _encoded(base, share, progress) if share else whole for share in shares}
    shared = Shared(base, groups, bundles, _digest(base, groups))
    measures = Measures()
    files = []
    for done, cell in enumerate(wanted):
        progress("cells", done, len(wanted))
        files.append(_finished(cell, shared) or _run(cell, shared, measures))
    progress("cells", len(wanted), len(wanted))
    shutil.rmtree(base.out / _WORK, ignore_errors=True)
    record = _grid(scenario, shared, files, (len(cells), seeds), (command, name))
    write_record(record, base.out / GRID_FILE)
    write_atomically(base.out / REPORT_FILE, scenario.page(record).encode())
    return record


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


def _digest(base: Recipe, groups: Groups) -> str:
    table = find_file(base.data, INTERACTIONS)
    rows = "" if table is None else sha256_of_file(table)
    return sha256_hex(
        canonical_json({"interactions": rows, "partners": {n: list(users) for n, users in groups.items()}})
    )


def _inputs(shared: Shared, config: RunConfig) -> str:
    return sha256_hex(f"{shared.digest} {config.digest}".encode())


def _finished(cell: Cell, shared: Shared) -> CellFile | None:
    """The cell as it was left by an earlier start.

    Raises:
        UsageError: it was made from other data, by another plan or with other features.
    """
    path = _file(shared.base.out, cell)
    if not path.is_file():
        return None
    kept = read_cell(path)
    config = plan(shared.recipe(cell), shared.bundles[cell.recipe.hidden], shared.groups)
    if kept.inputs != _inputs(shared, config):
        raise _of_another_grid(path.name)
    return kept


def _run(cell: Cell, shared: Shared, measures: Measures) -> CellFile:
    started = time.monotonic()
    recipe, bundle = shared.recipe(cell), shared.bundles[cell.recipe.hidden]
    shutil.rmtree(recipe.out, ignore_errors=True)
    config = plan(recipe, bundle, shared.groups)
    sites = found(recipe, shared.groups, config)
    federation.train(federation.Prepared(recipe, config, bundle, sites), "loopback", _silent, federation.Stopwatch())
    with federation.one_thread():
        record, ranks = _assessed(cell, config, sites, recipe.out, measures)
    record = record.model_copy(update={"seconds": time.monotonic() - started})
    kept = CellFile(inputs=_inputs(shared, config), record=record, test_ranks=ranks)
    write_record(kept, _file(shared.base.out, cell))
    shutil.rmtree(recipe.out)
    return kept


def _assessed(
    cell: Cell, config: RunConfig, sites: Sequence[Site], out: Path, measures: Measures
) -> tuple[CellRecord, list[int]]:
    state = final_state(out)
    items = sites[0].items.only(config.model_dims)
    test = measures.panel(sites, "test")
    ranks = model_ranks(config, items, test, state)
    floors = measures.floors_of(config, items, test, state)
    levels = all_metrics(floors)
    best = max(levels, key=lambda name: levels[name].ndcg_at_10)
    gap = paired_difference(ranks, floors[best], "ndcg_at_10", seed=config.seed)
    rounds = [event for event in read_journal(out / "coordinator" / "run.jsonl") if event.get("event") == "round"]
    rejected: Counter[str] = Counter()
    for event in rounds:
        rejected.update(event["rejected"])
    record = CellRecord(
        name=cell.name,
        axes=dict(cell.axes),
        plan_digest=config.digest,
        weights=sum(array.size for array in trained_arrays(state).values()),
        epsilon=None if config.privacy.mechanism == "none" else price(plan_events(config), config.privacy.delta),
        replies=sum(len(event["accepted"]) for event in rounds),
        rejected=dict(rejected),
        validation=metrics(model_ranks(config, items, measures.panel(sites, "val"), state)),
        test=metrics(ranks),
        standard_errors=errors(ranks),
        floors={CHANCE: Metrics(**chance_level(ranks)), **levels},
        verdict=Verdict(best_floor=best, metric="ndcg_at_10", difference=gap.mean, low=gap.low, high=gap.high),
        seconds=0.0,
    )
    return record, ranks.rank_U.tolist()


def _grid(
    scenario: Scenario, shared: Shared, files: Sequence[CellFile], size: tuple[int, int], names: tuple[str, str]
) -> GridRecord:
    base, bundles = shared.base, shared.bundles
    known = KnownAnswer.load(base.data) if (base.data / FILE_NAME).is_file() else None
    records = [file.record for file in files]
    chance = records[0].floors[CHANCE]
    return GridRecord(
        scenario=scenario.name,
        command=names[0],
        version=software(),
        data=names[1],
        users=sum(map(len, shared.groups.values())),
        items=len(next(iter(bundles.values())).item_ids),
        partners=len(shared.groups),
        users_evaluated=len(files[0].test_ranks),
        epsilon=records[0].epsilon,
        delta=None if records[0].epsilon is None else base.delta,
        rounds=base.training.rounds,
        seed=base.seed,
        seeds=size[1],
        bundles={f"{share:g}": bundle.digest for share, bundle in bundles.items()},
        cells_in_grid=size[0],
        chance=chance,
        cells=records,
        findings=scenario.conclude(files, chance.ndcg_at_10, known),
    )


def _silent(stage: str, done: int, total: int, unreadable: int = 0) -> None:
    """The bar of a grid counts cells."""
