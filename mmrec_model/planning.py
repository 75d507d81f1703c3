"""What a plan releases, as priced events, and the rates that its public numbers allow.

A plan is fixed before the first step and charged whole, so that its price may be composed exactly (privacy loss
distributions); nothing here looks at a user's data. `mmrec_model.budgeting` chooses the noise.
"""

from __future__ import annotations

import math

from mmrec_model.config import PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import CollaborationConfig, EvaluationConfig, GateConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.privacy.clipping import gradient_noise_multiplier
from mmrec_model.privacy.events import GaussianRelease, NonPrivate, PrivacyEvent, SampledGaussian

ENOUGH_SIGNAL = 4.0
"""Ratio of the largest signal of a step to its noise from which on the full learning rate is used."""
SETTLED = 0.05
"""What may be left, at the end of a run, of a swing that the server's momentum began at its start."""

COUNT_NOISE_SHARE = 0.05
"""Noise on the number of users within the clip, as a share of the users of a step."""
LEAST_COUNT_NOISE = 2.0
"""The same at least, in noise multipliers of the plan: the gradients then have 1.033 times the noise."""


def activity_event(privacy: PrivacyConfig) -> PrivacyEvent:
    """The one release of the users' activity."""
    return NonPrivate() if privacy.mechanism == "none" else GaussianRelease(privacy.activity_noise_multiplier)


def popularity_event(privacy: PrivacyConfig) -> PrivacyEvent:
    """The one release of item counts."""
    if privacy.mechanism == "none":
        return NonPrivate()
    return GaussianRelease(privacy.popularity_noise_multiplier)


def training_event(privacy: PrivacyConfig, training: TrainingConfig, *, rounds: int) -> PrivacyEvent:
    """`rounds` rounds of private steps over Poisson samples of users."""
    if privacy.mechanism == "none":
        return NonPrivate()
    return SampledGaussian(training.sample_rate, privacy.noise_multiplier, rounds * training.local_steps)


def evaluation_event(privacy: PrivacyConfig, evaluation: EvaluationConfig, *, releases: int) -> PrivacyEvent:
    """`releases` releases of the metrics, at least 1."""
    if privacy.mechanism == "none":
        return NonPrivate()
    return GaussianRelease(evaluation.noise_multiplier, releases)


def pairs_event(privacy: PrivacyConfig, collaboration: CollaborationConfig) -> PrivacyEvent:
    """The one release of pairs."""
    return NonPrivate() if privacy.mechanism == "none" else GaussianRelease(collaboration.noise_multiplier)


def compare_event(privacy: PrivacyConfig, gate: GateConfig) -> PrivacyEvent:
    """The one release of the rungs' scores."""
    return NonPrivate() if privacy.mechanism == "none" else GaussianRelease(gate.noise_multiplier)


def plan_events(config: RunConfig) -> tuple[PrivacyEvent, ...]:
    """Every release of a whole run at one partner, in order."""
    events: list[PrivacyEvent] = [activity_event(config.privacy)] if config.privacy.activity_quantile else []
    events.append(popularity_event(config.privacy))
    if config.collaboration.released:
        events.append(pairs_event(config.privacy, config.collaboration))
    if config.training.rounds:
        events.append(training_event(config.privacy, config.training, rounds=config.training.rounds))
    if releases := len(config.evaluated_rounds):
        events.append(evaluation_event(config.privacy, config.evaluation, releases=releases))
    if config.gate.metric is not None:
        events.append(compare_event(config.privacy, config.gate))
    return tuple(events)


def adaptive_clipping(privacy: PrivacyConfig, *, expected_users: float) -> PrivacyConfig:
    """The same plan at the same price, with a clip that follows the users' gradient norms.

    The noise of the count is a twentieth of the users of a step, as in Andrew et al. (2021, section 4), so that the
    clip moves steadily; where steps are small it is `LEAST_COUNT_NOISE` noise multipliers, so that the gradients pay
    for the count with 3 % more noise at most.

    Args:
        privacy: a plan with noise.
        expected_users: users of a step at one partner, from public numbers.

    Raises:
        ConfigError: the plan has no noise, or a clip that cannot travel as float32.
    """
    count_noise = max(COUNT_NOISE_SHARE * expected_users, LEAST_COUNT_NOISE * privacy.noise_multiplier)
    changes = {"clipping": "adaptive", "clip_count_noise": count_noise}
    return parse_config(PrivacyConfig, privacy.model_dump() | changes, source="the plan's privacy")


def planned_learning_rate(
    training: TrainingConfig, privacy: PrivacyConfig, *, users: int, partners: int, weights: int
) -> float:
    """The learning rate, lowered where noise would outweigh what a step learns; from public numbers alone.

    A round's sum has at most `sample_rate * users` user gradients of the length of the clip, and noise of
    `sqrt(partners * weights)` times the gradients' noise multiplier in the same unit, because each partner adds its
    own. Measured on two sets: full rate is best where their ratio is above 4, and falls below the untrained model where
    it is 2.

    Args:
        training: gives the full rate.
        privacy: gives the noise.
        users: public number of users of all partners.
        partners: number of partners.
        weights: trained weights.
    """
    multiplier = gradient_noise_multiplier(privacy.noise_multiplier, privacy.clip_count_noise)
    noise = multiplier * math.sqrt(partners * weights)
    signal = training.sample_rate * users
    return training.learning_rate * min(1.0, signal / (ENOUGH_SIGNAL * noise)) if noise else training.learning_rate


def planned_momentum(training: TrainingConfig) -> float:
    """The server's momentum, lowered in a run that is too short for its swings to die; from public numbers alone.

    Momentum b carries the weights beyond their best value and back. Whatever the curvature, such a swing shrinks by
    sqrt(b) a round (Polyak 1964, heavy ball), so after `rounds` rounds b^(rounds / 2) of it is left, here `SETTLED` at
    most. Measured: at momentum 0.9 five rounds left most models without text below their own untrained start, and
    without any noise just as far; 60 rounds keep their 0.9.

    Args:
        training: gives the full momentum and the rounds.
    """
    if not training.rounds:
        return training.server_momentum
    return min(training.server_momentum, math.pow(SETTLED, 2.0 / training.rounds))
