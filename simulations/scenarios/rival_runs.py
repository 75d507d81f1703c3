"""The rivals beside a grid: each found once with the same search budget, kept on disk, and tested with every seed.

A rival with a price is found anew at every price and for each place of the noise, `central` or `local`. It is chosen by
exact validation figures of all users, which costs it nothing and so favours it (`simulations.rivals.search`). Noise
differs from seed to seed, so its configurations are compared over `NOISE_SEEDS` draws, all others by one seed. More
`--seeds` test the same choice again and search nothing.

Every rival is tested under both conventions of `simulations.scenarios.cell_assessment`: with each seed on train and
validation items as input, and with the first seed on train items alone. What was fitted is the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.dataset import PartnerDataset, open_partner
from mmrec_model.errors import UsageError
from mmrec_model.features.bundle import FeatureBundle
from mmrec_model.model.items import Items
from simulations.panels import Panel, panel_of
from simulations.partition import Groups, write_sites
from simulations.progress import Progress
from simulations.rivals.grids import Grid, grids, private_grids
from simulations.rivals.interface import Fitted, federation_of, unheard, visitors_of
from simulations.rivals.popularity import NoiseAt
from simulations.rivals.search import search, settings_of
from simulations.scenarios.cell_assessment import user_order
from simulations.scenarios.grid_record import read_record, write_record
from simulations.scenarios.interface import RivalPlan
from simulations.scenarios.rival_record import RivalFile, RivalRecord, TrialRecord

NOISE_SEEDS: Final = 3
FIXED: Final = frozenset({"popularity", "ease", "item_knn", "local_ease", "local_item_knn"})
"""Rivals that draw nothing: one test run says all."""
NOISES: Final[dict[NoiseAt, str]] = {"central": "central", "partners": "local"}
"""Who adds noise, in the words of the rivals and of the cells."""


@dataclass(frozen=True)
class Arena:
    """Where rivals are found.

    Attributes:
        plan: what the scenario wants.
        folder: of the finished rivals.
        work: of the partners' data, made if a rival is missing.
        groups: partners and their users.
        bundle: item features.
        digest: of all of that.
    """

    plan: RivalPlan
    folder: Path
    work: Path
    groups: Groups
    bundle: FeatureBundle
    digest: str

    @cached_property
    def datasets(self) -> list[PartnerDataset]:
        """Of the partners."""
        catalogue = open_catalogue(self.plan.recipe.data)
        folders = write_sites(self.plan.recipe.data, self.work, self.groups)
        return [open_partner(folder, catalogue=catalogue) for folder in folders]

    @cached_property
    def validation(self) -> Panel:
        """What chooses."""
        return panel_of(self.datasets, "val")

    @cached_property
    def test(self) -> Panel:
        """Looked at with the choice alone."""
        return panel_of(self.datasets, "test")

    @cached_property
    def alone(self) -> Panel:
        """The same users and candidates with train items alone as input."""
        return panel_of(self.datasets, "test", train_items_alone=True)

    @cached_property
    def items(self) -> Items:
        """The catalogue."""
        return Items.from_arrays(self.bundle.vectors, self.bundle.present_NM)


@dataclass(frozen=True)
class Task:
    """One rival at one price."""

    name: str
    grid: Grid
    epsilon: float | None = None
    noise: NoiseAt = "central"

    @property
    def file(self) -> str:
        """Name of its file."""
        price = "" if self.epsilon is None else f"_epsilon-{self.epsilon:g}_noise-{NOISES[self.noise]}"
        return f"{self.name}{price}.json"

    def digest(self, arena: Arena) -> str:
        """Of what it is found from."""
        grid: list[JsonValue] = [settings_of(rival) for rival in self.grid]
        return sha256_hex(arena.digest.encode() + canonical_json([*grid, *self.seeds(arena)]))

    def seeds(self, arena: Arena) -> range:
        """Of every trial."""
        first = arena.plan.recipe.seed
        return range(first, first + (1 if self.epsilon is None else NOISE_SEEDS))


def find_rivals(arena: Arena, names: Sequence[str] | None, seeds: Sequence[int], progress: Progress) -> list[RivalFile]:
    """Find what is wanted and was not found yet; what was found before counts in any case.

    Args:
        arena: what there is to learn from.
        names: of the rivals; None for all that can run on this catalogue.
        seeds: of the test runs.
        progress: told about rivals and configurations.

    Raises:
        UsageError: a finished rival was found from something else.
    """
    wanted = [
        task for task in _tasks(arena) if names is None or task.name in names or (arena.folder / task.file).is_file()
    ]
    files = []
    for done, task in enumerate(wanted):
        progress("rivals", done, len(wanted))
        files.append(_found(task, arena, seeds, progress))
    return files


def refuse_unknown(arena: Arena, names: Sequence[str] | None) -> None:
    """Tell early.

    Raises:
        UsageError: a name that no rival has, or one of a rival that cannot run on this catalogue.
    """
    known = sorted({task.name for task in _tasks(arena)})
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise UsageError(f"there is no rival {unknown[0]!r} for this catalogue", remedy=f"Use some of {known} or none")


def _tasks(arena: Arena) -> Iterator[Task]:
    n_items = len(arena.bundle.item_ids)
    for name, grid in grids(n_items, arena.items).items():
        yield Task(name, grid)
    for epsilon in arena.plan.epsilons:
        for noise in NOISES:
            for name, grid in private_grids(epsilon, arena.plan.recipe.delta, noise).items():
                yield Task(name, grid, epsilon, noise)


def _found(task: Task, arena: Arena, seeds: Sequence[int], progress: Progress) -> RivalFile:
    path = arena.folder / task.file
    if path.is_file():
        kept = read_record(RivalFile, path)
        if kept.inputs != task.digest(arena):
            raise UsageError(
                f"{path.name} was found with other settings, data or features than this grid asks for",
                remedy="Name a new folder with --out, repeat the settings, or add --overwrite",
            )
    else:
        kept = _searched(task, arena, progress)
        write_record(kept, path)
    missing = [seed for seed in (seeds[:1] if task.name in FIXED else seeds) if str(seed) not in kept.test_ranks]
    if missing:
        kept = _tested(kept, task, arena, missing)
        write_record(kept, path)
    return kept


def _searched(task: Task, arena: Arena, progress: Progress) -> RivalFile:
    started = time.monotonic()
    choice = search(task.grid, arena.validation, arena.items, list(task.seeds(arena)), _steps(progress))
    trials = [
        TrialRecord.model_validate(
            {"settings": trial.settings, "ndcg_at_10": trial.metrics["ndcg_at_10"]}, strict=False
        )
        for trial in choice.record.trials
    ]
    record = RivalRecord(
        name=task.name,
        epsilon=task.epsilon,
        noise=None if task.epsilon is None else NOISES[task.noise],
        trials=trials,
        chosen=choice.record.chosen,
        seeds=list(choice.record.seeds),
        selection=choice.record.selection,
        seconds=time.monotonic() - started,
    )
    return RivalFile(inputs=task.digest(arena), record=record, test_ranks={}, train_items_alone=None)


def _tested(kept: RivalFile, task: Task, arena: Arena, seeds: Sequence[int]) -> RivalFile:
    started = time.monotonic()
    rival = task.grid[kept.record.chosen]
    ranks, alone = dict(kept.test_ranks), kept.train_items_alone
    for seed in seeds:
        fitted = rival.fit(federation_of(arena.test, arena.items), seed)
        if alone is None and not ranks:
            alone = _ranks(fitted, arena, arena.alone)
        ranks[str(seed)] = _ranks(fitted, arena, arena.test)
    record = kept.record.model_copy(update={"seconds": kept.record.seconds + time.monotonic() - started})
    return RivalFile(inputs=kept.inputs, record=record, test_ranks=ranks, train_items_alone=alone)


def _ranks(fitted: Fitted, arena: Arena, panel: Panel) -> list[int]:
    order = user_order(arena.datasets, panel)
    ranks: list[int] = panel.rank(fitted.scorer(visitors_of(panel))).rank_U[order].tolist()
    return ranks


def _steps(progress: Progress) -> Progress:
    """Only the steps of the search; those of a rival's own training would fill the screen."""

    def tell(stage: str, done: int, total: int, unreadable: int = 0) -> None:
        if stage.startswith("searching "):
            progress(stage, done, total, unreadable)
        else:
            unheard(stage, done, total, unreadable)

    return tell
