"""Spread over partners, gain of joining, and what a partner brings the others, against sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import DataError
from mmrec_model.evaluation.partner_quality import contributions, gains, partner_means, spread
from mmrec_model.evaluation.ranking import Ranks, per_user

values_of = st.lists(st.integers(0, 100).map(lambda value: value / 100), min_size=1, max_size=30)


@given(values_of)
def test_the_spread_equals_its_slow_form(values: list[float]) -> None:
    found = spread(np.array([*values, np.nan]))
    n, total = len(values), sum(values)
    assert found.mean == pytest.approx(total / n, abs=1e-6)
    assert found.worst == min(values)
    worst = sorted(values)[: math.ceil(n / 10)]
    assert found.bottom == pytest.approx(sum(worst) / len(worst), abs=1e-6)
    pairs = sum(abs(a - b) for a in values for b in values)
    assert found.gini == pytest.approx(pairs / (2 * n * total) if total else 0.0, abs=1e-6)


def ranked(seed: int, users: int = 40) -> Ranks:
    return Ranks(np.random.default_rng(seed).integers(0, 20, size=users), np.full(users, 20))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_gains_and_contributions_are_means_over_the_right_users(seed: int) -> None:
    partner = np.random.default_rng(seed).integers(0, 3, size=40)
    partner[:3] = [0, 1, 2]
    here, other = ranked(seed), ranked(seed + 1)
    difference = per_user(here, "mrr") - per_user(other, "mrr")
    for number, gain in gains(here, other, partner, "mrr").items():
        mine = [float(value) for value, owner in zip(difference, partner, strict=True) if owner == number]
        assert gain.users == len(mine)
        assert gain.mean == pytest.approx(sum(mine) / len(mine), abs=1e-6)
        if len(mine) > 1:
            variance = sum((value - gain.mean) ** 2 for value in mine) / (len(mine) - 1)
            assert gain.error == pytest.approx(math.sqrt(variance / len(mine)), abs=1e-6)
    given_others = contributions(here, {1: other}, partner, "mrr")[1]
    rest = [float(value) for value, owner in zip(difference, partner, strict=True) if owner != 1]
    assert given_others.mean == pytest.approx(sum(rest) / len(rest), abs=1e-6)


def test_partners_without_users_have_no_mean_and_foreign_panels_are_refused() -> None:
    assert np.isnan(partner_means(np.array([1.0]), np.array([1]), 3)[[0, 2]]).all()
    with pytest.raises(DataError, match="no partner"):
        spread(np.array([np.nan]))
    with pytest.raises(DataError, match="cannot be paired"):
        gains(ranked(0), ranked(1, users=39), np.zeros(40, dtype=np.int64), "mrr")
    with pytest.raises(DataError, match="no users to compare"):
        contributions(ranked(0), {0: ranked(1)}, np.zeros(40, dtype=np.int64), "mrr")
