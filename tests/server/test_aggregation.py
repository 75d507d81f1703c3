"""The mean is the pooled mean, momentum is the recursion on paper, and the prior is only post-processing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmrec_model.collaboration.popularity import popularity_prior
from mmrec_model.errors import ModelError
from server.aggregation import ServerOptimizer, sum_arrays, weighted_mean

FLOATS = st.floats(-100.0, 100.0, width=32)
WEIGHTS = st.floats(1.0, 1e6)


def one(value: float) -> dict[str, np.ndarray]:
    return {"w": np.full((2, 2), value, np.float32)}


def test_users_weigh_the_same_whichever_partner_holds_them() -> None:
    gradients = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    sizes = [(0, 10), (10, 25), (25, 60)]
    updates = [{"w": gradients[start:end].mean(axis=0)} for start, end in sizes]
    pooled = weighted_mean(updates, [end - start for start, end in sizes])["w"]
    np.testing.assert_allclose(pooled, gradients.mean(axis=0), rtol=1e-5, atol=1e-7)


@given(arrays(np.float32, (3, 4), elements=FLOATS), st.lists(WEIGHTS, min_size=1, max_size=5))
def test_equal_updates_have_themselves_as_mean_whatever_the_weights(update: np.ndarray, weights: list[float]) -> None:
    mean = weighted_mean([{"w": update}] * len(weights), weights)["w"]
    np.testing.assert_allclose(mean, update, rtol=1e-6, atol=1e-30)


@given(st.lists(st.tuples(FLOATS, WEIGHTS), min_size=1, max_size=6), st.floats(1e-3, 1e3))
def test_the_mean_lies_between_its_updates_and_only_ratios_of_weights_count(
    pairs: list[tuple[float, float]], factor: float
) -> None:
    values, weights = zip(*pairs, strict=True)
    mean = weighted_mean([one(value) for value in values], weights)["w"][0, 0]
    assert min(values) - 1e-3 <= mean <= max(values) + 1e-3
    scaled = weighted_mean([one(value) for value in values], [factor * weight for weight in weights])["w"][0, 0]
    assert scaled == pytest.approx(mean, rel=1e-5, abs=1e-5)


def test_small_updates_are_not_lost_beside_large_ones() -> None:
    values = [2.0**24, 1.0, -(2.0**24), 1.0]
    assert weighted_mean([one(value) for value in values], [1.0] * 4)["w"][0, 0] == 0.5


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_number_of_users_is_refused(weight: float) -> None:
    with pytest.raises(ModelError, match="weights"):
        weighted_mean([one(1.0), one(2.0)], [1.0, weight])


@pytest.mark.parametrize(
    "odd",
    [{"w": np.zeros((1, 2), np.float32)}, {"v": np.zeros((2, 2), np.float32)}, {**one(0.0), "x": one(1.0)["w"]}],
)
def test_updates_that_would_broadcast_or_have_other_names_are_refused(odd: dict[str, np.ndarray]) -> None:
    with pytest.raises(ModelError, match="names and shapes"):
        weighted_mean([one(1.0), odd], [1.0, 1.0])
    with pytest.raises(ModelError, match="names and shapes"):
        ServerOptimizer(1.0, 0.0).step(one(0.0), one(0.0), odd)


def test_no_update_has_no_mean() -> None:
    with pytest.raises(ModelError, match="no mean"):
        weighted_mean([], [])


def test_momentum_follows_the_recursion_on_paper() -> None:
    optimizer = ServerOptimizer(learning_rate=0.5, momentum=0.9)
    state, velocity, by_hand, speed = one(1.0), one(0.0), 1.0, 0.0
    for update in (0.25, -0.5, 0.0, 2.0):
        state, velocity = optimizer.step(state, velocity, one(update))
        speed = 0.9 * speed + update
        by_hand += 0.5 * speed
        np.testing.assert_allclose(state["w"], by_hand, rtol=1e-6)
        assert state["w"].dtype == velocity["w"].dtype == np.float32


def test_a_step_leaves_its_inputs_alone() -> None:
    state, velocity, update = one(1.0), one(2.0), one(3.0)
    ServerOptimizer(1.0, 0.9).step(state, velocity, update)
    for array, value in ((state, 1.0), (velocity, 2.0), (update, 3.0)):
        assert (array["w"] == value).all()


def test_a_state_that_would_overflow_is_refused() -> None:
    with pytest.raises(ModelError, match=r"overflow.*server_learning_rate"):
        ServerOptimizer(1e30, 0.0).step(one(0.0), one(0.0), one(1e30))


@given(arrays(np.float64, 30, elements=st.floats(-50.0, 1e5)), st.floats(0.0, 20.0))
def test_the_prior_is_standard_and_keeps_the_order_of_the_counts(counts: np.ndarray, noise_sd: float) -> None:
    prior = popularity_prior(counts, noise_sd=noise_sd)
    assert prior.dtype == np.float32
    assert np.isfinite(prior).all()
    if prior.any():
        assert prior.mean() == pytest.approx(0.0, abs=1e-4)
        assert prior.std() == pytest.approx(1.0, rel=1e-4)
    order = np.argsort(counts)
    assert (np.diff(prior[order]) >= 0.0).all()
    assert len(set(prior[counts <= noise_sd])) <= 1, "counts below the noise are all the same to the prior"


def test_equal_counts_give_no_prior() -> None:
    assert not popularity_prior(np.full(7, 3.0), noise_sd=1.0).any()


def test_counts_are_summed_over_partners() -> None:
    releases = [np.array([1.0, -2.0], np.float32), np.array([0.5, 5.0], np.float32)]
    assert sum_arrays(releases).tolist() == [1.5, 3.0]
