"""A target is split over the rungs from public numbers: it is kept, almost all is used, and every choice is told."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import pytest

from mmrec_model.budgeting import (
    ACTIVITY_SHARE,
    GATE_ERROR,
    GATE_SHARES,
    Budget,
    PublicFacts,
    Wish,
    plan_budget,
)
from mmrec_model.config import FeatureSpec, ModelConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.errors import PrivacyError
from mmrec_model.pair_forms import FEWEST_ITEMS, MOST_ITEMS
from mmrec_model.planning import plan_events
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import NonPrivate
from mmrec_model.privacy.gaussian_dp import gaussian_mu

DELTA = 1e-5
MANY, FEW = PublicFacts(users=10_000, partners=1, items=300), PublicFacts(users=100, partners=5, items=300)
SHORT = TrainingConfig(rounds=2, local_steps=1, sample_rate=0.5)
NONE = TrainingConfig(rounds=0)
METRICS = EvaluationConfig(every=1, final=True)


@lru_cache
def planned(target: float, training: TrainingConfig, facts: PublicFacts, wish: Wish | None = None) -> Budget:
    """A plan is a pure function, and finding its noise takes a while."""
    return plan_budget(target, DELTA, training, facts, wish)


def run(budget: Budget, training: TrainingConfig, items: int = 300, width: int = 2) -> RunConfig:
    return RunConfig(
        run_id="b",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=items, dims={"text": width}),
        model=ModelConfig(
            collaboration_weight=0.3 if budget.collaboration.items else 0.0,
            metric_weight=0.05 if budget.collaboration.dims else 0.0,
        ),
        training=training,
        privacy=budget.privacy,
        evaluation=budget.evaluation,
        collaboration=budget.collaboration,
        gate=budget.gate,
    )


WHO = ((MANY, True), (FEW, True), (MANY, False))
"""Pairs are planned, too few users for pairs, pairs are not wished for."""
CASES = [
    (0.5 if number % 5 > 2 else 3.0, *who, gate, training, metrics)
    for number, (who, (gate, training, metrics)) in enumerate(
        itertools.product(WHO, itertools.product(("ndcg_at_10", None), (SHORT, NONE), (METRICS, None)))
    )
]


@pytest.mark.parametrize(("facts", "training", "pairs"), [(MANY, SHORT, True), (MANY, NONE, True), (FEW, NONE, False)])
def test_activity_gets_its_share_where_it_is_asked_for_and_the_price_stays(
    facts: PublicFacts, training: TrainingConfig, pairs: bool
) -> None:
    budget = planned(3.0, training, facts, Wish(pairs=pairs, activity_quantile=0.9))
    events = plan_events(run(budget, training))
    assert 0.99 * 3.0 <= epsilon(events, DELTA) <= 3.0
    share = 1.0 / (budget.privacy.activity_noise_multiplier * gaussian_mu(3.0, DELTA)) ** 2
    assert share == pytest.approx(ACTIVITY_SHARE)
    assert len(events) == len(plan_events(run(planned(3.0, training, facts, Wish(pairs=pairs)), training))) + 1
    assert any("as 90% of the users have, 20 at most" in reason for reason in budget.reasons)


def test_without_noise_activity_is_asked_for_all_the_same() -> None:
    privacy = plan_budget(math.inf, DELTA, SHORT, MANY, Wish(activity_quantile=0.5)).privacy
    assert (privacy.activity_quantile, privacy.activity_noise_multiplier) == (0.5, 0.0)


@pytest.mark.parametrize(("target", "facts", "pairs", "gate", "training", "metrics"), CASES)
def test_the_whole_plan_costs_at_most_the_target_and_almost_all_of_it(  # noqa: PLR0917 - what a plan may have
    target: float,
    facts: PublicFacts,
    pairs: bool,
    gate: str | None,
    training: TrainingConfig,
    metrics: EvaluationConfig | None,
) -> None:
    wish = Wish(metrics or EvaluationConfig(), pairs=pairs, gate=gate)
    budget = planned(target, training, facts, wish)
    config = run(budget, training)
    asked = 1 + bool(budget.collaboration.items) + bool(training.rounds) + bool(metrics) + bool(gate)
    assert len(plan_events(config)) == asked
    assert 0.99 * target <= epsilon(plan_events(config), DELTA) <= target


@pytest.mark.parametrize("metrics", [METRICS, EvaluationConfig()])
@pytest.mark.parametrize(("users", "items"), [(3_800, 50), (1_000, 60), (30, 50), (10**6, 3_000)])
def test_training_is_left_something_whatever_the_others_take(users: int, items: int, metrics: EvaluationConfig) -> None:
    """A gate over few users and pairs of few items both want much."""
    budget = planned(1.0, SHORT, PublicFacts(users, 1, items), Wish(metrics))
    assert budget.privacy.noise_multiplier < 100.0
    assert 0.99 <= epsilon(plan_events(run(budget, SHORT, items)), DELTA) <= 1.0


def test_pairs_are_released_where_users_are_many_and_not_where_they_are_few() -> None:
    many, few = (planned(4.0, SHORT, facts) for facts in (MANY, FEW))
    assert many.collaboration.items == 300
    assert (few.collaboration.items, few.collaboration.noise_multiplier) == (0, 0.0)
    assert any("100 users raise those of" in reason for reason in few.reasons)
    assert any("Pairs of all of 300 items" in reason for reason in many.reasons)


def test_with_fewer_users_fewer_items_have_pairs_until_there_are_none() -> None:
    items = [
        planned(2.0, SHORT, PublicFacts(users, 3, 5_000)).collaboration.items
        for users in (300, 2_000, 4_000, 6_000, 10**7)
    ]
    assert items[0] == 0
    assert items == sorted(items)
    assert FEWEST_ITEMS <= items[1] < items[2] < items[3] < items[4] == MOST_ITEMS
    reasons = planned(2.0, SHORT, PublicFacts(4_000, 3, 5_000)).reasons
    assert any(f"the {items[2]:,} most popular of 5,000 items" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("facts", "items", "dims"),
    [
        (PublicFacts(10_000, 1, 300), 300, 0),
        (PublicFacts(10_000, 1, 300, 128), 300, 0),
        (PublicFacts(10_000, 20, 1_000, 128), 0, 64),
        (PublicFacts(2_000, 1, 40, 48), 0, 48),
        (PublicFacts(2_000, 1, 40, 31), 0, 0),
        (PublicFacts(100_000, 1, 50_000, 128), MOST_ITEMS, 64),
        (PublicFacts(100_000, 1, 3_000, 128), MOST_ITEMS, 0),
        (PublicFacts(100, 5, 300, 128), 0, 0),
    ],
)
@pytest.mark.parametrize("training", [SHORT, NONE])
def test_pairs_of_features_take_the_place_of_items_in_small_federations_and_stand_beside_them_in_large_catalogues(
    facts: PublicFacts, items: int, dims: int, training: TrainingConfig
) -> None:
    budget = planned(2.0, training, facts)
    assert (budget.collaboration.items, budget.collaboration.dims) == (items, dims)
    assert (budget.collaboration.noise_multiplier > 0.0) == bool(items or dims)
    told = " ".join(budget.reasons)
    assert ("Pairs of features in" in told) == (dims > 0 and not items)
    assert ("In the same release" in told) == (dims > 0 and items > 0)
    if dims:
        config = run(budget, training, facts.items, width=facts.width)
        assert 0.99 * 2.0 <= epsilon(plan_events(config), DELTA) <= 2.0


def test_the_prior_of_a_small_federation_with_pairs_of_features_gets_a_larger_share() -> None:
    small, large = PublicFacts(10_000, 20, 1_000, 128), PublicFacts(10_000, 20, 1_000)
    features, items = (planned(2.0, NONE, facts).privacy.popularity_noise_multiplier for facts in (small, large))
    assert features == pytest.approx(items * (0.05 / 0.3) ** 0.5)


def test_more_partners_are_more_noise_and_so_fewer_items() -> None:
    one, ten = (planned(2.0, SHORT, PublicFacts(6_000, partners, 5_000)).collaboration.items for partners in (1, 10))
    assert ten < one


def noises(target: float, facts: PublicFacts = MANY, training: TrainingConfig = SHORT) -> dict[str, float]:
    budget = planned(target, training, facts, Wish(METRICS))
    return {
        "popularity": budget.privacy.popularity_noise_multiplier,
        "training": budget.privacy.noise_multiplier,
        "pairs": budget.collaboration.noise_multiplier,
        "gate": budget.gate.noise_multiplier,
        "evaluation": budget.evaluation.noise_multiplier,
    }


@pytest.mark.parametrize("training", [SHORT, NONE])
def test_a_larger_target_means_less_noise_everywhere(training: TrainingConfig) -> None:
    plans = [noises(target, PublicFacts(10**6, 1, 300), training) for target in (0.5, 4.0, 16.0)]
    for name in plans[0]:
        series = [plan[name] for plan in plans]
        assert series == sorted(series, reverse=True)
        assert series[0] > series[-1] > 0.0


def test_without_training_the_last_release_gets_what_training_would_have_had() -> None:
    assert noises(2.0, training=NONE)["pairs"] < noises(2.0)["pairs"]
    with_training, without = (
        planned(2.0, training, FEW).privacy.popularity_noise_multiplier for training in (SHORT, NONE)
    )
    assert without < with_training


def test_what_is_not_wished_for_is_not_planned_and_its_share_goes_to_the_rest() -> None:
    whole = planned(2.0, SHORT, MANY)
    none = planned(2.0, SHORT, MANY, Wish(pairs=False, gate=None))
    assert (none.collaboration.items, none.gate.metric, none.gate.noise_multiplier) == (0, None, 0.0)
    assert none.privacy.noise_multiplier < whole.privacy.noise_multiplier
    assert any("does not ask" in reason for reason in none.reasons)


@pytest.mark.parametrize(
    ("facts", "pairs", "training", "words"),
    [
        (MANY, True, SHORT, "Pairs get 80%"),
        (PublicFacts(1_000, 1, 300), True, SHORT, "Pairs get 50%"),
        (MANY, True, NONE, "Nothing is trained"),
        (MANY, False, SHORT, "Training gets all that popularity and the gate leave"),
        (FEW, False, NONE, "Nothing is trained"),
    ],
)
def test_the_reasons_name_the_decision(facts: PublicFacts, pairs: bool, training: TrainingConfig, words: str) -> None:
    reasons = planned(4.0, training, facts, Wish(pairs=pairs)).reasons
    assert len(reasons) == 3
    assert sum(reason.startswith("The gate gets") for reason in reasons) == 1
    assert words in " ".join(reasons)
    assert all(reason.endswith(".") for reason in reasons)


def test_the_gate_gets_the_share_that_its_error_asks_for_and_never_more_than_its_most() -> None:
    many, few = (planned(4.0, SHORT, PublicFacts(users, 1, 300)) for users in (3_000, 500))
    mu = gaussian_mu(4.0, 1e-5)
    assert 1.0 / (many.gate.noise_multiplier * mu) ** 2 < 1.0 / (few.gate.noise_multiplier * mu) ** 2
    assert 1.0 / (few.gate.noise_multiplier * mu) ** 2 == pytest.approx(GATE_SHARES[1])
    assert many.gate.noise_multiplier * math.sqrt(7) / 3_000 == pytest.approx(GATE_ERROR, rel=1e-6)


def test_the_share_of_the_pairs_follows_their_signal() -> None:
    assert noises(4.0, PublicFacts(10_000, 1, 300))["pairs"] < noises(4.0, PublicFacts(1_000, 1, 300))["pairs"]


def test_infinity_means_no_noise_on_any_rung() -> None:
    budget = plan_budget(math.inf, DELTA, SHORT, MANY, Wish(METRICS))
    assert budget.collaboration.items == 300
    assert all(isinstance(event, NonPrivate) for event in plan_events(run(budget, SHORT)))
    assert plan_budget(math.inf, DELTA, SHORT, PublicFacts(9, 1, 30)).collaboration.items == 0


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan])
def test_a_target_that_is_no_price_is_refused(target: float) -> None:
    with pytest.raises(PrivacyError, match="above 0"):
        plan_budget(target, DELTA, SHORT, MANY)
