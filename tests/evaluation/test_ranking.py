"""Laws of full-catalogue ranking, against a second, slow implementation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import DataError, ModelError
from mmrec_model.evaluation.ranking import (
    Excluded,
    RankingTask,
    Ranks,
    Scorer,
    chance_level,
    paired_difference,
    per_user,
    ranking_metrics,
    ranks,
    standard_errors,
)

KS = (1, 3, 10)


def from_table(table: npt.NDArray[np.float32]) -> Scorer:
    return lambda users: table[users]


@st.composite
def tasks(draw: st.DrawFn, *, distinct: bool) -> tuple[RankingTask, npt.NDArray[np.float32]]:
    n_users, n_items = draw(st.integers(1, 12)), draw(st.integers(2, 15))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    targets = generator.integers(n_items, size=n_users)
    hidden = generator.random((n_users, n_items)) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    hidden[np.arange(n_users), targets] = False
    rows, items = hidden.nonzero()
    task = RankingTask(targets, Excluded.from_pairs(rows, items, n_users=n_users), n_items)
    if distinct:
        table = np.stack([generator.permutation(n_items) for _ in range(n_users)])
    else:
        table = generator.integers(0, 3, size=(n_users, n_items))
    return task, table.astype(np.float32)


def slow_bounds(task: RankingTask, table: npt.NDArray[np.float32], user: int) -> tuple[int, int, int]:
    """Best rank, worst rank and number of candidates by walking over the catalogue."""
    start, stop = task.excluded.offsets[user], task.excluded.offsets[user + 1]
    hidden = {int(item) for item in task.excluded.items[start:stop]}
    goal = table[user, task.targets_U[user]]
    better = level = candidates = 0
    for item in range(task.n_items):
        if item in hidden:
            continue
        candidates += 1
        better += bool(table[user, item] > goal)
        level += bool(table[user, item] == goal)
    return better, better + level - 1, candidates


def slow_metrics(rank_list: list[int]) -> dict[str, tuple[float, float]]:
    """Mean and standard error of every metric, by plain Python over explicit relevance lists."""
    values: dict[str, list[float]] = {}
    for rank in rank_list:
        relevance = [1.0 if place == rank else 0.0 for place in range(rank + max(KS) + 1)]
        for k in KS:
            gain = sum(value / math.log2(place + 2) for place, value in enumerate(relevance[:k]))
            values.setdefault(f"ndcg_at_{k}", []).append(gain / (1 / math.log2(2)))
            values.setdefault(f"recall_at_{k}", []).append(sum(relevance[:k]))
        values.setdefault("mrr", []).append(1 / (1 + relevance.index(1.0)))
    found = {}
    for name, series in values.items():
        mean = sum(series) / len(series)
        found[name] = (mean, math.sqrt(sum((x - mean) ** 2 for x in series)) / len(series))
    return found


@given(tasks(distinct=True))
@settings(max_examples=60, deadline=None)
def test_without_ties_ranks_and_metrics_equal_the_slow_implementation(
    case: tuple[RankingTask, npt.NDArray[np.float32]],
) -> None:
    task, table = case
    found = ranks(from_table(table), task, seed=1, chunk=5)
    slow = [slow_bounds(task, table, user) for user in range(task.users)]
    assert found.rank_U.tolist() == [best for best, _, _ in slow]
    assert found.candidates_U.tolist() == [candidates for _, _, candidates in slow]
    expected = slow_metrics([best for best, _, _ in slow])
    means, errors = ranking_metrics(found, KS), standard_errors(found, KS)
    assert set(means) == set(errors) == set(expected)
    for name, (mean, error) in expected.items():
        assert means[name] == pytest.approx(mean, abs=1e-6)
        assert errors[name] == pytest.approx(error, abs=1e-6)


@given(tasks(distinct=False), st.integers(0, 2**32), st.integers(1, 13))
@settings(max_examples=60, deadline=None)
def test_with_ties_a_rank_lies_between_best_and_worst_and_does_not_depend_on_the_chunk(
    case: tuple[RankingTask, npt.NDArray[np.float32]], seed: int, chunk: int
) -> None:
    task, table = case
    found = ranks(from_table(table), task, seed=seed, chunk=chunk)
    assert np.array_equal(found.rank_U, ranks(from_table(table), task, seed=seed).rank_U)
    for user in range(task.users):
        best, worst, _ = slow_bounds(task, table, user)
        assert best <= found.rank_U[user] <= worst


@given(tasks(distinct=True), st.floats(0.01, 100), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_ranks_do_not_change_under_an_increasing_map_of_the_scores(
    case: tuple[RankingTask, npt.NDArray[np.float32]], factor: float, shift: float
) -> None:
    task, table = case
    moved = (table * factor + shift).astype(np.float32)
    assert np.array_equal(ranks(from_table(table), task, seed=0).rank_U, ranks(from_table(moved), task, seed=0).rank_U)


def test_ties_are_spread_evenly_and_not_by_item_number() -> None:
    users, n_items = 20_000, 4
    table = np.zeros((users, n_items), dtype=np.float32)
    for target in (0, n_items - 1):
        task = RankingTask(np.full(users, target), nothing(users), n_items)
        counts = np.bincount(ranks(from_table(table), task, seed=3).rank_U, minlength=n_items)
        spread = math.sqrt(users * 0.25 * 0.75)
        assert np.all(np.abs(counts - users / n_items) < 4 * spread)


def test_chance_is_the_mean_over_all_ranks_of_every_candidate_count() -> None:
    sizes = [1, 2, 7, 30, 30]
    expected: dict[str, float] = {}
    for size in sizes:
        each = slow_metrics(list(range(size)))
        for name, (mean, _) in each.items():
            expected[name] = expected.get(name, 0.0) + mean / len(sizes)
    found = Ranks(rank_U=np.zeros(len(sizes), dtype=np.int64), candidates_U=np.array(sizes))
    assert chance_level(found, KS) == pytest.approx(expected, abs=1e-12)


def test_random_scores_stand_at_chance_within_three_standard_errors() -> None:
    generator = np.random.default_rng(11)
    users, n_items = 4000, 80
    hidden = generator.integers(1, n_items, size=(users, 6))
    rows = np.repeat(np.arange(users), 6)
    task = RankingTask(
        np.zeros(users, dtype=np.int64), Excluded.from_pairs(rows, hidden.ravel(), n_users=users), n_items
    )
    found = ranks(lambda some: generator.random((some.size, n_items)).astype(np.float32), task, seed=0)
    means, errors, chance = ranking_metrics(found), standard_errors(found), chance_level(found)
    for name, mean in means.items():
        assert abs(mean - chance[name]) < 3 * errors[name], name


def test_excluding_an_item_above_the_target_lifts_it_by_one_place() -> None:
    table = np.array([[3.0, 2.0, 1.0, 0.0]], dtype=np.float32)
    target = np.array([2])
    pairs = Excluded.from_pairs(np.array([0, 0]), np.array([0, 0]), n_users=1)
    assert ranks(from_table(table), RankingTask(target, nothing(1), 4), seed=0).rank_U.tolist() == [2]
    found = ranks(from_table(table), RankingTask(target, pairs, 4), seed=0)
    assert (found.rank_U.tolist(), found.candidates_U.tolist()) == ([1], [3])


def test_progress_ends_at_all_users_and_the_scores_stay_untouched() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    table.setflags(write=False)
    seen: list[tuple[int, int]] = []
    task = RankingTask(np.array([0, 1, 2, 0]), Excluded.from_pairs(np.array([0, 1]), np.array([2, 2]), n_users=4), 3)
    ranks(from_table(table), task, seed=0, chunk=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


@pytest.mark.parametrize("value", [np.nan, -np.nan])
def test_a_score_that_is_not_a_number_is_refused(value: float) -> None:
    table = np.array([[value, 1.0]], dtype=np.float32)
    with pytest.raises(ModelError, match="not a number"):
        ranks(from_table(table), RankingTask(np.array([0]), nothing(1), 2), seed=0)


def test_a_score_table_of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match="expected"):
        ranks(lambda some: np.zeros((some.size, 3), np.float32), RankingTask(np.array([0]), nothing(1), 2), seed=0)


def test_tasks_that_contradict_themselves_are_refused() -> None:
    one = Excluded.from_pairs(np.array([0]), np.array([1]), n_users=1)
    with pytest.raises(DataError, match="targets are excluded"):
        RankingTask(np.array([1]), one, 3)
    with pytest.raises(DataError, match="the catalogue has"):
        RankingTask(np.array([3]), nothing(1), 3)
    with pytest.raises(DataError, match="the catalogue has"):
        RankingTask(np.array([0]), one, 1)
    with pytest.raises(DataError, match="2 targets but 1 rows"):
        RankingTask(np.array([0, 0]), one, 3)
    with pytest.raises(DataError, match="allowed are rows"):
        Excluded.from_pairs(np.array([2]), np.array([0]), n_users=2)
    with pytest.raises(DataError, match="ascending"):
        Excluded(offsets=np.array([0, 2]), items=np.array([1, 1]))
    with pytest.raises(DataError, match="offsets"):
        Excluded(offsets=np.array([0, 1]), items=np.array([1, 2]))


def test_metrics_of_nobody_and_unknown_metrics_are_refused() -> None:
    empty = Ranks(rank_U=np.zeros(0, dtype=np.int64), candidates_U=np.zeros(0, dtype=np.int64))
    for compute in (ranking_metrics, standard_errors, chance_level):
        with pytest.raises(DataError, match="no users"):
            compute(empty)
    for name in ("recall_at_0", "hits", "ndcg_at_10x"):
        with pytest.raises(DataError, match="no metric"):
            per_user(empty, name)


def test_the_bootstrap_interval_finds_a_difference_and_its_absence() -> None:
    generator = np.random.default_rng(5)
    good, other = generator.integers(0, 40, size=800), generator.integers(0, 40, size=800)
    size = np.full(800, 40)
    a, b, better = Ranks(good, size), Ranks(other, size), Ranks(np.maximum(other - 5, 0), size)
    mean, low, high = paired_difference(a, b, "ndcg_at_10", seed=1, draws=300)
    assert low < 0 < high
    assert low < mean < high
    assert paired_difference(better, b, "ndcg_at_10", seed=1, draws=300).low > 0
    assert paired_difference(b, better, "ndcg_at_10", seed=1, draws=300).high < 0
    assert paired_difference(a, a, "mrr", seed=1, draws=10) == (0.0, 0.0, 0.0)


def test_the_bootstrap_is_paired_and_repeats_with_its_seed() -> None:
    generator = np.random.default_rng(6)
    base = generator.integers(0, 1000, size=500)
    a, b = Ranks(base, np.full(500, 1000)), Ranks(base + 1, np.full(500, 1000))
    first = paired_difference(a, b, "mrr", seed=2, draws=200)
    assert first == paired_difference(a, b, "mrr", seed=2, draws=200)
    unpaired = math.hypot(standard_errors(a)["mrr"], standard_errors(b)["mrr"]) * 2 * 1.96
    assert first.high - first.low < unpaired


def test_systems_measured_on_different_users_are_not_compared() -> None:
    a, b = (Ranks(np.zeros(n, dtype=np.int64), np.full(n, 5)) for n in (3, 4))
    with pytest.raises(DataError, match="cannot be paired"):
        paired_difference(a, b, "mrr", seed=0)


def nothing(users: int) -> Excluded:
    none = np.zeros(0, dtype=np.int64)
    return Excluded.from_pairs(none, none, n_users=users)


def test_a_users_draw_is_that_of_its_named_row_whoever_else_is_in_the_task() -> None:
    histories = [np.zeros(0, dtype=np.int64)] * 40
    targets = np.arange(40) % 25
    whole = RankingTask.from_histories(histories, targets, n_items=25)
    some = np.asarray([3, 4, 11, 39])
    part = RankingTask.from_histories([histories[0]] * 4, targets[some], n_items=25, luck_rows_U=some)
    level = from_table(np.ones((40, 25), dtype=np.float32))
    np.testing.assert_array_equal(ranks(level, part, seed=2).rank_U, ranks(level, whole, seed=2).rank_U[some])


def test_a_task_of_nobody_has_no_ranks() -> None:
    task = RankingTask.from_histories([], np.zeros(0, dtype=np.int64), n_items=3)
    assert ranks(from_table(np.ones((0, 3), dtype=np.float32)), task, seed=0).rank_U.size == 0
