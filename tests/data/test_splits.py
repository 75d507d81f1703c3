"""Splits: leave-last-out by time, or as pinned; what is held out is never in the user's train history."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.data.dataset import PartnerDataset, open_partner
from mmrec_model.data.histories import Histories
from mmrec_model.data.split_rules import SplitRule, cold_items
from mmrec_model.data.writing import write_partner
from mmrec_model.errors import ConfigError, DataError

ITEM_IDS = [f"i{number}" for number in range(8)]
CATALOGUE = pa.table({"item_id": ITEM_IDS, "title": ITEM_IDS, "text": ITEM_IDS})

Row = tuple[str, str, int]
rows_of = st.lists(
    st.tuples(st.sampled_from(["u", "v", "w"]), st.sampled_from(ITEM_IDS), st.integers(0, 9)), min_size=1, max_size=40
)


def opened(rows: list[Row], loo: list[str] | None = None) -> PartnerDataset:
    columns = {
        "user_id": [row[0] for row in rows],
        "item_id": [row[1] for row in rows],
        "timestamp": [row[2] for row in rows],
    }
    with tempfile.TemporaryDirectory() as name:
        table = pa.table(columns | ({"loo": loo} if loo else {}))
        write_partner(Path(name), interactions=table, items=CATALOGUE)
        return open_partner(Path(name))


def by_hand(rows: list[Row]) -> dict[str, tuple[list[str], str | None, str | None]]:
    """Train, validation and test of each user, written as SPLITS reads, over first occurrences."""
    answer = {}
    for user in {row[0] for row in rows}:
        own = [row for row in rows if row[0] == user]
        own.sort(key=lambda row: (row[2], hashlib.sha1(f"{row[0]}|{row[1]}".encode()).hexdigest()))  # noqa: S324
        items = list(dict.fromkeys(row[1] for row in own))
        answer[user] = (items, None, None) if len(items) < 3 else (items[:-2], items[-2], items[-1])
    return answer


@settings(max_examples=40, deadline=None)
@given(rows_of)
def test_the_last_distinct_item_tests_the_second_last_validates_and_ties_go_by_sha1(rows) -> None:
    unique = list(dict.fromkeys(rows))
    data = opened(unique)
    expected = by_hand(unique)
    assert list(data.user_ids) == sorted(expected)
    for number, user in enumerate(data.user_ids):
        train, val, test = expected[user]
        assert [ITEM_IDS[item] for item in data.train.of(number)] == train
        for held_out, wanted in ((data.val, val), (data.test, test)):
            assert held_out[number] == (-1 if wanted is None else ITEM_IDS.index(wanted))


@settings(max_examples=30, deadline=None)
@given(rows_of, st.randoms(use_true_random=False))
def test_a_held_out_item_is_never_a_train_item_whatever_is_pinned(rows, random) -> None:
    unique = list(dict.fromkeys(rows))
    pins = ["train"] * len(unique)
    for user in {row[0] for row in unique}:
        own = [position for position, row in enumerate(unique) if row[0] == user]
        random.shuffle(own)
        for position, split in zip(own, ("test", "val"), strict=False):
            pins[position] = split
    data = opened(unique, pins)
    for number in range(len(data)):
        train = data.train.of(number).tolist()
        assert len(set(train)) == len(train)
        assert data.test[number] not in train
        assert data.val[number] not in train
        assert data.test[number] == -1 or data.test[number] != data.val[number]


def test_a_pinned_split_is_taken_as_it_is() -> None:
    rows = [("u", "i0", 5), ("u", "i1", 4), ("u", "i2", 3), ("u", "i3", 2), ("v", "i0", 1)]
    data = opened(rows, ["train", "test", "train", "val", "test"])
    assert data.train.of(0).tolist() == [2, 0]
    assert data.train.of(1).tolist() == []
    assert (data.val.tolist(), data.test.tolist()) == ([3, -1], [1, 0])


def test_a_pinned_item_that_train_also_holds_is_no_held_out_item_and_a_notice_counts_it() -> None:
    rows = [("u", "i0", 1), ("u", "i0", 2), ("v", "i1", 1), ("v", "i1", 2), ("v", "i2", 3)]
    data = opened(rows, ["train", "test", "val", "test", "train"])
    assert (data.val.tolist(), data.test.tolist()) == ([-1, 1], [-1, -1])
    assert any("2 users have a pinned test item" in notice for notice in data.report.notices)


def test_several_pinned_rows_of_a_user_are_all_held_out_and_the_earliest_stands_for_them() -> None:
    rows = [("u", "i0", 1), ("u", "i2", 3), ("u", "i1", 2), ("u", "i3", 4), ("u", "i4", 5)]
    data = opened(rows, ["train", "test", "test", "val", "cold"])
    assert data.test_items.of(0).tolist() == [1, 2]
    assert (data.val.tolist(), data.test.tolist(), data.cold_items.of(0).tolist()) == ([3], [1], [4])


def test_a_blank_pin_column_computes_the_split_and_says_so() -> None:
    rows = [("u", "i0", 1), ("u", "i1", 2), ("u", "i2", 3)]
    data = opened(rows, ["", "", ""])
    assert data.test.tolist() == [2]
    assert any("'loo' is blank" in notice for notice in data.report.notices)


def test_the_matrix_of_histories_is_binary_and_holds_every_item_once() -> None:
    histories = Histories(np.array([0, 2, 2, 3]), np.array([3, 1, 0]))
    assert histories.matrix(4).toarray().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert histories.matrix(4).dtype == np.float32
    assert histories.matrix(4).indices.tolist() == [1, 3, 0]
    assert histories.of(0).tolist() == [3, 1]
    assert len(histories) == 3


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 4, 3]])
def test_offsets_that_do_not_describe_the_items_are_refused(offsets) -> None:
    with pytest.raises(DataError, match="offsets"):
        Histories(np.array(offsets, dtype=np.int64), np.array([0, 1, 2]))


def test_a_user_outside_the_histories_is_refused() -> None:
    histories = Histories(np.array([0, 1]), np.array([0]))
    for user in (-1, 1):
        with pytest.raises(DataError, match="outside"):
            histories.of(user)


rules = st.sampled_from(["leave-last-out", "user-time", "user-time:0.3,0.2", "global-time:3,6"]).flatmap(
    lambda text: st.sampled_from([text, f"{text}+cold:0.3", f"{text}+cold:0.3,7"])
)


def split_by(rows: list[Row], rule: str, loo: list[str] | None = None) -> PartnerDataset:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(("user_id", "item_id", "timestamp"))}
    with tempfile.TemporaryDirectory() as name:
        write_partner(Path(name), interactions=pa.table(columns | ({"loo": loo} if loo else {})), items=CATALOGUE)
        return open_partner(Path(name), split=SplitRule.parse(rule))


@settings(max_examples=40, deadline=None)
@given(rows_of, rules)
def test_every_rule_puts_each_distinct_item_of_a_user_into_one_part(rows, rule) -> None:
    unique = list(dict.fromkeys(rows))
    data = split_by(unique, rule)
    assert "+cold" in rule or not len(data.cold_items.items)
    for number, user in enumerate(data.user_ids):
        parts = [part.of(number).tolist() for part in (data.train, data.val_items, data.test_items, data.cold_items)]
        together = [item for part in parts for item in part]
        assert sorted(together) == sorted({ITEM_IDS.index(row[1]) for row in unique if row[0] == user})
        times = [
            min(row[2] for row in unique if row[:2] == (user, ITEM_IDS[item])) for part in parts[:3] for item in part
        ]
        assert times == sorted(times)


def test_the_share_of_user_time_counts_distinct_items_and_leaves_everyone_something_to_train_on() -> None:
    rows = [("u", f"i{place}", place) for place in range(8)] + [("v", f"i{place}", place) for place in range(2)]
    data = split_by(rows, "user-time:0.25,0.5")
    assert [part.of(0).tolist() for part in (data.train, data.val_items, data.test_items)] == [
        [0, 1], [2, 3], [4, 5, 6, 7],
    ]  # fmt: skip
    assert data.train.of(1).tolist() == [0, 1]
    for length in range(3, 9):
        assert len(split_by(rows[:length], "user-time:0.05,0.9").train.of(0)) >= 1


def test_global_time_is_one_moment_for_all_users_and_makes_cold_users() -> None:
    rows = [("u", "i0", 1), ("u", "i1", 3), ("u", "i2", 6), ("v", "i3", 6), ("v", "i4", 9), ("w", "i0", 2)]
    data = split_by(rows, "global-time:3,6")
    assert [data.train.of(user).tolist() for user in range(3)] == [[0], [], [0]]
    assert [data.val_items.of(user).tolist() for user in range(3)] == [[1], [], []]
    assert [data.test_items.of(user).tolist() for user in range(3)] == [[2], [3, 4], []]


def test_cold_items_are_the_same_at_every_partner_and_in_no_other_part() -> None:
    rows = [(user, item, place) for user in "uv" for place, item in enumerate(ITEM_IDS)]
    data = split_by(rows, "leave-last-out+cold:0.25,3")
    chosen = cold_items(ITEM_IDS, 0.25, 3).tolist()
    assert len(chosen) == 2
    assert data.cold_items.of(0).tolist() == data.cold_items.of(1).tolist() == chosen
    assert not np.isin(np.concatenate([data.train.items, data.val_items.items, data.test_items.items]), chosen).any()
    shuffled = ITEM_IDS[::-1]
    assert sorted(shuffled[item] for item in cold_items(shuffled, 0.25, 3)) == [ITEM_IDS[item] for item in chosen]
    assert cold_items(ITEM_IDS, 0.25, 4).tolist() != chosen


def test_a_rule_that_is_asked_for_replaces_the_pins_and_says_so() -> None:
    rows = [("u", "i0", 1), ("u", "i1", 2), ("u", "i2", 3)]
    data = split_by(rows, "leave-last-out", ["test", "train", "val"])
    assert data.test.tolist() == [2]
    assert any("pinned split is replaced by leave-last-out" in notice for notice in data.report.notices)


@pytest.mark.parametrize(
    "text",
    [
        "last", "leave-last-out:1", "global-time", "global-time:5", "global-time:6,5", "user-time:0.5,0.5",
        "user-time:x",
        "user-time+cold:1", "user-time+cold:", "global-time:nan,5", "user-time:0,0.1",
    ],
)  # fmt: skip
def test_a_text_that_names_no_split_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        SplitRule.parse(text)


@given(rules)
def test_a_rule_reads_what_it_writes(text: str) -> None:
    rule = SplitRule.parse(text)
    assert SplitRule.parse(str(rule)) == rule
    assert SplitRule.parse("global-time:2020-01-01,2020-01-02T00:00:00Z").moments == (1577836800.0, 1577923200.0)
