"""p-values, their adjustment, and errors over seeds: exact where it can be counted, calibrated where it is drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Ranks
from mmrec_model.evaluation.significance import bootstrap_p, compare, holm, over_seeds, sign_flip_p


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
@settings(max_examples=50, deadline=None)
def test_few_users_are_counted_over_all_signs(values: list[int]) -> None:
    observed = abs(sum(values))
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    expected = sum(abs(total) >= observed for total in sums) / len(sums)
    assert sign_flip_p(np.array(values, dtype=float), seed=0) == pytest.approx(expected, abs=1e-12)


def test_many_users_are_drawn_and_agree_with_the_normal_limit() -> None:
    difference = np.random.default_rng(1).normal(0.05, 1.0, size=900)
    score = difference.mean() / (np.sqrt((difference**2).mean()) / 30)
    normal = math.erfc(abs(score) / math.sqrt(2))
    assert sign_flip_p(difference, seed=2) == pytest.approx(normal, abs=0.02)
    assert bootstrap_p(difference, seed=2) == pytest.approx(normal, abs=0.03)
    assert sign_flip_p(difference + 1.0, seed=2) == 1 / 10_001
    assert bootstrap_p(difference - 1.0, seed=2) == 2 / 10_001


def test_under_no_difference_small_p_values_are_as_rare_as_they_say() -> None:
    rng = np.random.default_rng(3)
    for test in (sign_flip_p, bootstrap_p):
        p = np.array([test(rng.normal(size=40), seed=seed, draws=300) for seed in range(400)])
        assert abs((p <= 0.1).mean() - 0.1) < 4 * math.sqrt(0.1 * 0.9 / 400)


def test_no_difference_at_all_has_p_one_and_nobody_is_refused() -> None:
    assert sign_flip_p(np.zeros(30), seed=0) == bootstrap_p(np.zeros(30), seed=0) == 1.0
    for test in (sign_flip_p, bootstrap_p):
        for bad in (np.zeros(0), np.array([np.nan])):
            with pytest.raises(DataError, match="differences"):
                test(bad, seed=0)


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), max_size=8))
def test_holm_equals_the_step_down_procedure_at_every_level(p: dict[str, float]) -> None:
    adjusted = holm(p)
    assert list(adjusted) == list(p)
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected: set[str] = set()
        for place, name in enumerate(sorted(p, key=p.__getitem__)):
            if p[name] * (len(p) - place) > level:
                break
            rejected.add(name)
        assert {name for name, value in adjusted.items() if value <= level} == rejected


def test_a_comparison_holds_interval_and_adjusted_p_for_every_other_system() -> None:
    rng = np.random.default_rng(0)
    place, size = rng.integers(0, 50, size=400), np.full(400, 60)
    found = compare(
        Ranks(place, size), {"worse": Ranks(place + 8, size), "same": Ranks(place, size)}, "mrr", seed=1, draws=500
    )
    assert found["worse"].low > 0
    assert found["worse"].p == pytest.approx(1 / 501)
    assert found["worse"].p_holm == pytest.approx(2 / 501)
    assert (found["same"].mean, found["same"].p, found["same"].p_holm) == (0.0, 1.0, 1.0)


def test_one_seed_gives_the_error_over_users_and_repeating_it_adds_no_certainty() -> None:
    values = np.random.default_rng(4).random(50)
    once, thrice = over_seeds([values]), over_seeds([values] * 3)
    assert once.error == pytest.approx(values.std(ddof=1) / math.sqrt(50), abs=1e-6)
    assert once.seed_error == 0.0
    assert thrice.error == pytest.approx(once.error, rel=1e-9)
    assert (thrice.seeds, thrice.users) == (3, 50)


def test_the_error_over_seeds_is_the_spread_of_the_mean_when_all_is_drawn_again() -> None:
    rng = np.random.default_rng(5)
    means, errors = [], []
    for _ in range(300):
        seeds, users = rng.normal(0, 0.5, size=8), rng.normal(0, 1.0, size=30)
        runs = [seed + users + rng.normal(0, 0.7, size=30) for seed in seeds]
        found = over_seeds(runs)
        means.append(found.mean)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.12)
    naive = [1.0 / math.sqrt(8 * 30)]
    assert np.mean(errors) > 2 * naive[0]


def test_users_that_differ_between_seeds_are_clustered_by_name_and_unnamed_ones_refused() -> None:
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    found = over_seeds([a, b], [np.array([5, 6, 7]), np.array([6, 9])])
    assert (found.mean, found.users) == (pytest.approx(2.4), 4)
    with pytest.raises(DataError, match="users each"):
        over_seeds([a, b])
    with pytest.raises(DataError, match="user in every seed"):
        over_seeds([a, np.zeros(0)])
