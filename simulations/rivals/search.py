"""The same search for every rival: `BUDGET` configurations, chosen by validation ndcg@10, the test set looked at once.

Selection is **not private**: it reads exact validation figures of all users, for DP rivals too, and no price is charged
for it. That favours the rivals. Every configuration that was tried is in the record.

A configuration that the rival refuses (`DataError`: too large a catalogue, no features) refuses the search.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mmrec_model.canonical import JsonValue
from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Ranks, ranking_metrics
from mmrec_model.model.items import Items
from simulations.progress import Progress
from simulations.rivals.interface import Assessed, Rival, ranks_of, unheard

BUDGET = 8
"""Configurations per rival; a rival with fewer knobs has as many values of them."""
SELECTION = "not private: exact validation ndcg@10 of all users"
METRIC = "ndcg_at_10"


@dataclass(frozen=True)
class Trial:
    """One configuration on the validation panel.

    Attributes:
        settings: of the rival, as JSON values.
        metrics: ranking metrics, each 0..1, mean over the seeds.
        seconds: of fitting and ranking with all seeds.
    """

    settings: dict[str, JsonValue]
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class SearchRecord:
    """What was tried and what was chosen.

    Attributes:
        rival: its name.
        trials: in the order of the grid.
        chosen: place of the best in `trials`; the first of equals.
        seeds: of every trial.
        selection: what the choice looked at.
    """

    rival: str
    trials: tuple[Trial, ...]
    chosen: int
    seeds: tuple[int, ...]
    selection: str = SELECTION

    def as_json(self) -> dict[str, JsonValue]:
        """The record as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """The chosen rival and how it was found."""

    rival: Rival
    record: SearchRecord

    def test(self, panel: Assessed, items: Items | None, seed: int, progress: Progress = unheard) -> Ranks:
        """Ranks on another panel, to be looked at once.

        Raises:
            DataError: the rival cannot learn from this federation.
        """
        return ranks_of(self.rival, panel, items, seed, progress)


def search(
    grid: Sequence[Rival],
    validation: Assessed,
    items: Items | None,
    seeds: Sequence[int],
    progress: Progress = unheard,
) -> Choice:
    """Try every configuration and choose one.

    Args:
        grid: configurations of one rival, at most `BUDGET`.
        validation: the panel that chooses.
        items: the catalogue with its features.
        seeds: every configuration is tried with each of them, so that one lucky draw of noise is not what is chosen.
        progress: told after every trial, and by the rivals.

    Raises:
        DataError: the grid is empty, over the budget or of several rivals, there is no seed, or a rival cannot learn
            from this federation.
    """
    names = {rival.name for rival in grid}
    if not 1 <= len(grid) <= BUDGET or len(names) != 1 or not seeds:
        raise DataError(
            f"a grid of {len(grid)} configurations of {sorted(names)} and {len(seeds)} seeds, "
            f"allowed are 1 to {BUDGET} of one rival and at least one seed",
            remedy="Search each rival by itself, within the budget",
        )
    trials: list[Trial] = []
    for rival in grid:
        start = time.monotonic()
        found = [ranking_metrics(ranks_of(rival, validation, items, seed, progress)) for seed in seeds]
        metrics = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        trials.append(Trial(settings_of(rival), metrics, time.monotonic() - start))
        progress(f"searching {rival.name}", len(trials), len(grid))
    chosen = max(range(len(trials)), key=lambda place: trials[place].metrics[METRIC])
    return Choice(grid[chosen], SearchRecord(names.pop(), tuple(trials), chosen, tuple(seeds)))


def settings_of(rival: Rival) -> dict[str, JsonValue]:
    """The settings of a rival as JSON values."""
    return asdict(rival)
