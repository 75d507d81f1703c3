"""Weights of items move a user's length to the tail and never change it; the coordinator undoes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.collaboration.closed_form import discounted
from mmrec_model.collaboration.estimate import estimate_weights
from mmrec_model.collaboration.pairs import BOUND, sum_pairs, triangle_size, unpack
from mmrec_model.collaboration.tail import MOST_RATIO, tail_weights, tail_weights_of
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import TAIL, Arrays

M = 5
EVERY = np.arange(M)
WEIGHTED = CollaborationConfig(items=M, noise_multiplier=1.0, tail_weight=0.5)


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, M - 1), max_size=12),
    st.lists(st.floats(1e-2, 1.0), min_size=M, max_size=M),
    st.integers(2, 8),
)
def test_any_history_with_any_weights_has_length_one_or_nothing(
    history: list[int], weights: list[float], last: int
) -> None:
    """Histories with repetitions too; weights as far apart as a request may have them."""
    found = sum_pairs([np.array(history, dtype=np.int64)], EVERY, items=M, last=last, weight_M=np.array(weights))
    assert np.linalg.norm(found) == pytest.approx(BOUND if history else 0.0, rel=1e-9)


def test_weights_move_length_from_popular_items_to_the_others() -> None:
    history, weight = [np.array([0, 1])], np.array([0.5, 2.0, 1.0, 1.0, 1.0])
    plain, weighted = (
        unpack(sum_pairs(history, EVERY, items=M, last=9, weight_M=one), M) for one in (np.ones(M), weight)
    )
    assert plain[0, 0] == plain[1, 1]
    assert weighted[1, 1] == pytest.approx(16.0 * weighted[0, 0])


def test_equal_weights_change_nothing() -> None:
    histories = [np.array([0, 1, 4]), np.array([3, 2])]
    plain = sum_pairs(histories, EVERY, items=M, last=3)
    np.testing.assert_allclose(sum_pairs(histories, EVERY, items=M, last=3, weight_M=np.full(M, 0.3)), plain)
    assert (tail_weights(np.linspace(-2, 3, M), 0.0) == 1.0).all()


@given(st.lists(st.floats(-50, 50), min_size=M, max_size=M), st.floats(0.0, 1.0))
def test_weights_fall_with_popularity_and_are_never_too_far_apart_for_a_site(prior: list[float], alpha: float) -> None:
    weight = tail_weights(np.array(prior, np.float32), alpha)
    assert (np.diff(weight[np.argsort(prior)]) <= 0.0).all()
    assert weight.dtype == np.float32
    assert weight.max() / weight.min() < MOST_RATIO
    found = tail_weights_of(WEIGHTED, {TAIL: weight})
    np.testing.assert_array_equal(found, weight.astype(np.float64))


@pytest.mark.parametrize(
    "weights",
    [None, [1.0] * 4, [1.0] * 6, [1, 1, 1, 1, 0], [1, 1, 1, 1, -1], [1, 1, 1, 1, np.nan], [1, 1, 1, 1, np.inf],
     [1, 1, 1, 1, 101], [[1.0] * M]],
)  # fmt: skip
def test_weights_that_are_none_are_refused(weights: list[float] | None) -> None:
    state: Arrays = {} if weights is None else {TAIL: np.array(weights, np.float32)}
    with pytest.raises(ProtocolError, match="the plan says 5 numbers above 0"):
        tail_weights_of(WEIGHTED, state)


def test_a_plan_without_weights_takes_none() -> None:
    plain = CollaborationConfig(items=M, noise_multiplier=1.0)
    assert tail_weights_of(plain, {}) is None
    with pytest.raises(ProtocolError, match="weights all items alike"):
        tail_weights_of(plain, {TAIL: np.ones(M, np.float32)})


def scorer(alpha: float, noise: float, histories: list[np.ndarray]) -> np.ndarray:
    rng = np.random.default_rng(2)
    weight = tail_weights(np.linspace(2, -2, 30), alpha)
    total = sum_pairs(histories, np.arange(30), items=30, last=9, weight_M=weight.astype(np.float64))
    total += noise * rng.normal(size=triangle_size(30))
    vectors = rng.normal(size=(30, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = estimate_weights(total, {"text": vectors}, items=30, noise=noise, noise_penalty=1.0, weight_M=weight)
    return found.weights_MM


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_the_scorer_of_weighted_pairs_finds_what_that_of_plain_ones_finds(noise: float) -> None:
    """Items go in threes, popular ones first: whatever the weights, an item's neighbours are its own three."""
    rng = np.random.default_rng(1)
    share = np.exp(-np.arange(10) / 5.0)
    groups = rng.choice(10, size=3000, p=share / share.sum())
    histories = [3 * group + rng.permutation(3)[: rng.integers(2, 4)] for group in groups]
    for alpha in (0.0, 0.5, 1.0):
        weights = scorer(alpha, noise, histories)
        assert np.isfinite(weights).all()
        assert not np.diag(weights).any()
        nearest = np.argsort(-weights, axis=1)[:, :2]
        assert (nearest // 3 == np.arange(30)[:, None] // 3).mean() > 0.95


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_scorer_solves_the_plain_problem_with_a_ridge_that_the_weights_set(alpha: float) -> None:
    """B = W B_w W^-1 with B_w the closed form of W G W: off the diagonal (G + penalty W^-2) B is G, but for scale.

    Without noise; a scorer that is not mapped back does not solve it.
    """
    rng = np.random.default_rng(1)
    histories = [rng.permutation(30)[: rng.integers(2, 9)] for _ in range(2000)]
    weight = tail_weights(np.linspace(2, -2, 30), alpha).astype(np.float64)
    total = sum_pairs(histories, np.arange(30), items=30, last=9, weight_M=weight)
    found = estimate_weights(total, {}, items=30, noise=0.0, noise_penalty=1.0, weight_M=weight)
    pairs = unpack(total, 30) / np.outer(weight, weight)
    # the discount of popular columns and the one scale of all are undone
    columns = discounted(np.ones((30, 30)), np.diag(pairs), remaining=0.0, kept=1.0)
    away = ~np.eye(30, dtype=bool)

    def likeness(scorer_MM: np.ndarray) -> float:
        solved = (pairs + found.penalty * np.diag(weight**-2.0)) @ (scorer_MM / columns)
        return float(np.corrcoef(solved[away], pairs[away])[0, 1])

    own = found.weights_MM.astype(np.float64)
    assert likeness(own) > 1.0 - 1e-6
    if alpha:
        assert likeness(own / weight[:, None] * weight) < 0.99
