"""Renyi prices: reference values, brute-force integration, and a filter that never lets the budget be passed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import GaussianRelease, NonPrivate, PrivacyEvent, Relation, SampledGaussian
from mmrec_model.privacy.renyi import (
    ORDERS,
    RenyiFilter,
    best_order,
    epsilon_of_divergence,
    renyi_divergence,
    renyi_epsilon,
)

REFERENCE = [
    (0.01, 1, 1000, 1e-5, 2.1014),
    (0.01, 1, 1000, 1e-6, 2.4367),
    (0.01, 4, 100, 1e-5, 0.1240),
    (0.01, 2, 5000, 1e-6, 1.8133),
    (0.05, 1, 100, 1e-5, 4.0383),
    (0.05, 2, 1000, 1e-5, 4.0244),
    (0.05, 4, 1000, 1e-6, 1.9419),
    (0.1, 1, 100, 1e-5, 7.8993),
    (0.1, 2, 100, 1e-6, 2.9142),
    (0.1, 4, 1000, 1e-5, 3.7362),
    (0.2, 2, 100, 1e-5, 5.4962),
    (0.2, 4, 1000, 1e-6, 9.1182),
    (1, 4, 100, 1e-5, 14.1322),
    (1, 4, 100, 1e-6, 15.3280),
]
BASE_PLAN = SampledGaussian(0.05, 1.0943822791799904, 200)


@pytest.mark.parametrize("row", REFERENCE, ids=str)
def test_reference_values_are_met(row: tuple[float, float, int, float, float]) -> None:
    rate, noise, steps, delta, expected = row
    assert renyi_epsilon([SampledGaussian(rate, noise, steps)], delta) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("order", [2, 5, 32])
@pytest.mark.parametrize("noise", [0.2, 1.0, 4.0])
def test_one_step_equals_the_binomial_sum_at_whole_orders(order: int, noise: float) -> None:
    rate = 0.1
    terms = [
        math.log(math.comb(order, users))
        + users * math.log(rate)
        + (order - users) * math.log(1 - rate)
        + users * (users - 1) / (2 * noise**2)
        for users in range(order + 1)
    ]
    expected = float(logsumexp(terms)) / (order - 1)
    assert renyi_divergence(SampledGaussian(rate, noise, 1), float(order)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("order", [1.3, 4.7, 15.5])
@pytest.mark.parametrize("noise", [0.5, 2.0])
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_one_step_equals_adaptive_integration_at_any_order(order: float, noise: float, relation: Relation) -> None:
    rate, mu = 0.1, 1.0 / noise

    def mixture(x: float, shift: float) -> float:
        return float(np.logaddexp(math.log(1 - rate) - x * x / 2, math.log(rate) - (x - shift) ** 2 / 2))

    def exponent(x: float) -> float:
        lower = mixture(x, -mu) if relation == "replace_one" else -x * x / 2
        return order * mixture(x, mu) + (1 - order) * lower

    pieces = np.linspace(-12.0, (2 * order - 1) * mu + 12.0, 40)
    peak = max(exponent(x) for x in pieces)
    total = sum(quad(lambda x: math.exp(exponent(x) - peak), *ends)[0] for ends in itertools.pairwise(pieces))
    expected = (peak + math.log(total / math.sqrt(2 * math.pi))) / (order - 1)
    measured = renyi_divergence(SampledGaussian(rate, noise, 1), order, relation)
    assert measured == pytest.approx(expected, rel=1e-6)


@settings(max_examples=12, deadline=None)
@given(
    st.floats(min_value=0.005, max_value=0.5),
    st.floats(min_value=0.7, max_value=4.0),
    st.integers(min_value=1, max_value=200),
    st.sampled_from(["zero_out", "replace_one"]),
)
def test_the_renyi_price_is_never_below_the_composed_losses(
    rate: float, noise: float, steps: int, relation: Relation
) -> None:
    events: list[PrivacyEvent] = [SampledGaussian(rate, noise, steps), GaussianRelease(10.0)]
    assert renyi_epsilon(events, 1e-5, relation) >= epsilon(events, 1e-5, relation, grid=2e-3) - 5e-3


def test_divergence_is_bounded_by_no_sampling_and_continuous_at_small_noise() -> None:
    for noise in (0.04, 0.06, 1.0):
        everyone = renyi_divergence(GaussianRelease(noise), 3.0)
        assert renyi_divergence(SampledGaussian(0.5, noise, 1), 3.0) <= everyone
        assert everyone == pytest.approx(3.0 / (2 * noise**2))
        assert renyi_divergence(SampledGaussian(1.0, noise, 1), 3.0) == pytest.approx(everyone)
        assert renyi_divergence(GaussianRelease(noise), 3.0, "replace_one") == pytest.approx(4 * everyone)


def test_nothing_costs_nothing_and_a_bare_release_costs_everything() -> None:
    assert renyi_epsilon([], 1e-5) == 0.0
    assert renyi_epsilon([NonPrivate(), BASE_PLAN], 1e-5) == math.inf


def test_the_filter_of_the_base_plan_costs_what_was_published() -> None:
    assert best_order([BASE_PLAN], 1e-5) == pytest.approx(4.7)
    budget = renyi_divergence(BASE_PLAN, 4.7)
    assert RenyiFilter(4.7, budget).guarantee(1e-5) == pytest.approx(4.487, abs=0.01)
    assert renyi_epsilon([BASE_PLAN], 1e-5) == pytest.approx(4.487, abs=0.01)


def test_the_filter_admits_a_plan_step_by_step_and_nothing_after_it() -> None:
    budget = renyi_divergence(BASE_PLAN, 4.7)
    admitting = RenyiFilter(4.7, budget)
    step = SampledGaussian(BASE_PLAN.sample_rate, BASE_PLAN.noise_multiplier, 1)
    assert all(admitting.admit(step) for _ in range(BASE_PLAN.steps))
    assert admitting.spent == pytest.approx(budget)
    assert not admitting.admit(step)
    assert not admitting.admit(NonPrivate())
    assert admitting.spent == pytest.approx(budget)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.5), st.floats(0.5, 5.0), st.integers(1, 20)), max_size=12))
def test_whatever_is_admitted_stays_within_the_promised_epsilon(rounds: list[tuple[float, float, int]]) -> None:
    admitting = RenyiFilter.for_epsilon(6.0, 3.0, 1e-5)
    admitted = [event for event in (SampledGaussian(*round_) for round_ in rounds) if admitting.admit(event)]
    assert admitting.guarantee(1e-5) == pytest.approx(3.0)
    assert admitting.spent <= admitting.rho_budget * (1 + 1e-9)
    assert epsilon(admitted, 1e-5, grid=4e-3) <= 3.0


def test_a_refusal_leaves_room_for_a_cheaper_event() -> None:
    admitting = RenyiFilter(2.0, 1.0)
    assert not admitting.admit(GaussianRelease(0.9))
    assert admitting.spent == 0.0
    assert admitting.admit(GaussianRelease(1.0))
    assert not admitting.admit(GaussianRelease(100.0))


def test_invalid_arguments_are_refused() -> None:
    for order in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(PrivacyError, match="order is"):
            renyi_divergence(BASE_PLAN, order)
        with pytest.raises(PrivacyError, match="order is"):
            RenyiFilter(order, 1.0)
    for budget in (-1.0, math.inf, math.nan):
        with pytest.raises(PrivacyError, match="rho_budget is"):
            RenyiFilter(2.0, budget)
    with pytest.raises(PrivacyError, match="leaves a budget"):
        RenyiFilter.for_epsilon(1.5, 1.0, 1e-5)
    with pytest.raises(PrivacyError, match="divergence is nan"):
        epsilon_of_divergence(math.nan, 2.0, 1e-5)
    with pytest.raises(PrivacyError, match="delta is"):
        renyi_epsilon([], 0.0)
    with pytest.raises(PrivacyError, match="relation is"):
        renyi_divergence(BASE_PLAN, 2.0, "both")  # type: ignore[arg-type]
    assert min(ORDERS) > 1.0
