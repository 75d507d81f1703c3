"""Feedback: one outcome per user and item, split by time, and a draw that knows one user only."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.config import HOUR_BUCKETS
from mmrec_model.data.categories import category_codes, category_vocabulary
from mmrec_model.data.dataset import open_partner
from mmrec_model.data.feedback import Feedback, draw_feedback, moments, split_feedback
from mmrec_model.data.interactions import Interactions
from mmrec_model.data.schema import EVENTS
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.splits import split_interactions
from mmrec_model.data.validation import ValidationReport
from mmrec_model.errors import DataError

Write = Callable[..., Path]
HEADER = "user_id,item_id,timestamp,event,rating\n"
ITEM_IDS = tuple(f"i{item}" for item in range(8))


def rows_of(feedback: Feedback, user: int) -> list[tuple[int, float, bool, bool, bool, float | None]]:
    """Item, second, shown, clicked, converted, rating of each row of one user."""
    return [
        (
            int(feedback.items[row]),
            float(feedback.seconds[row]),
            bool(feedback.shown[row]),
            bool(feedback.clicked[row]),
            bool(feedback.converted[row]),
            None if math.isnan(feedback.ratings[row]) else float(feedback.ratings[row]),
        )
        for row in range(feedback.offsets[user], feedback.offsets[user + 1])
    ]


def test_events_of_one_item_become_one_outcome(write: Write) -> None:
    body = (
        "u,a,10,impression,\nu,a,12,click,\nu,a,15,conversion,4\nu,a,20,rating,2\nu,b,11,impression,\nu,c,30,rating,5\n"
    )
    data = open_partner(write(interactions_csv=HEADER + body))
    assert rows_of(data.feedback, 0) == [
        (0, 10.0, True, True, True, 2.0),
        (1, 11.0, True, False, False, None),
        (2, 30.0, False, False, False, 5.0),
    ]
    assert rows_of(data.later, 0) == []


def test_a_click_or_a_conversion_implies_what_comes_before_it(write: Write) -> None:
    body = "u,a,10,conversion,\nu,b,11,click,\nu,c,12,impression,\n"
    rows = rows_of(open_partner(write(interactions_csv=HEADER + body)).feedback, 0)
    assert [row[2:5] for row in rows] == [(True, True, True), (True, True, False), (True, False, False)]


def test_a_user_without_impressions_says_nothing_about_clicks(write: Write) -> None:
    body = "u,a,10,click,\nu,b,11,conversion,\nv,a,10,click,\nv,b,11,impression,\n"
    data = open_partner(write(interactions_csv=HEADER + body))
    assert [row[2] for row in rows_of(data.feedback, 0)] == [False, False]
    assert [row[2] for row in rows_of(data.feedback, 1)] == [True, True]


def test_an_interaction_of_no_named_kind_is_no_outcome(write: Write) -> None:
    data = open_partner(write(interactions_csv=HEADER + "u,a,10,,\nu,b,11,impression,\n"))
    assert [row[0] for row in rows_of(data.feedback, 0)] == [1]


def test_time_parts_train_from_later_and_an_early_impression_of_a_held_out_item_is_in_neither(write: Write) -> None:
    body = (
        "u,a,10,click,\nu,b,9,impression,\nu,b,20,click,\nu,c,30,click,\n"
        "u,d,8,impression,\nu,a,25,conversion,\nu,d,26,click,\n"
    )
    data = open_partner(write(interactions_csv=HEADER + body))
    assert data.train.of(0).tolist() == [0, 1]
    assert (int(data.val[0]), int(data.test[0])) == (3, 2)
    assert [row[0] for row in rows_of(data.feedback, 0)] == [1, 0]
    assert rows_of(data.feedback, 0)[1][4], "a conversion that came late belongs to its own row"
    assert [row[0] for row in rows_of(data.later, 0)] == [2]


EVENT = st.tuples(
    st.integers(0, 3), st.integers(0, 7), st.integers(0, 12), st.integers(-1, len(EVENTS) - 1), st.integers(0, 5)
)


def interactions(events: list[tuple[int, int, int, int, int]]) -> Interactions:
    users, items, seconds, kinds, ratings = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    present, users = np.unique(users, return_inverse=True)
    return Interactions(
        user_ids=tuple(f"u{user}" for user in present),
        users_R=users,
        items_R=items,
        seconds_R=seconds.astype(np.float64),
        positive_R=kinds != 0,
        events_R=kinds,
        ratings_R=np.where(ratings == 0, np.nan, ratings.astype(np.float64)),
        splits_R=None,
        rows_R=np.arange(len(users)),
        file="interactions.csv",
        report=ValidationReport(),
    )


@settings(deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40))
def test_no_held_out_item_and_nothing_later_is_in_the_train_part(events: list[tuple[int, int, int, int, int]]) -> None:
    rows = interactions(events)
    split = split_interactions(rows, ITEM_IDS)
    feedback, later = split_feedback(rows, split, len(ITEM_IDS))
    for user in range(len(rows.user_ids)):
        train = {row[0]: row[1] for row in rows_of(feedback, user)}
        after = {row[0]: row[1] for row in rows_of(later, user)}
        held_out = {int(item) for part in split.held_out for item in part.of(user)}
        assert not held_out & set(train)
        assert not set(train) & set(after)
        assert not set(split.train.of(user).tolist()) & set(after)
        assert max(train.values(), default=-1.0) < min(after.values(), default=math.inf)
        assert held_out or not after, "a user without held-out item is all train"
        mine = [event for event in events if f"u{event[0]}" == rows.user_ids[user]]
        for item, second in {**train, **after}.items():
            assert second == min(event[2] for event in mine if event[1] == item)


@settings(deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=40), st.integers(0, 2**63), st.integers(1, 6))
def test_the_draw_of_a_user_does_not_depend_on_others(
    events: list[tuple[int, int, int, int, int]], seed: int, most: int
) -> None:
    rows = interactions(events)
    feedback, _ = split_feedback(rows, split_interactions(rows, ITEM_IDS), len(ITEM_IDS))
    everyone = np.arange(len(feedback))
    together = draw_feedback(feedback, everyone, max_feedback=most, seed=seed)
    for user in everyone:
        emptied = only(feedback, int(user))
        alone = draw_feedback(emptied, np.array([user]), max_feedback=most, seed=seed)
        for name, column in vars(together).items():
            assert np.array_equal(column[user], getattr(alone, name)[0]), name
        kept = together.items_BF[user][together.mask_BF[user]]
        own = feedback.items[feedback.offsets[user] : feedback.offsets[user + 1]]
        assert len(kept) == min(most, len(own))
        assert [item for item in own if item in set(kept)] == kept.tolist(), "a subset in time order"


def only(feedback: Feedback, user: int) -> Feedback:
    """The same users, of whom all but one have no row."""
    start, stop = feedback.offsets[user], feedback.offsets[user + 1]
    offsets = np.where(np.arange(len(feedback.offsets)) > user, stop - start, 0)
    columns = {name: column[start:stop].copy() for name, column in vars(feedback).items() if name != "offsets"}
    return Feedback(offsets=offsets, **columns)


def test_the_draw_takes_every_row_equally_often() -> None:
    rows = interactions([(0, item, item, 0, 0) for item in range(8)])
    feedback, _ = split_feedback(rows, split_interactions(rows, ITEM_IDS), len(ITEM_IDS))
    found = [draw_feedback(feedback, np.array([0]), max_feedback=3, seed=seed).items_BF for seed in range(2000)]
    share = np.bincount(np.concatenate(found).ravel(), minlength=8) / 2000
    assert np.abs(share - 3 / 8).max() < 5 * (0.375 * 0.625 / 2000) ** 0.5


def test_the_columns_cannot_be_written() -> None:
    rows = interactions([(0, 1, 1, 0, 3)])
    feedback, _ = split_feedback(rows, split_interactions(rows, ITEM_IDS), len(ITEM_IDS))
    for column in vars(feedback).values():
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_columns_that_do_not_fit_the_offsets_are_refused() -> None:
    none = np.zeros(2, dtype=bool)
    with pytest.raises(DataError, match="offsets"):
        Feedback(np.array([0, 1]), np.zeros(2, np.int64), np.zeros(2), none, none, none, np.zeros(2))


@settings(deadline=None)
@given(st.floats(0.0, 4e9))
def test_moments_are_those_of_the_calendar(seconds: float) -> None:
    hour, weekday = moments(np.array([seconds]))
    moment = datetime.fromtimestamp(math.floor(seconds), UTC)
    assert hour[0] == moment.hour * HOUR_BUCKETS // 24
    assert weekday[0] == moment.weekday()


def test_categories_are_numbered_by_the_public_names() -> None:
    column = ("tea", "", "coffee", "tea", "cocoa")
    assert category_vocabulary(column) == ("cocoa", "coffee", "tea")
    assert category_codes(column, ("tea", "coffee")).tolist() == [0, -1, 1, 0, -1]


def test_nothing_from_the_moment_of_a_global_split_on_is_in_the_train_part() -> None:
    rows = interactions([(0, 0, 1, 1, 0), (0, 1, 9, 0, 0), (1, 2, 1, 1, 0), (1, 3, 9, 1, 0)])
    split = split_interactions(rows, ITEM_IDS, SplitRule.parse("global-time:5,20"))
    feedback, _ = split_feedback(rows, split, len(ITEM_IDS))
    assert feedback.seconds.max() < 5
