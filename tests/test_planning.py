"""From a price to a plan: the plan costs what was asked, and looks at public numbers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmrec_model.budgeting import EVALUATION_SHARE, PublicFacts, Wish, plan_budget
from mmrec_model.config import FeatureSpec, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ConfigError, PrivacyError
from mmrec_model.planning import (
    SETTLED,
    adaptive_clipping,
    plan_events,
    planned_learning_rate,
    planned_momentum,
    popularity_event,
)
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import GaussianRelease, NonPrivate, merge
from mmrec_model.privacy.gaussian_dp import gaussian_mu

TRAINING = TrainingConfig(rounds=20)


FACTS = PublicFacts(users=500, partners=2, items=3)


def run(target: float, training: TrainingConfig = TRAINING, asked: EvaluationConfig | None = None) -> RunConfig:
    """A plan without the rungs of pairs and gate; `test_budgeting` has those."""
    wish = Wish(asked or EvaluationConfig(), pairs=False, gate=None)
    budget = plan_budget(target, 1e-5, training, FACTS, wish)
    return RunConfig(
        run_id="r",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=3, dims={"text": 2}),
        training=training,
        privacy=budget.privacy,
        evaluation=budget.evaluation,
        collaboration=budget.collaboration,
        gate=budget.gate,
    )


def private_plan(target: float, delta: float, training: TrainingConfig) -> PrivacyConfig:
    return plan_budget(target, delta, training, FACTS, Wish(pairs=False, gate=None)).privacy


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


@pytest.mark.parametrize("rounds", [1, 5, 20, 59, 60, 500])
@pytest.mark.parametrize("curvature", [0.5, 1.0])
def test_a_swing_of_the_momentum_has_died_when_the_run_ends(rounds: int, curvature: float) -> None:
    momentum = planned_momentum(TrainingConfig(rounds=rounds))
    round_ = np.array([[1.0 - curvature, momentum], [-curvature, momentum]])  # of (weight, velocity), best value 0
    largest = np.abs(np.linalg.eigvals(round_)).max()
    assert largest**rounds <= max(SETTLED, abs(1.0 - curvature - momentum) ** rounds) * (1 + 1e-6)


def test_a_long_run_or_none_keeps_the_momentum_that_was_asked_for() -> None:
    asked = TrainingConfig().server_momentum
    assert [planned_momentum(TrainingConfig(rounds=rounds)) for rounds in (0, 60, 500)] == [asked] * 3
    assert planned_momentum(TrainingConfig(rounds=5)) < 0.5 * asked


EVALUATIONS = [
    (EvaluationConfig(every=7), (7, 14)),
    (EvaluationConfig(every=10, final=True), (10, 20, 21)),
    (EvaluationConfig(final=True), (21,)),
    (EvaluationConfig(every=21), ()),
    (EvaluationConfig(), ()),
]


@pytest.mark.parametrize(("asked", "rounds"), EVALUATIONS)
def test_metrics_are_released_after_the_named_rounds_and_are_part_of_the_price(
    asked: EvaluationConfig, rounds: tuple[int, ...]
) -> None:
    config = run(2.0, asked=asked)
    assert config.evaluated_rounds == rounds
    events = plan_events(config)
    assert len(events) == 2 + bool(rounds)
    if rounds:
        assert events[-1] == GaussianRelease(config.evaluation.noise_multiplier, len(rounds))
        assert len(rounds) / config.evaluation.noise_multiplier**2 == pytest.approx(
            EVALUATION_SHARE * gaussian_mu(2.0, 1e-5) ** 2
        )
    assert 0.99 * 2.0 <= epsilon(events, 1e-5) <= 2.0


def test_what_metrics_cost_is_taken_from_training() -> None:
    with_metrics, without = run(2.0, asked=EvaluationConfig(final=True)), run(2.0)
    assert with_metrics.privacy.noise_multiplier > without.privacy.noise_multiplier
    assert with_metrics.privacy.popularity_noise_multiplier == without.privacy.popularity_noise_multiplier


def test_without_training_the_popularity_release_pays_for_the_metrics() -> None:
    config = run(2.0, TrainingConfig(rounds=0), EvaluationConfig(final=True))
    assert config.evaluated_rounds == (1,)
    assert 0.99 * 2.0 <= epsilon(merge(plan_events(config)), 1e-5) <= 2.0


def test_without_privacy_metrics_have_no_noise() -> None:
    config = run(math.inf, asked=EvaluationConfig(final=True))
    assert config.evaluation.noise_multiplier == 0.0
    assert plan_events(config)[-1] == NonPrivate()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"final": True}, "noise_multiplier is above 0"),
        ({"final": True, "metrics": ["precision_at_10"]}, "pattern"),
        ({"final": True, "metrics": ["mrr", "mrr"]}, "twice"),
        ({"metrics": []}, "at least 1"),
        ({"every": -1}, "greater than or equal to 0"),
    ],
)
def test_an_evaluation_without_noise_or_bound_is_refused(values: dict[str, object], words: str) -> None:
    plan = run(2.0).model_dump(mode="json")
    with pytest.raises(ConfigError, match=words):
        parse_config(RunConfig, {**plan, "evaluation": values}, source="plan")


def test_noise_in_a_run_without_privacy_is_refused() -> None:
    bare = run(math.inf).model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"evaluation\.noise_multiplier 0"):
        parse_config(RunConfig, {**bare, "evaluation": {"final": True, "noise_multiplier": 1.0}}, source="plan")
