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
from mmrec_model.data.writing import write_partner
from mmrec_model.errors import DataError

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


@pytest.mark.parametrize("split", ["val", "test"])
def test_two_pinned_rows_of_a_user_are_refused_with_the_user_and_the_rows(split) -> None:
    rows = [("u", "i0", 1), ("u", "i1", 2), ("u", "i2", 3)]
    with pytest.raises(DataError, match=rf"user 'u' has 2 {split} rows \(rows 2, 3\)"):
        opened(rows, ["train", split, split])


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
