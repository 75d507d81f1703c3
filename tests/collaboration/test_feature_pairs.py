"""A user's whole data is one matrix of length one in a public feature space, whatever the items and their features."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from mmrec_model.collaboration.feature_map import features_of, make_map
from mmrec_model.collaboration.feature_pairs import feature_triangle, isometric, sum_feature_pairs, symmetric
from mmrec_model.collaboration.pairs import BOUND, triangle_size
from mmrec_model.errors import ModelError

N_ITEMS, WIDTH, DIMS = 9, 5, 3
REPEATING = st.lists(st.integers(0, N_ITEMS - 1), max_size=12)
LAST = st.integers(2, 14)
ODD = st.floats(width=32, allow_nan=True, allow_infinity=True)
VECTORS = st_np.arrays(np.float32, (N_ITEMS, WIDTH), elements=ODD)
MAPS = st_np.arrays(np.float32, (WIDTH, DIMS), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def public(seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(N_ITEMS, DIMS))
    rows[4] = 0.0
    return rows


def rows_of(histories: list[list[int]]) -> list[np.ndarray]:
    return [np.array(history, dtype=np.int64) for history in histories]


@settings(deadline=None)
@given(VECTORS, MAPS, REPEATING, LAST)
def test_no_user_is_longer_than_the_bound_whatever_features_and_map_are(
    vectors: np.ndarray, map_: np.ndarray, history: list[int], last: int
) -> None:
    """Repeated items, empty histories, items without features, values that are not finite or overflow."""
    found = feature_triangle(np.array(history, dtype=np.int64), features_of({"text": vectors}, map_), last=last)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= BOUND + 1e-9


@settings(deadline=None)
@given(st.lists(REPEATING, max_size=4), REPEATING, LAST)
def test_a_user_more_moves_the_sum_by_no_more_than_the_bound(
    others: list[list[int]], history: list[int], last: int
) -> None:
    with_, without = (sum_feature_pairs(rows_of(one), public(), last=last) for one in ([*others, history], others))
    assert np.linalg.norm(with_ - without) <= BOUND + 1e-9


def test_the_bound_is_reached_by_two_items_and_one_item_says_nothing() -> None:
    assert np.linalg.norm(sum_feature_pairs(rows_of([[1, 2]]), public(), last=5)) == pytest.approx(BOUND)
    for silent in ([], [3], [3, 4], [4, 4]):
        assert not sum_feature_pairs(rows_of([silent]), public(), last=5).any()


@settings(deadline=None)
@given(REPEATING, LAST)
def test_the_matrix_is_the_formula_pair_by_pair(history: list[int], last: int) -> None:
    features, expected = public(), np.zeros((DIMS, DIMS))
    kept = [item for item in history if item != 4][-last:]
    for late, one in enumerate(kept):
        for early, other in enumerate(kept):
            if early != late:
                expected += (1 + abs(late - early)) ** -0.5 * np.outer(features[one], features[other])
    length = np.linalg.norm(expected)
    found = symmetric(sum_feature_pairs(rows_of([history]), features, last=last), DIMS)
    np.testing.assert_allclose(found, expected / length if length > 1e-9 else 0.0 * expected, atol=1e-9)


def test_items_without_features_take_no_place_in_time() -> None:
    one, two = (sum_feature_pairs(rows_of([history]), public(), last=3) for history in ([0, 4, 1, 4, 2], [0, 1, 2]))
    np.testing.assert_array_equal(one, two)


def test_a_triangle_is_as_long_as_its_matrix_and_comes_back() -> None:
    matrix = np.random.default_rng(1).normal(size=(4, 4))
    matrix += matrix.T
    triangle = isometric(matrix)
    assert triangle.shape == (triangle_size(4),)
    assert np.linalg.norm(triangle) == pytest.approx(np.linalg.norm(matrix))
    np.testing.assert_allclose(symmetric(triangle, 4), matrix)
    with pytest.raises(ModelError):
        symmetric(triangle, 5)


def test_the_map_whitens_the_catalogue_and_leaves_out_directions_it_does_not_have() -> None:
    rng = np.random.default_rng(2)
    text = rng.normal(size=(200, 4)) * [3.0, 1.0, 0.5, 0.1]
    vectors = {"text": text, "image": np.zeros((200, 2))}
    found = features_of(vectors, make_map(vectors, 4))
    np.testing.assert_allclose(found.T @ found / 200, np.eye(4), atol=1e-4)
    assert not make_map(vectors, 6)[:, 4:].any()
    assert not make_map(vectors, 6)[4:].any()
