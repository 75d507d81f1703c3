"""Laws of the exact Shapley value: efficiency, nobody, symmetry, and a game that is known by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import DataError
from simulations.scenarios.shapley import shapley

PLAYERS = ("a", "b", "c", "d")
SUBSETS = [frozenset(chosen) for size in range(5) for chosen in combinations(PLAYERS, size)]
numbers = st.floats(-10, 10)


@settings(max_examples=30, deadline=None)
@given(st.lists(numbers, min_size=16, max_size=16))
def test_shares_add_up_to_everything_minus_nothing(values: list[float]) -> None:
    game = {subset: np.array([value, 2 * value]) for subset, value in zip(SUBSETS, values, strict=True)}
    total = sum(shapley(game, PLAYERS).values())
    np.testing.assert_allclose(total, game[frozenset(PLAYERS)] - game[frozenset()], atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(numbers, min_size=8, max_size=8))
def test_who_changes_nothing_gets_nothing(values: list[float]) -> None:
    without = [subset for subset in SUBSETS if "d" not in subset]
    small = dict(zip(without, values, strict=True))
    game = {subset: np.array([small[subset - {"d"}]]) for subset in SUBSETS}
    assert shapley(game, PLAYERS)["d"] == pytest.approx(0.0, abs=1e-9)


def test_the_glove_game_is_split_as_in_the_book() -> None:
    game = {s: np.array([float("a" in s and ("b" in s or "c" in s))]) for s in SUBSETS if "d" not in s}
    shares = shapley(game, ("a", "b", "c"))
    assert [float(shares[p][0]) for p in "abc"] == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_a_missing_subset_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 16"):
        shapley({subset: np.zeros(1) for subset in SUBSETS[1:]}, PLAYERS)
