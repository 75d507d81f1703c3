"""From a price to a plan: the plan costs what was asked, and looks at public numbers alone."""

from __future__ import annotations

import math

import pytest

from mmrec_model.config import FeatureSpec, RunConfig, TrainingConfig
from mmrec_model.errors import PrivacyError
from mmrec_model.planning import adaptive_clipping, plan_events, planned_learning_rate, popularity_event, private_plan
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import NonPrivate

TRAINING = TrainingConfig(rounds=20)


def run(target: float, training: TrainingConfig = TRAINING) -> RunConfig:
    return RunConfig(
        run_id="r",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=3, dims={"text": 2}),
        training=training,
        privacy=private_plan(target, 1e-5, training),
    )


@pytest.mark.parametrize("target", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("rounds", [0, 1, 20])
def test_the_whole_plan_costs_at_most_the_target_and_almost_all_of_it(target: float, rounds: int) -> None:
    found = epsilon(plan_events(run(target, TrainingConfig(rounds=rounds))), 1e-5)
    assert 0.99 * target <= found <= target


def test_the_popularity_release_takes_the_smaller_part() -> None:
    config = run(8.0)
    assert epsilon([popularity_event(config.privacy)], 1e-5) < 0.5 * epsilon(plan_events(config), 1e-5)


def test_infinity_means_without_privacy_and_says_so() -> None:
    config = run(math.inf)
    assert config.privacy.mechanism == "none"
    assert all(isinstance(event, NonPrivate) for event in plan_events(config))


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_a_target_that_is_no_price_is_refused(target: float) -> None:
    with pytest.raises(PrivacyError, match="above 0"):
        private_plan(target, 1e-5, TRAINING)


def test_the_learning_rate_falls_with_noise_and_never_rises_above_what_was_asked() -> None:
    rates = [
        planned_learning_rate(TRAINING, private_plan(target, 1e-5, TRAINING), users=2000, partners=6, weights=3000)
        for target in (0.5, 1.0, 8.0, 100.0, math.inf)
    ]
    assert rates == sorted(rates)
    assert rates[0] < 0.5 * TRAINING.learning_rate
    assert rates[-1] == TRAINING.learning_rate


def test_the_count_of_adaptive_clipping_is_paid_for_in_the_learning_rate_too() -> None:
    flat = private_plan(1.0, 1e-5, TRAINING)
    counting = adaptive_clipping(flat, expected_users=10.0)
    rates = [planned_learning_rate(TRAINING, one, users=1000, partners=2, weights=3000) for one in (flat, counting)]
    assert rates[1] == pytest.approx(rates[0] * math.sqrt(1 - 1 / 16), rel=1e-9)


def test_more_partners_need_more_users_for_the_same_rate() -> None:
    privacy = private_plan(1.0, 1e-5, TRAINING)
    few = planned_learning_rate(TRAINING, privacy, users=1000, partners=1, weights=3000)
    many = planned_learning_rate(TRAINING, privacy, users=1000, partners=9, weights=3000)
    assert many == pytest.approx(few / 3)
