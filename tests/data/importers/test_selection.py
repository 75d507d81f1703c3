"""Laws of choosing rows: nothing is lost uncounted, and neither order nor chance decides."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.data.importers.intake import Rows
from mmrec_model.data.importers.selection import Selection, k_core, select
from mmrec_model.errors import UsageError

Raw = list[tuple[int, int, int, int]]
ROWS = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 6), st.integers(0, 9), st.sampled_from([-1, 1, 3, 5])), min_size=1
)
WANTED = st.builds(
    Selection,
    since=st.none() | st.integers(0, 9).map(float),
    min_rating=st.none() | st.sampled_from([2.0, 4.0]),
    below=st.sampled_from(["drop", "impression"]),
    k_core=st.integers(0, 4),
    max_users=st.none() | st.integers(1, 5),
    seed=st.integers(0, 3),
)


def rows_of(raw: Raw) -> Rows:
    """Rows of (user, item, second, rating), -1 for no rating."""
    users, items, seconds, ratings = (np.array(column) for column in zip(*raw, strict=True))
    return Rows(
        user_ids=pa.array([f"u{user}" for user in range(8)]),
        item_ids=pa.array([f"i{item}" for item in range(7)]),
        labels=pa.array([], pa.large_string()),
        users_R=users.astype(np.int32),
        items_R=items.astype(np.int32),
        seconds_R=seconds.astype(np.float64),
        ratings_R=np.where(ratings < 0, -np.inf, ratings),
        events_R=None,
        labels_R=None,
    )


def content(rows: Rows) -> list[tuple[object, ...]]:
    events = [-1] * len(rows) if rows.events_R is None else rows.events_R.tolist()
    columns = (rows.users_R.tolist(), rows.items_R.tolist(), rows.seconds_R.tolist(), events)
    return sorted(zip(*columns, strict=True))


@settings(max_examples=40, deadline=None)
@given(raw=ROWS, wanted=WANTED)
def test_rows_in_are_rows_kept_and_rows_lost(raw: Raw, wanted: Selection) -> None:
    kept, lost = select(rows_of(raw), wanted)
    assert len(raw) == len(kept) + sum(lost.values())
    assert all(count > 0 for count in lost.values())


@settings(max_examples=40, deadline=None)
@given(raw=ROWS, wanted=WANTED, shuffled=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(raw: Raw, wanted: Selection, shuffled) -> None:
    other = list(raw)
    shuffled.shuffle(other)
    assert content(select(rows_of(raw), wanted)[0]) == content(select(rows_of(other), wanted)[0])


@settings(max_examples=40, deadline=None)
@given(raw=ROWS, k=st.integers(1, 4))
def test_the_k_core_is_the_largest_set_that_satisfies_itself(raw: Raw, k: int) -> None:
    rows = rows_of(raw)
    kept = k_core(rows.users_R, rows.items_R, k)
    pairs = {(user, item) for user, item, *_ in raw}
    while True:  # the definition, one row at a time
        users = [user for user, _ in pairs]
        items = [item for _, item in pairs]
        bad = {pair for pair in pairs if users.count(pair[0]) < k or items.count(pair[1]) < k}
        if not bad:
            break
        pairs.remove(min(bad))
    assert {(user, item) for (user, item, *_), stays in zip(raw, kept, strict=True) if stays} == pairs


@settings(max_examples=40, deadline=None)
@given(raw=ROWS, most=st.integers(1, 8), seed=st.integers(0, 9))
def test_a_draw_is_at_most_so_many_and_a_larger_one_holds_it(raw: Raw, most: int, seed: int) -> None:
    small, _ = select(rows_of(raw), Selection(max_users=most, seed=seed))
    large, _ = select(rows_of(raw), Selection(max_users=most + 1, seed=seed))
    few, more = set(small.users_R.tolist()), set(large.users_R.tolist())
    assert len(few) == min(most, len({user for user, *_ in raw}))
    assert few <= more


def test_another_seed_draws_other_users() -> None:
    rows = rows_of([(user, 0, 0, 5) for user in range(8)])
    draws = {tuple(select(rows, Selection(max_users=4, seed=seed))[0].users_R.tolist()) for seed in range(10)}
    assert len(draws) > 5


def test_low_ratings_become_impressions_beside_clicks_and_keep_their_rating() -> None:
    rows, lost = select(
        rows_of([(0, 0, 0, 5), (0, 1, 1, 1), (0, 2, 2, -1)]), Selection(min_rating=4, below="impression")
    )
    assert rows.positive_mask().tolist() == [True, False]
    assert rows.ratings_R is not None
    assert rows.ratings_R.tolist() == [5, 1]
    assert lost == {"no_rating": 1}


def test_impressions_do_not_count_for_the_k_core_and_leave_with_their_item() -> None:
    liked = [(user, item, user, 5) for user in range(2) for item in range(2)]
    rows, lost = select(
        rows_of([*liked, (0, 5, 9, 1), (1, 5, 9, 1), (1, 0, 9, 1)]), Selection(None, 4, "impression", k_core=2)
    )
    assert lost == {"outside_k_core": 2}
    assert content(rows)[-1] == (1, 1, 1.0, 1)
    assert (1, 0, 9.0, 0) in content(rows)


def test_a_threshold_for_rows_without_ratings_is_refused() -> None:
    with pytest.raises(UsageError, match="no row has a rating"):
        select(
            rows_of([(0, 0, 0, -1)]).__class__(**{**vars(rows_of([(0, 0, 0, -1)])), "ratings_R": None}),
            Selection(None, 4),
        )
