"""Places for new items: one in so many, best content first, everything else in the model's order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.errors import ModelError
from mmrec_model.model.new_items import reserve_places


def scored(users: int, items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(rng.permuted(np.tile(np.arange(items), (users, 1)), axis=1).astype(np.float32) for _ in range(2))


def lists(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")


@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 40), st.integers(0, 99))
def test_every_nth_place_is_the_best_new_item_and_the_rest_keeps_its_order(every, known, fresh, seed):
    scores, content = scored(3, known + fresh, seed)
    new = np.arange(known + fresh) >= known
    found = lists(reserve_places(scores, content, [np.zeros(0, np.int64)] * 3, new, every=every))
    for user in range(3):
        assert sorted(found[user]) == list(range(known + fresh)), "every item has one place"
        mine = [item for item in found[user] if new[item]]
        others = [item for item in found[user] if not new[item]]
        assert mine == sorted(mine, key=lambda item: -content[user, item])
        assert others == sorted(others, key=lambda item: -scores[user, item])
        for number, item in enumerate(mine):
            assert list(found[user]).index(item) == min(every * (number + 1) - 1, known + number)


def test_without_new_items_the_order_is_the_models():
    scores, content = scored(4, 30, 1)
    placed = reserve_places(scores, content, [np.zeros(0, np.int64)] * 4, np.zeros(30, bool))
    assert (lists(placed) == lists(scores)).all()


def test_items_of_the_history_take_no_place_of_others():
    scores, content = scored(1, 24, 2)
    new = np.arange(24) >= 20
    history = lists(scores)[0][~new[lists(scores)[0]]][:6]
    placed = lists(reserve_places(scores, content, [history], new, every=5))[0]
    assert set(placed[[4, 9, 14]]) == set(np.flatnonzero(new)[np.argsort(-content[0, new])][:3])
    assert not set(placed[:4]) & set(history)


def test_equal_scores_are_ordered_by_a_draw_of_the_history_and_never_by_the_item():
    flat, new = np.zeros((2, 40), np.float32), np.arange(40) >= 30
    one, other = np.array([1]), np.array([2])
    placed = lists(reserve_places(flat, flat, [one, other], new, every=4))
    assert list(placed[0]) != list(placed[1]), "the draw belongs to the user"
    again = lists(reserve_places(flat[:1], flat[:1], [one], new, every=4))
    assert list(again[0]) == list(placed[0]), "whoever else is asked for"
    for row in placed:
        assert new[row[3]]
        assert new[row[7]]
        assert not new[row[:3]].any()
    first = [lists(reserve_places(flat[:1], flat[:1], [np.array([item])], new))[0, 0] for item in range(20)]
    assert len(set(first)) > 5


@pytest.mark.parametrize(("every", "items"), [(1, 4), (0, 4), (3, 5)])
def test_a_place_in_less_than_two_or_another_catalogue_is_refused(every, items):
    with pytest.raises(ModelError):
        reserve_places(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), [np.zeros(0, np.int64)],
                       np.zeros(items, bool), every=every)  # fmt: skip
