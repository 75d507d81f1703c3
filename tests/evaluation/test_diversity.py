"""Figures of lists against slow implementations that walk over pairs, items and categories."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import DataError
from mmrec_model.evaluation.beyond_accuracy import EMPTY, entropy, free_discovery, popularity_complement
from mmrec_model.evaluation.diversity import (
    SMOOTHING,
    category_divergence,
    intra_list_distance,
    long_tail,
    tail_share,
)

seeds = st.integers(0, 2**32)
N = 9


def drawn(seed: int) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(N)[:4] for _ in range(5)])
    lists[rng.random(lists.shape) < 0.25] = EMPTY
    return rng, lists


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_distance_is_the_mean_over_pairs_that_have_the_modality(seed: int) -> None:
    rng, lists = drawn(seed)
    vectors, present = rng.normal(size=(N, 3)), rng.random(N) < 0.7
    found = intra_list_distance(lists, vectors, present)
    for row, value in zip(lists, found, strict=True):
        items = [item for item in row if item != EMPTY and present[item]]
        pairs = [
            1 - vectors[a] @ vectors[b] / (np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b]))
            for a, b in itertools.combinations(items, 2)
        ]
        assert value == pytest.approx(sum(pairs) / len(pairs), abs=1e-6) if pairs else math.isnan(value)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_divergence_is_that_of_written_out_mixtures(seed: int) -> None:
    rng, lists = drawn(seed)
    category = rng.integers(-1, 3, size=N)
    histories = [rng.permutation(N)[: rng.integers(0, 5)] for _ in lists]
    found = category_divergence(lists, histories, category)
    for row, history, value in zip(lists, histories, found, strict=True):
        past = [category[item] for item in history if category[item] >= 0]
        shown = [category[item] for item in row if item != EMPTY and category[item] >= 0]
        if not past or not shown:
            assert math.isnan(value)
            continue
        total = 0.0
        for each in set(past):
            p, q = past.count(each) / len(past), shown.count(each) / len(shown)
            total += p * math.log(p / ((1 - SMOOTHING) * q + SMOOTHING * p))
        assert value == pytest.approx(total, abs=1e-6)
        assert value >= -1e-12


def test_a_catalogue_without_categories_has_no_divergence_and_the_same_mixture_none() -> None:
    lists = np.array([[0, 1]])
    assert np.isnan(category_divergence(lists, [np.array([2])], np.full(3, -1))).all()
    assert category_divergence(lists, [np.array([2, 3])], np.array([0, 1, 0, 1])) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(DataError, match="one history per list"):
        category_divergence(lists, [], np.zeros(3, dtype=np.int64))


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_tail_novelty_and_entropy_equal_their_slow_forms(seed: int) -> None:
    rng, lists = drawn(seed)
    lists[0, 0] = 0
    counts = rng.integers(0, 6, size=N)
    tail = long_tail(counts, 0.6)
    border = sorted(counts.tolist(), reverse=True)[3]
    assert tail.tolist() == [count < border for count in counts]
    listed = [int(item) for row in lists for item in row if item != EMPTY]
    for row, value in zip(lists, tail_share(lists, tail), strict=True):
        items = [item for item in row if item != EMPTY]
        assert value == pytest.approx(sum(map(bool, tail[items])) / len(items)) if items else math.isnan(value)
    complement = sum(1 - counts[item] / 20 for item in listed) / len(listed)
    assert popularity_complement(lists, counts, users=20) == pytest.approx(complement, abs=1e-6)
    free = sum(-math.log2((counts[item] + 1) / (counts.sum() + N)) for item in listed) / len(listed)
    assert free_discovery(lists, counts) == pytest.approx(free, abs=1e-6)
    shares = [listed.count(item) / len(listed) for item in set(listed)]
    assert entropy(lists, n_items=N) == pytest.approx(-sum(p * math.log2(p) for p in shares), abs=1e-6)


def test_lists_without_items_have_no_entropy_or_novelty() -> None:
    empty = np.full((2, 2), EMPTY)
    for compute in (
        lambda: entropy(empty, n_items=3),
        lambda: free_discovery(empty, np.ones(3, dtype=np.int64)),
        lambda: popularity_complement(empty, np.ones(3, dtype=np.int64), users=2),
    ):
        with pytest.raises(DataError, match="empty"):
            compute()
