"""Laws of the catalogue-level figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmrec_model.errors import DataError, ModelError
from mmrec_model.evaluation.beyond_accuracy import EMPTY, coverage, gini, novelty, top_k
from mmrec_model.evaluation.ranking import Excluded

TABLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.integers(0, 4))
LISTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(0, 8))


@given(TABLES, st.integers(1, 10), st.integers(0, 2**32), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_lists_hold_the_best_candidates_in_order_without_repeats(
    table: np.ndarray, k: int, seed: int, chunk: int
) -> None:
    n_users, n_items = table.shape
    hidden = np.random.default_rng(seed).random(table.shape) < 0.4
    rows, items = hidden.nonzero()
    excluded = Excluded.from_pairs(rows, items, n_users=n_users)
    lists = top_k(lambda users: table[users], excluded, n_items=n_items, k=k, seed=seed, chunk=chunk)
    again = top_k(lambda users: table[users], excluded, n_items=n_items, k=k, seed=seed)
    assert np.array_equal(lists, again)
    for user in range(n_users):
        listed = [int(item) for item in lists[user] if item != EMPTY]
        candidates = np.flatnonzero(~hidden[user])
        assert len(set(listed)) == len(listed) == min(k, candidates.size)
        assert set(listed) <= set(candidates.tolist())
        best = sorted(table[user, candidates].tolist(), reverse=True)[:k]
        assert table[user, listed].tolist() == best


def test_ties_in_a_list_are_drawn_and_not_taken_by_item_number() -> None:
    none = np.zeros(0, dtype=np.int64)
    excluded = Excluded.from_pairs(none, none, n_users=3000)
    lists = top_k(lambda users: np.zeros((users.size, 5), np.float32), excluded, n_items=5, k=1, seed=0)
    counts = np.bincount(lists.ravel(), minlength=5)
    assert np.all(np.abs(counts - 600) < 4 * math.sqrt(3000 * 0.2 * 0.8))


@given(LISTS)
@settings(max_examples=60, deadline=None)
def test_gini_equals_the_mean_absolute_difference_form(lists: np.ndarray) -> None:
    shown = [int((lists == item).sum()) for item in range(9)]
    pairs = sum(abs(a - b) for a in shown for b in shown)
    assert gini(lists, n_items=9) == pytest.approx(pairs / (2 * 9 * sum(shown)), abs=1e-12)
    assert coverage(lists, n_items=9) == len(set(lists.ravel().tolist())) / 9


def test_equal_exposure_has_gini_zero_and_a_single_item_nearly_one() -> None:
    assert gini(np.array([[0, 1], [2, 3]]), n_items=4) == pytest.approx(0.0)
    assert gini(np.zeros((50, 1), dtype=np.int64), n_items=100) == pytest.approx(0.99)


def test_novelty_is_the_mean_surprise_in_bits() -> None:
    lists = np.array([[0, 1], [2, EMPTY]])
    known = np.array([7, 3, 0])
    assert novelty(lists, known, users=7) == pytest.approx((0 + 1 + 3) / 3)


def test_empty_lists_and_lists_of_no_places_are_refused() -> None:
    empty = np.full((2, 2), EMPTY)
    with pytest.raises(DataError, match="empty"):
        gini(empty, n_items=3)
    with pytest.raises(DataError, match="empty"):
        novelty(empty, np.ones(3, dtype=np.int64), users=1)
    none = np.zeros(0, dtype=np.int64)
    excluded = Excluded.from_pairs(none, none, n_users=1)
    with pytest.raises(DataError, match="0 places"):
        top_k(lambda users: np.zeros((users.size, 3), np.float32), excluded, n_items=3, k=0, seed=0)
    with pytest.raises(ModelError, match="not a number"):
        top_k(lambda users: np.full((users.size, 3), np.nan, np.float32), excluded, n_items=3, k=1, seed=0)
