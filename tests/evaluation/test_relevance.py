"""Several held-out items per user: places and metrics against a second, slow implementation, and exact chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import (
    Excluded,
    RankingTask,
    Ranks,
    chance_level,
    paired_difference,
    per_user,
    ranking_metrics,
    ranks,
)
from mmrec_model.evaluation.relevance import KINDS, expected, parse_metric, user_values

NAMES = [f"{kind}_at_{k}" for kind in KINDS for k in (1, 3, 10)] + ["mrr"]


@st.composite
def tasks(draw: st.DrawFn, *, distinct: bool = True) -> tuple[RankingTask, npt.NDArray[np.float32]]:
    n_users, n_items = draw(st.integers(1, 9)), draw(st.integers(4, 14))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    targets, histories = [], []
    for _ in range(n_users):
        order = generator.permutation(n_items)
        wanted = int(generator.integers(1, 4))
        targets.append(order[:wanted])
        histories.append(order[wanted : wanted + int(generator.integers(0, n_items - wanted))])
    table = (
        np.stack([generator.permutation(n_items) for _ in range(n_users)])
        if distinct
        else generator.integers(0, 2, size=(n_users, n_items))
    )
    return RankingTask.from_histories(histories, targets, n_items=n_items), table.astype(np.float32)


def slow(listed: list[int], relevant: set[int], name: str) -> float:
    """A metric of one written-out list."""
    if name == "mrr":
        return next(1.0 / place for place, item in enumerate(listed, 1) if item in relevant)
    kind, k = name.split("_at_")
    top = listed[: int(k)]
    hits = [item in relevant for item in top]
    if kind == "recall":
        return sum(hits) / len(relevant)
    if kind == "precision":
        return sum(hits) / int(k)
    if kind == "hit":
        return float(any(hits))
    if kind == "ndcg":
        gain = sum(1 / math.log2(place + 1) for place, hit in enumerate(hits, 1) if hit)
        return gain / sum(1 / math.log2(place + 1) for place in range(1, min(int(k), len(relevant)) + 1))
    precision = [sum(hits[:place]) / place for place, hit in enumerate(hits, 1) if hit]
    return sum(precision) / min(int(k), len(relevant))


@given(tasks())
@settings(max_examples=60, deadline=None)
def test_places_and_metrics_equal_those_of_written_out_lists(case: tuple[RankingTask, npt.NDArray[np.float32]]) -> None:
    task, table = case
    found = ranks(lambda users: table[users], task, seed=1, chunk=4)
    for user in range(task.users):
        hidden = set(task.excluded.items[task.excluded.offsets[user] : task.excluded.offsets[user + 1]].tolist())
        listed = sorted(set(range(task.n_items)) - hidden, key=lambda item: -table[user, item])
        relevant = set(task.of(user).tolist())
        assert found.candidates_U[user] == len(listed)
        assert found.rank_U[user] == min(listed.index(item) for item in relevant)
        for name in NAMES:
            assert per_user(found, name)[user] == pytest.approx(slow(listed, relevant, name), abs=1e-6), name


@given(tasks(distinct=False), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_tied_targets_never_share_a_place_and_stay_among_their_equals(
    case: tuple[RankingTask, npt.NDArray[np.float32]], seed: int
) -> None:
    task, table = case
    found = ranks(lambda users: table[users], task, seed=seed, chunk=2)
    np.testing.assert_array_equal(found.places, ranks(lambda users: table[users], task, seed=seed).places)
    for user in range(task.users):
        mine, goals = found.places[found.owners == user], table[user, task.of(user)]
        assert len(set(mine.tolist())) == len(mine)
        allowed = np.ones(task.n_items, dtype=bool)
        allowed[task.excluded.items[task.excluded.offsets[user] : task.excluded.offsets[user + 1]]] = False
        for place, goal in zip(mine, goals, strict=True):
            better = int((table[user, allowed] > goal).sum())
            assert better <= place < better + int((table[user, allowed] == goal).sum())


def test_tied_targets_take_every_pair_of_places_equally_often() -> None:
    users = 6000
    task = RankingTask.from_histories([np.zeros(0, dtype=np.int64)] * users, [np.array([2, 0])] * users, n_items=4)
    found = ranks(lambda some: np.zeros((some.size, 4), np.float32), task, seed=3)
    counts = np.bincount(found.places[::2] * 4 + found.places[1::2], minlength=16).reshape(4, 4)
    assert counts.diagonal().tolist() == [0] * 4
    off = counts[~np.eye(4, dtype=bool)]
    assert np.all(np.abs(off - users / 12) < 4 * math.sqrt(users / 12))


@given(tasks())
@settings(max_examples=30, deadline=None)
def test_with_one_target_each_the_general_formulas_give_the_figures_of_the_plain_ones(
    case: tuple[RankingTask, npt.NDArray[np.float32]],
) -> None:
    several, table = case
    task = RankingTask(several.targets_U, several.excluded, several.n_items)
    found = ranks(lambda users: table[users], task, seed=1)
    assert found.offsets is None
    for name in ("recall_at_3", "ndcg_at_3", "mrr"):
        np.testing.assert_allclose(user_values(found, parse_metric(name)), per_user(found, name), atol=1e-15)
    general = Ranks(found.rank_U, found.candidates_U, np.arange(task.users + 1), found.rank_U)
    assert ranking_metrics(general, (3,)) == pytest.approx(ranking_metrics(found, (3,)), abs=1e-15)
    assert chance_level(general, (3,)) == pytest.approx(chance_level(found, (3,)), abs=1e-9)


@pytest.mark.parametrize(("candidates", "relevant"), [(1, 1), (5, 1), (6, 2), (7, 3), (4, 4)])
def test_chance_is_the_mean_over_every_set_of_places(candidates: int, relevant: int) -> None:
    sets = list(itertools.combinations(range(candidates), relevant))
    for name in NAMES:
        mean = sum(slow(list(range(candidates)), set(each), name) for each in sets) / len(sets)
        assert expected(candidates, relevant, parse_metric(name)) == pytest.approx(mean, abs=1e-6), name


def test_parts_of_targets_keep_their_places_and_their_users() -> None:
    found = Ranks(np.array([1, 0, 4]), np.full(3, 9), np.array([0, 2, 3, 5]), np.array([5, 1, 0, 4, 8]))
    part, users = found.only(np.array([True, False, False, False, True]))
    assert (users.tolist(), part.rank_U.tolist(), part.places.tolist()) == ([0, 2], [5, 8], [5, 8])
    taken = found.take(np.array([2, 0]))
    assert (taken.rank_U.tolist(), taken.places.tolist(), taken.owners.tolist()) == ([4, 1], [4, 8, 5, 1], [0, 0, 1, 1])
    with pytest.raises(DataError, match="cannot be paired"):
        paired_difference(found, Ranks(found.rank_U, found.candidates_U), "mrr", seed=0)


def test_tasks_of_several_targets_that_contradict_themselves_are_refused() -> None:
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(DataError, match="one target twice"):
        RankingTask.from_histories([none], [np.array([1, 1])], n_items=3)
    with pytest.raises(DataError, match="targets are excluded"):
        RankingTask.from_histories([np.array([2])], [np.array([1, 2])], n_items=3)
    with pytest.raises(DataError, match="has no target"):
        RankingTask.from_histories([none], [none], n_items=3)
    with pytest.raises(DataError, match="do not divide"):
        RankingTask(
            np.array([0]), Excluded.from_pairs(none, none, n_users=1), 3, None, np.array([0, 2]), np.array([1, 0])
        )
