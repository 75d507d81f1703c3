"""Noise from a target: never dearer than the target, never much cheaper, refused where no noise can help."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.accounting import ENFORCEMENT_GRID, RunningAccountant, epsilon
from mmrec_model.privacy.calibration import calibrate
from mmrec_model.privacy.events import GaussianRelease, NonPrivate, PrivacyEvent, Relation, SampledGaussian
from mmrec_model.privacy.gaussian_dp import gaussian_mu


def popularity_then_training(noise: float) -> Sequence[PrivacyEvent]:
    """One release over all users, then a hundred sampled steps."""
    return GaussianRelease(5.0 * noise), SampledGaussian(0.2, noise, 100)


@settings(max_examples=8, deadline=None)
@given(st.floats(min_value=0.2, max_value=12.0), st.sampled_from(["zero_out", "replace_one"]))
def test_the_price_is_within_the_tolerance_below_the_target(target: float, relation: Relation) -> None:
    noise = calibrate(target, 1e-5, popularity_then_training, relation=relation)
    price = epsilon(popularity_then_training(noise), 1e-5, relation, grid=ENFORCEMENT_GRID)
    assert target - 1e-3 <= price <= target


def test_the_base_plan_is_found_again() -> None:
    noise = calibrate(4.0, 1e-5, lambda noise: [SampledGaussian(0.05, noise, 200)])
    assert noise == pytest.approx(1.09438, abs=1e-3)


def test_a_single_release_is_calibrated_as_the_closed_form_says() -> None:
    noise = calibrate(1.0, 1e-6, lambda noise: [GaussianRelease(noise)], tolerance=1e-4)
    assert noise == pytest.approx(1.0 / gaussian_mu(1.0, 1e-6), rel=1e-3)
    assert noise >= 1.0 / gaussian_mu(1.0, 1e-6)


def test_a_calibrated_plan_is_admitted_round_by_round_and_on_a_finer_grid() -> None:
    noise = calibrate(2.0, 1e-5, popularity_then_training)
    release, steps = popularity_then_training(noise)
    assert isinstance(steps, SampledGaussian)
    accountant = RunningAccountant()
    for _ in range(steps.steps // 5):
        accountant.compose(SampledGaussian(steps.sample_rate, noise, 5))
    accountant.compose(release)
    assert accountant.epsilon(1e-5) <= 2.0
    assert epsilon(popularity_then_training(noise), 1e-5, grid=5e-4) <= 2.0


def test_a_jump_in_the_plan_is_kept_on_its_cheap_side() -> None:
    def plan(noise: float) -> Sequence[PrivacyEvent]:
        return [GaussianRelease(10.0)] if noise >= 3.0 else [GaussianRelease(1.0)]

    assert calibrate(1.0, 1e-5, plan) == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize(
    "plan",
    [
        lambda noise: [GaussianRelease(noise), GaussianRelease(0.5)],
        lambda noise: [GaussianRelease(noise), NonPrivate()],
    ],
    ids=["fixed release too dear", "bare release"],
)
def test_a_target_below_the_fixed_costs_is_refused(plan: object) -> None:
    with pytest.raises(PrivacyError, match="still costs epsilon"):
        calibrate(1.0, 1e-5, plan)  # type: ignore[arg-type]


def test_a_plan_that_ignores_the_noise_is_refused() -> None:
    with pytest.raises(PrivacyError, match="even at noise multiplier"):
        calibrate(1.0, 1e-5, lambda _: [])


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_invalid_arguments_are_refused(value: float) -> None:
    with pytest.raises(PrivacyError, match="target_epsilon is"):
        calibrate(value, 1e-5, popularity_then_training)
    with pytest.raises(PrivacyError, match="tolerance is"):
        calibrate(1.0, 1e-5, popularity_then_training, tolerance=value)
    with pytest.raises(PrivacyError, match="delta is"):
        calibrate(1.0, value, popularity_then_training)
