"""Adaptive clipping costs what the plan says, moves by the rule of its paper, and never leaves its range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.config import PrivacyConfig
from mmrec_model.errors import ConfigError, ProtocolError
from mmrec_model.planning import adaptive_clipping
from mmrec_model.privacy.clipping import clip_bounds, clip_of, gradient_noise_multiplier, next_clip, start_clip

NOISES = [(1.0, 0.6), (1.0, 2.0), (0.7, 14.0), (2.5, 1.4), (1.0943822791799904, 25.0)]


def plan(**changes: object) -> PrivacyConfig:
    values = {"epsilon": 8.0, "noise_multiplier": 1.5, "popularity_noise_multiplier": 3.0, "clipping": "adaptive"}
    return PrivacyConfig.model_validate({"clip_count_noise": 2.0, **values, **changes})


@pytest.mark.parametrize(("z", "sigma_b"), NOISES)
def test_the_two_noises_together_are_one_gaussian_of_the_plans_noise(z: float, sigma_b: float) -> None:
    """On one sample: composed as two Gaussian mechanisms, they have the privacy losses of one with z."""
    z_delta = gradient_noise_multiplier(z, sigma_b)
    assert z_delta > z
    assert z_delta == pytest.approx((z**-2 - (2.0 * sigma_b) ** -2) ** -0.5, rel=1e-12)
    grid = 1e-4
    gradients = pld.from_gaussian_mechanism(z_delta, value_discretization_interval=grid)
    count = pld.from_gaussian_mechanism(sigma_b, sensitivity=0.5, value_discretization_interval=grid)
    one, both = pld.from_gaussian_mechanism(z, value_discretization_interval=grid), gradients.compose(count)
    for epsilon in (0.0, 0.3, 1.0, 3.0):
        exact = delta_of_sampled((1.0 / z,), 1.0, epsilon)
        assert one.get_delta_for_epsilon(epsilon) == pytest.approx(exact, abs=1e-6)
        assert both.get_delta_for_epsilon(epsilon) == pytest.approx(one.get_delta_for_epsilon(epsilon), abs=1e-6)


def delta_of_sampled(shift: tuple[float, ...], rate: float, epsilon: float) -> float:
    """delta(epsilon) between (1 - rate) N(0, I) + rate N(shift, I) and N(0, I), summed on a grid."""
    step = 0.02 if len(shift) > 1 else 0.0005
    axis = np.arange(-9.0, 12.0, step) + step / 2
    places = np.meshgrid(*[axis] * len(shift), indexing="ij")
    density = np.prod([np.exp(-np.square(place) / 2) / math.sqrt(2.0 * math.pi) for place in places], axis=0)
    inner = sum(size * place for size, place in zip(shift, places, strict=True))
    ratio = 1.0 - rate + rate * np.exp(inner - sum(size * size for size in shift) / 2)
    return float((density * np.maximum(ratio - math.exp(epsilon), 0.0)).sum() * step ** len(shift))


@pytest.mark.parametrize("rate", [0.05, 0.3])
@pytest.mark.parametrize(("z", "sigma_b"), [(1.0, 0.8), (1.5, 1.0)])
def test_the_same_holds_when_the_two_share_a_sample_of_the_users(z: float, sigma_b: float, rate: float) -> None:
    joint = (1.0 / gradient_noise_multiplier(z, sigma_b), 0.5 / sigma_b)
    for epsilon in (0.0, 0.4 * rate, 1.5 * rate):
        one = delta_of_sampled((1.0 / z,), rate, epsilon)
        assert one > 3e-4
        assert delta_of_sampled(joint, rate, epsilon) == pytest.approx(one, abs=1e-6)
        assert delta_of_sampled((1.0 / z, 0.5 / sigma_b), rate, epsilon) > one + 1e-4, "without larger noise it is not"


def test_without_a_count_the_gradients_have_the_plans_noise() -> None:
    assert gradient_noise_multiplier(1.3, None) == 1.3
    assert gradient_noise_multiplier(0.0, None) == 0.0


SHARES = st.floats(-1e30, 1e30)
STARTS = st.floats(1e-20, 1e20)


@given(st.lists(SHARES, max_size=20), STARTS, st.floats(1.1, 1000.0), st.floats(0.01, 0.99), st.floats(0.01, 10.0))
def test_the_clip_never_leaves_its_range_and_a_partner_accepts_every_clip(
    shares: list[float], start: float, factor: float, quantile: float, rate: float
) -> None:
    privacy = plan(max_grad_norm=start, clip_range=factor, clip_quantile=quantile, clip_learning_rate=rate)
    low, high = clip_bounds(privacy)
    assert start / factor <= low <= start <= high <= start * factor
    clip_1 = start_clip(privacy)
    assert clip_1 is not None
    for share in shares:
        clip_1 = next_clip(privacy, clip_1, share)
        assert clip_1.shape == (1,)
        assert clip_1.dtype == np.float32
        assert low <= clip_of(privacy, {"clip": clip_1}) <= high


@given(st.floats(-0.6, 0.6), st.floats(0.2, 0.8))
def test_the_clip_moves_by_the_rule_of_the_paper(share: float, quantile: float) -> None:
    privacy = plan(clip_quantile=quantile)
    moved = float(next_clip(privacy, np.array([0.7], np.float32), share)[0])
    assert moved == pytest.approx(0.7 * math.exp(-0.2 * (share + 0.5 - quantile)), rel=1e-6)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"clip": np.array([0.0999], np.float32)},
        {"clip": np.array([10.001], np.float32)},
        {"clip": np.array([math.nan], np.float32)},
        {"clip": np.array([-1.0], np.float32)},
        {"clip": np.ones((1, 1), np.float32)},
        {"clip": np.float32(1.0).reshape(())},
        {"clip": np.ones(2, np.float32)},
    ],
    ids=lambda state: str(state.get("clip", "none")),
)
def test_a_clip_that_is_absent_or_outside_the_plans_range_is_refused(state: dict[str, np.ndarray]) -> None:
    with pytest.raises(ProtocolError, match="clip"):
        clip_of(plan(), state)
    assert clip_of(plan(), {"clip": np.array([2.5], np.float32)}) == 2.5


def test_with_flat_clipping_no_clip_travels() -> None:
    flat = plan(clipping="flat", clip_count_noise=None, max_grad_norm=0.3)
    assert start_clip(flat) is None
    assert clip_bounds(flat) == (0.3, 0.3)
    assert clip_of(flat, {}) == 0.3
    with pytest.raises(ProtocolError, match="flat"):
        clip_of(flat, {"clip": np.array([0.3], np.float32)})


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_count_noise": None},
        {"clip_count_noise": 0.75},
        {"clip_count_noise": math.inf},
        {"clip_range": 1.0},
        {"clip_quantile": 1.0},
        {"clip_learning_rate": 0.0},
        {"max_grad_norm": 1e-30},
        {"max_grad_norm": 1e30},
        {"clipping": "flat"},
        {"clipping": "flat", "clip_count_noise": None, "clip_quantile": 0.7},
        {"clipping": "flat", "clip_count_noise": None, "clip_range": 2.0},
        {"mechanism": "none", "epsilon": None, "noise_multiplier": 0.0, "popularity_noise_multiplier": 0.0},
    ],
    ids=str,
)
def test_a_plan_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    plan(clip_count_noise=0.7501)
    with pytest.raises(ValueError, match="clip"):
        plan(**changes)


@pytest.mark.parametrize(("expected", "count_noise"), [(400.0, 20.0), (3.0, 3.0)])
def test_the_planned_count_noise_is_public_and_dear_to_nobody(expected: float, count_noise: float) -> None:
    flat = plan(clipping="flat", clip_count_noise=None)
    counting = adaptive_clipping(flat, expected_users=expected)
    assert counting.clip_count_noise == count_noise
    assert counting.noise_multiplier == flat.noise_multiplier, "the price is the same"
    assert gradient_noise_multiplier(1.5, counting.clip_count_noise) <= 1.033 * 1.5
    bare = {"mechanism": "none", "epsilon": None, "noise_multiplier": 0.0, "popularity_noise_multiplier": 0.0}
    with pytest.raises(ConfigError, match="gaussian"):
        adaptive_clipping(PrivacyConfig.model_validate(flat.model_dump() | bare), expected_users=10.0)
