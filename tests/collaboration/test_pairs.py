"""A user's whole data is one triangle of length one: whatever the history, whoever else is there."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.collaboration.pairs import BOUND, nearness, sum_pairs, triangle_size, unpack
from mmrec_model.errors import ModelError

N_ITEMS = 9
HISTORIES = st.lists(st.integers(0, N_ITEMS - 1), max_size=12, unique=True)
REPEATING = st.lists(st.integers(0, N_ITEMS - 1), max_size=12)
SELECTIONS = st.sets(st.integers(0, N_ITEMS - 1), min_size=1)
LAST = st.integers(2, 14)


def places(selected: set[int]) -> np.ndarray:
    place_N = np.full(N_ITEMS, -1, dtype=np.int64)
    place_N[sorted(selected)] = np.arange(len(selected))
    return place_N


def released(histories: list[list[int]], selected: set[int], last: int) -> np.ndarray:
    rows = [np.array(history, dtype=np.int64) for history in histories]
    return sum_pairs(rows, places(selected), items=len(selected), last=last)


def by_dictionary(history: list[int], selected: list[int], last: int) -> dict[tuple[int, int], float]:
    """The module's formula, pair by pair."""
    kept = [selected.index(item) for item in history if item in selected][-last:]
    found: dict[tuple[int, int], float] = defaultdict(float)
    for late, one in enumerate(kept):
        for early, other in enumerate(kept[: late + 1]):
            found[min(one, other), max(one, other)] += (1 + late - early) ** -0.5
    length = sum(value**2 for value in found.values()) ** 0.5
    return {pair: value / length for pair, value in found.items()}


@settings(deadline=None)
@given(REPEATING, SELECTIONS, LAST)
def test_every_users_triangle_has_length_one_or_zero_where_no_item_is_selected(
    history: list[int], selected: set[int], last: int
) -> None:
    length = float(np.linalg.norm(released([history], selected, last)))
    assert length == pytest.approx(BOUND if set(history) & selected else 0.0, abs=1e-12)


@settings(deadline=None)
@given(st.lists(REPEATING, max_size=5), REPEATING, SELECTIONS, LAST)
def test_a_user_more_moves_the_sum_by_no_more_than_the_bound(
    others: list[list[int]], history: list[int], selected: set[int], last: int
) -> None:
    moved = released([*others, history], selected, last) - released(others, selected, last)
    assert np.linalg.norm(moved) <= BOUND + 1e-9


@settings(deadline=None)
@given(st.lists(HISTORIES, max_size=6), st.integers(0, 6), SELECTIONS, LAST)
def test_the_sum_over_partners_is_the_sum_over_all_their_users(
    histories: list[list[int]], cut: int, selected: set[int], last: int
) -> None:
    parts = released(histories[:cut], selected, last) + released(histories[cut:], selected, last)
    np.testing.assert_allclose(parts, released(histories, selected, last), atol=1e-12)


@settings(deadline=None)
@given(st.lists(REPEATING, max_size=4), SELECTIONS, LAST)
def test_the_sum_is_that_of_a_slow_dictionary(histories: list[list[int]], selected: set[int], last: int) -> None:
    chosen, expected = sorted(selected), np.zeros((len(selected), len(selected)))
    for history in histories:
        for (row, column), value in by_dictionary(history, chosen, last).items():
            expected[row, column] += value
    found = unpack(released(histories, selected, last), len(selected))
    np.testing.assert_allclose(np.triu(found), expected, atol=1e-12)
    np.testing.assert_array_equal(found, found.T)


def test_items_close_in_time_count_more_and_only_the_last_ones_count() -> None:
    found = unpack(released([[0, 1, 2]], {0, 1, 2}, 3), 3)
    assert found[0, 0] == found[1, 1] > found[0, 1] == found[1, 2] > found[0, 2] > 0.0
    np.testing.assert_array_equal(released([[3, 4, 0, 1]], {0, 1, 3, 4}, 2), released([[0, 1]], {0, 1, 3, 4}, 2))


def test_items_that_are_not_selected_take_no_place_in_time() -> None:
    np.testing.assert_array_equal(released([[0, 8, 7, 1]], {0, 1}, 2), released([[0, 1]], {0, 1}, 2))


@given(st.integers(1, 12))
def test_a_triangle_is_the_upper_half_of_its_matrix_row_by_row(items: int) -> None:
    triangle = np.arange(triangle_size(items), dtype=np.float64)
    matrix = unpack(triangle, items)
    np.testing.assert_array_equal(matrix[np.triu_indices(items)], triangle)
    np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("numbers", [0, 5, 7])
def test_a_triangle_of_another_size_is_refused(numbers: int) -> None:
    with pytest.raises(ModelError, match="pairs of 3 items"):
        unpack(np.zeros(numbers), 3)


def test_weights_fall_with_the_square_root_of_the_distance() -> None:
    np.testing.assert_allclose(nearness(np.array([0.0, 3.0, 8.0])), [1.0, 0.5, 1 / 3])
