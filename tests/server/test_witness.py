"""The witness check believes honest noise for a thousand rounds, and finds what is wrong with noise that is not."""

from __future__ import annotations

import numpy as np
import pytest

from mmrec_model.config import FeatureSpec, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.errors import AdmissionError
from mmrec_model.privacy.witness import expected_deviation
from mmrec_model.protocol import WITNESS, Arrays, Kind, Reply
from server.witness import WitnessWatch

USERS = {"be": 500, "fr": 3000, "nl": 41}
K = 1024


def plan(*, coordinates: int = K, private: bool = True) -> RunConfig:
    noise = 1.3 if private else 0.0
    return RunConfig(
        run_id="witness",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=3, dims={"text": 4}),
        training=TrainingConfig(local_steps=3, learning_rate=0.7, witness_coordinates=coordinates),
        privacy=PrivacyConfig(
            mechanism="gaussian" if private else "none",
            epsilon=8.0 if private else None,
            noise_multiplier=noise,
            popularity_noise_multiplier=noise,
            max_grad_norm=0.4,
        ),
    )


CONFIG = plan()


def block(draw: np.random.Generator, name: str, factor: float = 1.0) -> np.ndarray:
    """Honest noise of a round, from the definition: three steps of noise, divided, at the learning rate."""
    steps = 1.3 * 0.4 * draw.normal(size=(3, K))
    return (factor * -0.7 * steps.sum(axis=0) / (0.2 * USERS[name])).astype(np.float32)


def admit(watch: WitnessWatch, name: str, round_number: int, values: np.ndarray) -> None:
    arrays: Arrays = {WITNESS: values}
    watch.admit(Reply(name, "witness", round_number, Kind.TRAIN.value), arrays, clip=0.4)


def refusal(watch: WitnessWatch, name: str, round_number: int, values: np.ndarray) -> str:
    with pytest.raises(AdmissionError) as error:
        admit(watch, name, round_number, values)
    assert error.value.reason == "witness"
    return error.value.problem


def warm(rounds: int, seed: int = 0) -> tuple[WitnessWatch, np.random.Generator]:
    watch, draw = WitnessWatch(CONFIG, USERS), np.random.default_rng(seed)
    for number in range(1, rounds + 1):
        for name in USERS:
            admit(watch, name, number, block(draw, name))
    return watch, draw


def test_a_thousand_honest_rounds_of_three_partners_raise_no_alarm() -> None:
    watch, _ = warm(1000)
    assert set(watch.ratios) == set(USERS)
    assert all(abs(ratio - 1.0) < 0.005 for ratio in watch.ratios.values())


@pytest.mark.parametrize("factor", [0.95, 1.05])
@pytest.mark.parametrize("seed", range(10))
def test_five_percent_of_the_deviation_are_found_within_twenty_rounds(factor: float, seed: int) -> None:
    watch, draw = WitnessWatch(CONFIG, USERS), np.random.default_rng(seed)

    def twenty_rounds() -> None:
        for number in range(1, 21):
            admit(watch, "fr", number, block(draw, "fr", factor))

    with pytest.raises(AdmissionError, match="times the planned deviation"):
        twenty_rounds()


@pytest.mark.parametrize("factor", [0.0, 0.5, 1 / 600, 2.0, 3**-0.5])
@pytest.mark.parametrize("rounds", [0, 30])
def test_noise_that_is_off_halved_divided_or_drawn_in_one_step_of_three_is_found_at_once(
    factor: float, rounds: int
) -> None:
    watch, draw = warm(rounds)
    assert "planned deviation" in refusal(watch, "fr", rounds + 1, block(draw, "fr", factor))


@pytest.mark.parametrize("age", [1, 2, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_noise_that_repeats_is_found_at_once_however_old_it_is(age: int, sign: int) -> None:
    watch, draw = warm(3)
    old = block(draw, "fr")
    admit(watch, "fr", 4, old)
    for number in range(5, 4 + age):
        admit(watch, "fr", number, block(draw, "fr"))
    assert f"its own of {age} updates" in refusal(watch, "fr", 4 + age, (sign * old).astype(np.float32))


def test_noise_of_another_partner_is_found_at_once_whatever_the_scale() -> None:
    watch, draw = warm(2)
    shared = block(draw, "fr")
    admit(watch, "fr", 3, shared)
    scaled = shared * np.float32(
        expected_deviation(CONFIG, users=500, clip=0.4) / expected_deviation(CONFIG, users=3000, clip=0.4)
    )
    assert "that of 'fr'" in refusal(watch, "be", 3, scaled)
    assert set(watch.ratios) == {"fr"}


def test_a_partner_that_repairs_its_noise_is_heard_again() -> None:
    watch, draw = warm(5)
    refusal(watch, "fr", 6, block(draw, "fr", 0.0))
    admit(watch, "fr", 7, block(draw, "fr"))
    assert set(watch.ratios) == {"fr"}


@pytest.mark.parametrize("config", [plan(coordinates=0), plan(private=False)])
def test_a_run_without_witness_is_not_judged(config: RunConfig) -> None:
    watch = WitnessWatch(config, USERS)
    watch.admit(Reply("fr", "witness", 1, Kind.TRAIN.value), {}, clip=0.4)
    assert watch.ratios == {}
