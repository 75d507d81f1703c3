"""Laws of the baselines, slow second implementations, and the published figures on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from mmrec_model.errors import DataError
from mmrec_model.evaluation import baselines
from mmrec_model.evaluation.baselines import EASE, ItemKNN, Popularity, Recommender, interaction_matrix, scorer
from mmrec_model.evaluation.ranking import (
    Excluded,
    RankingTask,
    chance_level,
    ranking_metrics,
    ranks,
    standard_errors,
)

SEEDS = st.integers(0, 2**32)


def random_matrix(seed: int, users: int = 14, items: int = 9) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).random((users, items)) < 0.35).astype(np.float32)


@given(SEEDS, st.integers(1, 12), st.sampled_from([0.0, 10.0]))
@settings(max_examples=30, deadline=None)
@example(seed=353, neighbours=1, shrink=0.0)
def test_item_knn_equals_a_walk_over_pairs_of_items(seed: int, neighbours: int, shrink: float) -> None:
    dense = random_matrix(seed).astype(np.float64)
    n_items = dense.shape[1]
    similar = np.zeros((n_items, n_items))
    for i in range(n_items):
        for j in range(n_items):
            norms = np.sqrt(dense[:, i].sum()) * np.sqrt(dense[:, j].sum()) + shrink
            if i != j and norms > 0:
                similar[i, j] = (dense[:, i] * dense[:, j]).sum() / norms
    expected = np.zeros_like(dense)
    for j in range(n_items):
        least = sorted(similar[:, j], reverse=True)[min(neighbours, n_items) - 1]
        for i in range(n_items):
            if similar[i, j] >= least - 1e-12:
                expected[:, j] += dense[:, i] * similar[i, j]
    found = ItemKNN(neighbours=neighbours, shrink=shrink).fit(sparse.csr_matrix(dense))
    assert found.scores(sparse.csr_matrix(dense)) == pytest.approx(expected, abs=1e-6)


@given(SEEDS, st.sampled_from([0.5, 5.0, 300.0]))
@settings(max_examples=30, deadline=None)
def test_ease_solves_its_constrained_regression(seed: int, l2: float) -> None:
    dense = random_matrix(seed).astype(np.float64)
    n_items = dense.shape[1]
    weights = np.zeros((n_items, n_items))
    for j in range(n_items):
        others = [i for i in range(n_items) if i != j]
        part = dense[:, others]
        weights[others, j] = np.linalg.solve(part.T @ part + l2 * np.eye(n_items - 1), part.T @ dense[:, j])
    found = EASE(l2=l2).fit(sparse.csr_matrix(dense))
    assert found.weights_NN == pytest.approx(weights, abs=1e-6)
    assert found.scores(sparse.csr_matrix(dense)) == pytest.approx(dense @ weights, abs=1e-5)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_popularity_counts_distinct_users(seed: int) -> None:
    dense = random_matrix(seed)
    users, items = dense.nonzero()
    twice = interaction_matrix(np.tile(users, 2), np.tile(items, 2), n_users=14, n_items=9)
    found = Popularity().fit(twice).scores(twice[:3])
    assert found.tolist() == [dense.sum(axis=0).tolist()] * 3


@pytest.mark.parametrize("recommender", [Popularity(), ItemKNN(neighbours=50), EASE()], ids=lambda r: type(r).__name__)
def test_on_random_interactions_every_baseline_stands_at_chance(recommender: Recommender) -> None:
    generator = np.random.default_rng(8)
    n_users, n_items, length = 2500, 100, 12
    histories = np.stack([generator.permutation(n_items)[:length] for _ in range(n_users)])
    rows = np.repeat(np.arange(n_users), length - 1)
    train = interaction_matrix(rows, histories[:, 1:].ravel(), n_users=n_users, n_items=n_items)
    excluded = Excluded.from_pairs(rows, histories[:, 1:].ravel(), n_users=n_users)
    task = RankingTask(histories[:, 0], excluded, n_items)
    found = ranks(scorer(recommender.fit(train), train), task, seed=0)
    means, errors, chance = ranking_metrics(found), standard_errors(found), chance_level(found)
    for name, mean in means.items():
        assert abs(mean - chance[name]) < 3 * errors[name], name


def test_a_user_without_history_gets_equal_scores_from_the_personal_baselines() -> None:
    train = sparse.csr_matrix(random_matrix(1))
    nobody = sparse.csr_matrix((1, 9), dtype=np.float32)
    for recommender in (ItemKNN().fit(train), EASE().fit(train)):
        assert np.ptp(recommender.scores(nobody)) == 0.0


def test_the_callers_matrix_is_not_changed_and_ratings_count_as_one() -> None:
    ratings = sparse.csr_matrix(random_matrix(2) * 4.5)
    before = ratings.copy()
    rated, binary = EASE().fit(ratings), EASE().fit(sparse.csr_matrix(random_matrix(2)))
    assert np.array_equal(rated.weights_NN, binary.weights_NN)
    assert (ratings != before).nnz == 0


def test_refusals_name_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = sparse.csr_matrix((1, 9), dtype=np.float32)
    with pytest.raises(DataError, match="Call fit first"):
        EASE().scores(empty)
    with pytest.raises(DataError, match="above 0"):
        EASE(l2=0.0).fit(empty)
    monkeypatch.setattr(baselines, "MAX_ITEMS", 8)
    with pytest.raises(DataError, match="limit is 8"):
        ItemKNN().fit(empty)


def test_published_figures_on_real_ratings_are_reproduced(xwines: Path) -> None:
    table = pq.read_table(xwines / "interactions.parquet", columns=["user_id", "item_id", "loo"])
    part = np.array(table["loo"].to_pylist())
    users, items = (np.unique(table[name].to_numpy(), return_inverse=True)[1] for name in ("user_id", "item_id"))
    n_users, n_items = users.max() + 1, items.max() + 1
    train, test = part == "train", part == "test"
    seen = part != "test"
    row_of = np.full(n_users, -1)
    row_of[users[test]] = np.arange(test.sum())
    seen &= row_of[users] >= 0
    excluded = Excluded.from_pairs(row_of[users[seen]], items[seen], n_users=int(test.sum()))
    task = RankingTask(items[test], excluded, int(n_items))
    matrix = interaction_matrix(users[train], items[train], n_users=int(n_users), n_items=int(n_items))
    published = {Popularity(): (0.0869, 0.0403), ItemKNN(): (0.2149, 0.1102), EASE(): (0.2164, 0.1125)}
    assert task.users == 10_304
    for recommender, (recall, ndcg) in published.items():
        found = ranking_metrics(ranks(scorer(recommender.fit(matrix), matrix, users[test]), task, seed=0))
        assert found["recall_at_10"] == pytest.approx(recall, abs=0.002), recommender
        assert found["ndcg_at_10"] == pytest.approx(ndcg, abs=0.002), recommender
