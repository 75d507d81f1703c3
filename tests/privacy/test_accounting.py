"""The price of releases: published reference values, the closed form, and laws that any accountant must keep."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.accounting import ENFORCEMENT_GRID, RunningAccountant, epsilon, profile
from mmrec_model.privacy.events import GaussianRelease, NonPrivate, PrivacyEvent, Relation, SampledGaussian
from mmrec_model.privacy.gaussian_dp import gaussian_delta, gaussian_epsilon, gaussian_mu

# sample rate, noise multiplier, steps, delta, epsilon for zero-out, epsilon for replace-one
REFERENCE = [
    (0.01, 1, 1000, 1e-5, 1.82824, 2.84345),
    (0.01, 1, 1000, 1e-6, 2.12452, 3.21424),
    (0.01, 4, 100, 1e-5, 0.07952, 0.16023),
    (0.01, 2, 5000, 1e-6, 1.68292, 3.32187),
    (0.05, 1, 100, 1e-5, 3.50215, 4.88949),
    (0.05, 2, 1000, 1e-5, 3.69974, 7.50029),
    (0.05, 4, 1000, 1e-6, 1.80182, 3.74286),
    (0.1, 1, 100, 1e-5, 7.04660, 10.51638),
    (0.1, 2, 100, 1e-6, 2.67504, 4.88634),
    (0.1, 4, 1000, 1e-5, 3.44434, 7.48907),
    (0.2, 2, 100, 1e-5, 5.02318, 9.83860),
    (0.2, 4, 1000, 1e-6, 8.54686, 19.30738),
    (1, 4, 100, 1e-5, 13.20671, 33.10373),
    (1, 4, 100, 1e-6, 14.45078, 35.56634),
]
FAST = {2, 6, 10, 11}
BASE_PLAN = (SampledGaussian(0.05, 1.0943822791799904, 200),)
GRID = 5e-3

PLANS = st.builds(
    SampledGaussian,
    st.sampled_from([0.02, 0.1, 0.2]),
    st.floats(min_value=0.8, max_value=4.0),
    st.integers(min_value=2, max_value=60),
)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[] if index in FAST else pytest.mark.slow) for index, row in enumerate(REFERENCE)],
    ids=str,
)
def test_reference_values_are_met(row: tuple[float, float, int, float, float, float]) -> None:
    rate, noise, steps, delta, zero_out, replace_one = row
    events = (SampledGaussian(rate, noise, steps),)
    assert epsilon(events, delta) == pytest.approx(zero_out, abs=1e-4)
    assert epsilon(events, delta, "replace_one") == pytest.approx(replace_one, abs=1e-4)


def test_the_base_plan_costs_what_was_published_at_every_delta() -> None:
    published = {1e-3: 2.650, 1e-4: 3.357, 1e-5: 4.000, 1e-6: 4.600, 1e-7: 5.170, 1e-8: 5.717}
    assert profile(BASE_PLAN, tuple(published)) == pytest.approx(published, abs=1e-3)
    assert epsilon(BASE_PLAN, 1e-5, "replace_one", grid=ENFORCEMENT_GRID) == pytest.approx(6.228, abs=2e-3)
    assert gaussian_mu(4.0, 1e-5) == pytest.approx(0.925, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "published"),
    [
        ([SampledGaussian(0.055, 1.0943822791799904, 200)], 4.429),
        ([SampledGaussian(0.1, 1.0943822791799904, 200)], 8.461),
        ([SampledGaussian(0.05, 1.0943822791799904 * 0.9, 200)], 4.914),
        ([SampledGaussian(0.05, 1.0943822791799904, 400)], 5.650),
        ([SampledGaussian(0.05, 1.0943822791799904, 1000)], 9.277),
        ([*BASE_PLAN, GaussianRelease(5.0, 10)], 4.889),
        ([*BASE_PLAN, GaussianRelease(20.0, 10)], 4.057),
    ],
    ids=["rate x1.1", "rate x2", "noise x0.9", "two partners", "five runs", "10 metrics at 5", "10 metrics at 20"],
)
def test_each_misstatement_costs_what_was_published(change: list[PrivacyEvent], published: float) -> None:
    assert epsilon(change, 1e-5, grid=ENFORCEMENT_GRID) == pytest.approx(published, abs=3e-3)


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_releases_without_sampling_follow_the_closed_form(mu: float, relation: Relation) -> None:
    shift = 2.0 if relation == "replace_one" else 1.0
    expected = gaussian_epsilon(shift * mu, 1e-6)
    assert expected - 1e-9 <= epsilon([GaussianRelease(4.0 / mu, 16)], 1e-6, relation, grid=1e-3) <= expected + 1e-4
    assert gaussian_delta(expected, shift * mu) == pytest.approx(1e-6, rel=1e-9)


def test_the_closed_form_has_its_published_values() -> None:
    assert gaussian_epsilon(1.0, 1e-5) == pytest.approx(4.377178, abs=1e-6)
    assert gaussian_epsilon(2.5, 1e-5) == pytest.approx(13.206712, abs=1e-6)
    assert gaussian_epsilon(2.5, 1e-6) == pytest.approx(14.450777, abs=1e-6)
    assert gaussian_mu(13.206712, 1e-5) == pytest.approx(2.5, abs=1e-6)
    assert gaussian_epsilon(1e-6, 1e-5) == 0.0
    assert gaussian_delta(math.inf, 1.0) == 0.0


@settings(max_examples=10, deadline=None)
@given(PLANS, st.sampled_from(["zero_out", "replace_one"]))
def test_more_steps_more_users_less_noise_and_less_delta_cost_more(plan: SampledGaussian, relation: Relation) -> None:
    def price(rate: float = 1.0, noise: float = 1.0, steps: int = 1, delta: float = 1e-5) -> float:
        event = SampledGaussian(plan.sample_rate * rate, plan.noise_multiplier * noise, plan.steps * steps)
        return epsilon([event], delta, relation, grid=GRID)

    base = price()
    assert base < price(steps=2)
    assert base < price(rate=1.5)
    assert base < price(noise=0.8)
    assert base < price(delta=1e-6)


@settings(max_examples=10, deadline=None)
@given(PLANS, PLANS, st.sampled_from(["zero_out", "replace_one"]))
def test_order_and_grouping_do_not_matter(one: SampledGaussian, two: SampledGaussian, relation: Relation) -> None:
    release = GaussianRelease(8.0, 3)
    halves = [SampledGaussian(one.sample_rate, one.noise_multiplier, steps) for steps in (1, one.steps)]
    whole = SampledGaussian(one.sample_rate, one.noise_multiplier, one.steps + 1)
    price = epsilon([whole, two, release], 1e-5, relation, grid=GRID)
    assert epsilon([halves[0], release, two, halves[1]], 1e-5, relation, grid=GRID) == price
    assert epsilon([whole, two], 1e-5, relation, grid=GRID) < price


@settings(max_examples=10, deadline=None)
@given(PLANS)
def test_a_replaced_user_costs_more_than_a_missing_one_and_less_than_two(plan: SampledGaussian) -> None:
    missing = epsilon([plan], 1e-5, grid=GRID)
    assert missing < epsilon([plan], 1e-5, "replace_one", grid=GRID)
    everyone = GaussianRelease(10 * plan.noise_multiplier, plan.steps)
    half_noise = GaussianRelease(5 * plan.noise_multiplier, plan.steps)
    replaced = epsilon([everyone], 1e-5, "replace_one", grid=1e-3)
    assert replaced == pytest.approx(epsilon([half_noise], 1e-5, grid=1e-3), rel=1e-3, abs=2e-3)


@settings(max_examples=10, deadline=None)
@given(PLANS)
def test_a_coarser_grid_never_lowers_the_price(plan: SampledGaussian) -> None:
    assert epsilon([plan], 1e-5, grid=GRID) <= epsilon([plan], 1e-5, grid=2 * GRID) + 1e-9


def test_sampling_everyone_is_no_sampling() -> None:
    everyone = epsilon([SampledGaussian(1.0, 3.0, 10)], 1e-5, grid=GRID)
    assert everyone == epsilon([GaussianRelease(3.0, 10)], 1e-5, grid=GRID)
    almost = epsilon([SampledGaussian(1.0 - 1e-9, 3.0, 10)], 1e-5, grid=1e-3)
    assert almost == pytest.approx(everyone, abs=5e-3)


def test_nothing_costs_nothing_and_a_bare_release_costs_everything() -> None:
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([NonPrivate()], 1e-5) == math.inf
    assert epsilon([*BASE_PLAN, NonPrivate()], 1e-5, "replace_one") == math.inf
    assert profile([NonPrivate()], (1e-5, 1e-6)) == {1e-5: math.inf, 1e-6: math.inf}


@pytest.mark.parametrize("noise", [1e-9, 0.003])
def test_hopeless_noise_is_priced_not_computed(noise: float) -> None:
    assert epsilon([SampledGaussian(0.5, noise, 10_000)], 1e-5) == math.inf


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_round_by_round_equals_one_shot(relation: Relation) -> None:
    rounds: list[PrivacyEvent] = [
        SampledGaussian(0.2, 2.0, 1),
        GaussianRelease(6.0),
        SampledGaussian(0.2, 2.0, 4),
        SampledGaussian(0.1, 1.5, 2),
        GaussianRelease(9.0, 2),
        SampledGaussian(0.2, 2.0, 1),
    ]
    accountant = RunningAccountant(relation, grid=GRID)
    for number, event in enumerate(rounds):
        foreseen = accountant.would_cost(event, 1e-5)
        before = accountant.epsilon(1e-5)
        accountant.compose(event)
        assert before < accountant.epsilon(1e-5) == foreseen
        one_shot = epsilon(rounds[: number + 1], 1e-5, relation, grid=GRID)
        assert accountant.epsilon(1e-5) == pytest.approx(one_shot, abs=1e-7)
    resumed = RunningAccountant(relation, grid=GRID, events=accountant.events)
    assert resumed.epsilon(1e-5) == pytest.approx(accountant.epsilon(1e-5), abs=1e-7)


def test_asking_what_a_release_would_cost_commits_nothing() -> None:
    accountant = RunningAccountant(grid=GRID, events=BASE_PLAN)
    price = accountant.epsilon(1e-5)
    assert accountant.would_cost(NonPrivate(), 1e-5) == math.inf
    assert accountant.would_cost(GaussianRelease(1e-6), 1e-5) == math.inf
    with pytest.raises(PrivacyError):
        accountant.compose("round 3")  # type: ignore[arg-type]
    assert accountant.epsilon(1e-5) == price
    assert accountant.events == BASE_PLAN


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(PrivacyError, match=r"delta is .* must be in"):
        epsilon([], delta)
    with pytest.raises(PrivacyError, match="delta is"):
        gaussian_epsilon(1.0, delta)


def test_an_unknown_relation_or_grid_is_refused() -> None:
    with pytest.raises(PrivacyError, match="relation is 'add_remove'"):
        epsilon([], 1e-5, "add_remove")  # type: ignore[arg-type]
    for grid in (0.0, -1.0, 1.0, math.nan):
        with pytest.raises(PrivacyError, match="grid is"):
            epsilon([], 1e-5, grid=grid)
    with pytest.raises(PrivacyError, match="mu is 0"):
        gaussian_delta(1.0, 0.0)
    with pytest.raises(PrivacyError, match="epsilon is -1"):
        gaussian_delta(-1.0, 1.0)
