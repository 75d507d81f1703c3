"""What a grid of prices shows: every system at every price, paired tests against the floors, and the goals.

A figure is the mean over seeds and users with the error of `mmrec_model.evaluation.significance.over_seeds`. A test
takes each user's difference as the mean over seeds, flips signs at random, and is adjusted (Holm) for all tests of the
grid together. Goals are set in shares of EASE, so that they mean the same on any data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Floats, Ranks, per_user
from mmrec_model.evaluation.significance import holm, over_seeds, sign_flip_p
from mmrec_model.ladder import TRAINED
from simulations.assessment import FLOORS
from simulations.scenarios.cell_assessment import AT_HOME, NEW_PLACES, TRAIN_ITEMS_ALONE
from simulations.scenarios.grid_record import EXPORTED, CellFile, CellLadder, Estimate
from simulations.scenarios.interface import Evidence
from simulations.scenarios.rival_record import RivalFile
from simulations.scenarios.utility_goals import goals_of
from simulations.scenarios.utility_record import Cold, PairedTest, Rung, SystemEntry, UtilityFindings

METRIC: Final = "ndcg_at_10"
RECALL: Final = "recall_at_10"
DP_POPULARITY: Final = "popularity_dp (all of epsilon)"
"""The rival that spends the whole price on popularity; the floor of the same name spends the plan's share."""
RANKED: Final = (*FLOORS.values(), "pairs", "collaboration", TRAINED)
"""The rungs that a cell ranks, from the floors to what was trained."""
SYSTEMS: Final = (EXPORTED, *RANKED)
"""The same behind what was exported."""
RUNGS: Final = (*FLOORS, "pairs", "collaboration", TRAINED)
"""The same without what was exported, as the gate calls them."""
WIDTH: Final = 1.96
"""Standard errors on each side of a 95 % interval."""

Place: TypeAlias = tuple[str, str]
"""Epsilon and noise."""


def conclude(evidence: Evidence) -> UtilityFindings:
    """Everything that follows from the cells and rivals."""
    places, held_out = _by_place(evidence.cells, "all"), _by_place(evidence.cells, "cold")
    systems = [entry for place, files in places.items() for entry in _entries(place, files)]
    systems += [_rival_entry(rival) for rival in evidence.rivals]
    tests = _tests(places, {_place(rival): rival for rival in evidence.rivals if rival.record.name == "popularity_dp"})
    rungs = [_rung(place, files) for place, files in places.items()]
    cold = [_cold(place, files, held_out=True) for place, files in held_out.items()]
    cold += [_cold(place, files, held_out=False) for place, files in places.items() if _ladder(files[0]).cold]
    return UtilityFindings(
        systems=systems,
        rungs=rungs,
        tests=tests,
        cold=cold,
        goals=goals_of(systems, rungs, tests, cold),
        rivals=[rival.record for rival in evidence.rivals],
    )


def values_of(ranks: Sequence[int], metric: str) -> Floats:
    """A metric per user `[U]` from the ranks of one held-out item each."""
    rank_U = np.asarray(ranks, dtype=np.int64)
    return per_user(Ranks(rank_U, rank_U), metric)


def estimate_over_seeds(runs: Sequence[Floats]) -> Estimate:
    """Mean and standard error over users and seeds."""
    found = over_seeds(runs)
    return Estimate(value=found.mean, error=found.error)


def _by_place(cells: Sequence[CellFile], items: str) -> dict[Place, list[CellFile]]:
    places: dict[Place, list[CellFile]] = defaultdict(list)
    for cell in cells:
        axes = cell.record.axes
        if axes["items"] == items:
            places[axes["epsilon"], axes["noise"]].append(cell)
    return dict(places)


def _place(rival: RivalFile) -> Place:
    return f"{rival.record.epsilon:g}", rival.record.noise or ""


def _ladder(cell: CellFile) -> CellLadder:
    """The rungs of a cell; every cell of this scenario has a gate."""
    if cell.record.ladder is None:
        raise DataError(f"the cell {cell.record.name} has no gate", remedy="Run it again with --overwrite")
    return cell.record.ladder


def _entries(place: Place, files: Sequence[CellFile]) -> list[SystemEntry]:
    """What was exported, what partners make of it, and every rung."""
    return [_entry(place, name, files) for name in (EXPORTED, AT_HOME, *RANKED) if name in files[0].test_ranks]


def _entry(place: Place, name: str, files: Sequence[CellFile]) -> SystemEntry:
    runs = [values_of(cell.test_ranks[name], METRIC) for cell in files]
    alone = [values_of(cell.test_ranks[TRAIN_ITEMS_ALONE], METRIC) for cell in files]
    return SystemEntry(
        system=name,
        kind="exported" if name == EXPORTED else "home" if name == AT_HOME else "rung",
        epsilon=place[0],
        noise=place[1],
        seeds=len(files),
        validation=float(np.mean([_ladder(cell).validation[name].ndcg_at_10 for cell in files])),
        ndcg=estimate_over_seeds(runs),
        recall=estimate_over_seeds([values_of(cell.test_ranks[name], RECALL) for cell in files]),
        train_items_alone=estimate_over_seeds(alone) if name == EXPORTED else None,
        seed_error=over_seeds(runs).seed_error,
    )


def _rival_entry(rival: RivalFile) -> SystemEntry:
    record = rival.record
    runs = [values_of(ranks, METRIC) for ranks in rival.test_ranks.values()]
    alone = rival.train_items_alone
    return SystemEntry(
        system=record.name,
        kind="rival",
        epsilon=None if record.epsilon is None else f"{record.epsilon:g}",
        noise=record.noise,
        seeds=len(runs),
        validation=record.validation,
        ndcg=estimate_over_seeds(runs),
        recall=estimate_over_seeds([values_of(ranks, RECALL) for ranks in rival.test_ranks.values()]),
        train_items_alone=None if alone is None else estimate_over_seeds([values_of(alone, METRIC)]),
        seed_error=over_seeds(runs).seed_error,
    )


def _rung(place: Place, files: Sequence[CellFile]) -> Rung:
    ladders = [_ladder(cell) for cell in files]
    waves = dict.fromkeys(wave for ladder in ladders for wave in ladder.traffic)
    spent = [ladder.spent for ladder in ladders if ladder.spent is not None]
    return Rung(
        epsilon=place[0],
        noise=place[1],
        exported=dict(Counter(ladder.rung for ladder in ladders)),
        pairs=ladders[0].pairs,
        metric=ladders[0].metric,
        released={rung: ladders[0].released[rung] for rung in RUNGS if rung in ladders[0].released},
        spent=max(spent, default=None),
        traffic={
            wave: max((ladder.traffic[wave] for ladder in ladders if wave in ladder.traffic), key=lambda one: one.up)
            for wave in waves
        },
    )


def _cold(place: Place, files: Sequence[CellFile], *, held_out: bool) -> Cold:
    """Of the first seed: what differs between seeds is noise, what is uncertain is the users."""
    ladder = _ladder(files[0])
    return Cold(
        epsilon=place[0],
        noise=place[1],
        held_out=held_out,
        rung=ladder.rung,
        systems={name: ladder.cold[name] for name in (NEW_PLACES, *SYSTEMS) if name in ladder.cold},
        others={name: ladder.test[name].ndcg_at_10 for name in (NEW_PLACES, EXPORTED) if name in ladder.test},
    )


def _tests(places: Mapping[Place, Sequence[CellFile]], popularity: Mapping[Place, RivalFile]) -> list[PairedTest]:
    """The exported model against every floor and, where it was found, against popularity at the whole price."""
    against: dict[tuple[Place, str], list[Floats]] = {}
    for place, files in places.items():
        own = {cell.record.axes["seed"]: values_of(cell.test_ranks[EXPORTED], METRIC) for cell in files}
        for floor in FLOORS.values():
            others = {cell.record.axes["seed"]: values_of(cell.test_ranks[floor], METRIC) for cell in files}
            against[place, floor] = _differences(own, others)
        if place in popularity:
            ranks = popularity[place].test_ranks
            others = {seed: values_of(found, METRIC) for seed, found in ranks.items()}
            against[place, DP_POPULARITY] = _differences(own, others)
    found = {}
    for (place, other), runs in against.items():
        mean = over_seeds(runs)
        p = sign_flip_p(np.mean(runs, axis=0), seed=0)
        found[f"{place} {other}"] = (place, other, mean, p)
    adjusted = holm({name: p for name, (_, _, _, p) in found.items()})
    return [
        PairedTest(
            epsilon=place[0],
            noise=place[1],
            other=other,
            difference=mean.mean,
            low=mean.mean - WIDTH * mean.error,
            high=mean.mean + WIDTH * mean.error,
            p=p,
            p_holm=adjusted[name],
        )
        for name, (place, other, mean, p) in found.items()
    ]


def _differences(own: Mapping[str, Floats], others: Mapping[str, Floats]) -> list[Floats]:
    """Per seed; a seed that the other has not is compared with the other's mean."""
    mean = np.mean(list(others.values()), axis=0)
    return [values - others.get(seed, mean) for seed, values in own.items()]
