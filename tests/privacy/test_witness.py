"""The numbers by which witness blocks are judged: those of the design, and right by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmrec_model.privacy.witness import Spread, correlation_bound, correlations, direction, ratio_bounds


@pytest.mark.parametrize(("rounds", "low", "high"), [(1, 0.894, 1.110), (20, 0.976, 1.024), (200, 0.992, 1.008)])
def test_the_bounds_of_the_deviation_are_those_of_the_design(rounds: int, low: float, high: float) -> None:
    assert ratio_bounds(1024 * rounds) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize(("rounds", "limit"), [(20, 0.183), (200, 0.205)])
def test_the_bound_over_all_pairs_of_rounds_is_that_of_the_design(rounds: int, limit: float) -> None:
    assert correlation_bound(1024, pairs=rounds * (rounds - 1) // 2) == pytest.approx(limit, abs=2.5e-3)


@pytest.mark.parametrize("count", [2, 3, 16, 1024])
def test_the_bound_of_one_correlation_is_exact_for_every_size(count: int) -> None:
    """The squared cosine of two independent directions in n dimensions has the distribution Beta(1/2, (n - 1)/2)."""
    bound = correlation_bound(count)
    assert stats.beta.sf(bound**2, 0.5, (count - 1) / 2) == pytest.approx(1e-6, rel=1e-3)


def test_blocks_of_one_number_have_no_correlation_to_judge() -> None:
    assert correlation_bound(1) == 1.0


@given(st.floats(0.1, 10.0), st.integers(1, 5))
def test_the_ratio_over_blocks_is_that_over_all_their_numbers(scale: float, blocks: int) -> None:
    values = np.random.default_rng(blocks).normal(size=(blocks, 64)).astype(np.float32)
    spread = Spread()
    for block in values:
        spread = spread.plus(block, scale)
    assert spread.count == values.size
    assert spread.ratio == pytest.approx(float(np.sqrt(np.mean(np.square(values / scale, dtype=np.float64)))))


def test_a_correlation_is_that_of_the_directions_alone() -> None:
    one = np.random.default_rng(0).normal(size=32).astype(np.float32)
    others = np.stack([direction(block) for block in (one, -3e-30 * one, np.zeros(32, np.float32))])
    assert correlations(direction(one), others) == pytest.approx([1.0, -1.0, 0.0])
    assert correlations(direction(np.zeros(32, np.float32)), others) == pytest.approx([0.0, 0.0, 0.0])
