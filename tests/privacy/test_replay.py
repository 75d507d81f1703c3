"""The second implementation agrees with the first, and with the closed form, without sharing code with either."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import GaussianRelease, NonPrivate, PrivacyEvent, Relation, SampledGaussian
from mmrec_model.privacy.gaussian_dp import gaussian_epsilon
from mmrec_model.privacy.replay import replay_epsilon

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
    (1, 4, 20, 1e-5, 4.98331, 11.48002),
]


@pytest.mark.parametrize("row", REFERENCE, ids=str)
def test_reference_values_are_met(row: tuple[float, float, int, float, float, float]) -> None:
    rate, noise, steps, delta, zero_out, replace_one = row
    events = (SampledGaussian(rate, noise, steps),)
    assert replay_epsilon(events, delta) == pytest.approx(zero_out, abs=1e-4)
    assert replay_epsilon(events, delta, "replace_one") == pytest.approx(replace_one, abs=1e-4)


def drawn_ledger(rounds: int, seed: int) -> list[PrivacyEvent]:
    """Rate and noise differ in every round, as do the releases in between."""
    random = np.random.default_rng(seed)
    ledger: list[PrivacyEvent] = []
    for _ in range(rounds):
        ledger.append(SampledGaussian(float(random.uniform(0.01, 0.2)), float(random.uniform(0.9, 2.5)), 5))
        if random.random() < 0.3:
            ledger.append(GaussianRelease(float(random.uniform(4.0, 20.0)), int(random.integers(1, 4))))
    return ledger


@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize("delta", [1e-4, 1e-6])
def test_both_accountants_agree_on_a_ledger_of_changing_rounds(relation: Relation, delta: float) -> None:
    ledger = drawn_ledger(6, seed=3)
    assert replay_epsilon(ledger, delta, relation) == pytest.approx(
        epsilon(ledger, delta, relation, grid=5e-4), abs=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
def test_both_accountants_agree_on_fifty_changing_rounds(relation: Relation) -> None:
    ledger = drawn_ledger(50, seed=7)
    assert replay_epsilon(ledger, 1e-6, relation) == pytest.approx(epsilon(ledger, 1e-6, relation), abs=1e-3)


@settings(max_examples=12, deadline=None)
@given(
    st.floats(min_value=0.005, max_value=0.5),
    st.floats(min_value=0.6, max_value=5.0),
    st.integers(min_value=1, max_value=300),
    st.sampled_from([1e-4, 1e-6, 1e-8]),
    st.sampled_from(["zero_out", "replace_one"]),
)
def test_both_accountants_agree_on_any_plan(
    rate: float, noise: float, steps: int, delta: float, relation: Relation
) -> None:
    events = (SampledGaussian(rate, noise, steps),)
    bound = epsilon(events, delta, relation, grid=1e-3)
    assert replay_epsilon(events, delta, relation, grid=1e-3) == pytest.approx(bound, rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("mu", [0.05, 1.0, 6.0, 12.0])
def test_releases_without_sampling_follow_the_closed_form(mu: float) -> None:
    events = [GaussianRelease(4.0 / mu, 16)]
    assert replay_epsilon(events, 1e-6, grid=1e-3) == pytest.approx(gaussian_epsilon(mu, 1e-6), abs=1e-5)
    assert replay_epsilon(events, 1e-6, "replace_one", grid=1e-3) == pytest.approx(
        gaussian_epsilon(2 * mu, 1e-6), abs=1e-5
    )


def test_a_wrong_noise_is_noticed() -> None:
    claimed = epsilon([SampledGaussian(0.1, 1.0, 50)], 1e-5, grid=1e-3)
    assert replay_epsilon([SampledGaussian(0.1, 0.99, 50)], 1e-5) > claimed + 0.01


def test_nothing_costs_nothing_and_a_bare_or_hopeless_release_costs_everything() -> None:
    assert replay_epsilon([], 1e-5) == 0.0
    assert replay_epsilon([GaussianRelease(1e6)], 1e-3) == 0.0
    assert replay_epsilon([GaussianRelease(1.0), NonPrivate()], 1e-5) == math.inf
    assert replay_epsilon([GaussianRelease(1e-6)], 1e-5) == math.inf


def test_invalid_arguments_are_refused() -> None:
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(PrivacyError, match="delta is"):
            replay_epsilon([], delta)
    with pytest.raises(PrivacyError, match="relation is"):
        replay_epsilon([], 1e-5, "add_remove")  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="grid is"):
        replay_epsilon([], 1e-5, grid=0.0)
    with pytest.raises(PrivacyError, match="not a known privacy event"):
        replay_epsilon(["gaussian"], 1e-5)  # type: ignore[list-item]


def test_the_two_implementations_share_only_the_events(repository: Path) -> None:
    tree = ast.parse((repository / "mmrec_model/privacy/replay.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = {name for name in imported if name and name.startswith("mmrec_model")}
    assert own == {"mmrec_model.errors", "mmrec_model.privacy.events"}
    assert not any(name and name.startswith(("dp_accounting", "opacus")) for name in imported)
