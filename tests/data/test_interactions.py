"""Rows: one that cannot be used is quarantined under its first broken rule; a file with too many is refused."""

from __future__ import annotations

import datetime as dt
import time

import numpy as np
import pyarrow as pa
import pytest

from mmrec_model.data.dataset import open_partner
from mmrec_model.data.schema import Limits
from mmrec_model.data.writing import write_partner
from mmrec_model.errors import DataError

HEADER = "user_id,item_id,timestamp,event,rating,loo\n"
GOOD = "u1,a,10,click,,train\nu1,b,11,click,,train\nu2,a,12,click,,train\n"
NOW = 1_000.0


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (",a,10,click,,train", "missing_user_id"),
        ("  ,a,10,click,,train", "missing_user_id"),
        ("NaN,a,10,click,,train", "missing_user_id"),
        ("u1,null,10,click,,train", "missing_item_id"),
        ("u" * 257 + ",a,10,click,,train", "overlong_user_id"),
        ("u1," + "a" * 257 + ",10,click,,train", "overlong_item_id"),
        ("u1,a,,click,,train", "missing_timestamp"),
        ("u1,a,yesterday,click,,train", "timestamp_not_a_time"),
        ("u1,a,nan,click,,train", "timestamp_not_a_time"),
        ("u1,a,inf,click,,train", "timestamp_not_a_time"),
        ("u1,a,2012-13-45,click,,train", "timestamp_not_a_time"),
        ("u1,a,-1,click,,train", "negative_timestamp"),
        ("u1,a,1000.5,click,,train", "future_timestamp"),
        ("u1,a,10,bought,,train", "unknown_event"),
        ("u1,a,10,rating,nan,train", "rating_not_finite"),
        ("u1,a,10,rating,-inf,train", "rating_not_finite"),
        ("u1,a,10,rating,good,train", "rating_not_finite"),
        ("u1,a,10,click,,validation", "unknown_split"),
        ("u1,a,10,click,,", "missing_split"),
        ("u1,zzz,10,click,,train", "unknown_item"),
        ("u1,a,10,click,,train", "duplicate_row"),
        ("u1,a", "ragged_record"),
    ],
)
def test_a_row_that_breaks_a_rule_is_counted_under_it_and_shown_and_the_others_stay(write, row, code) -> None:
    data = open_partner(write(interactions_csv=HEADER + GOOD + row + "\n"), now=NOW)
    assert data.report.quarantined == {f"interactions/{code}": 1}
    (example,) = data.report.examples
    assert (example.file, example.row, example.code) == ("interactions.csv", 4, code)
    assert code in data.report.to_text()
    assert [data.train.of(user).tolist() for user in range(2)] == [[0, 1], [0]]


def test_a_row_that_breaks_two_rules_counts_once(write) -> None:
    content = HEADER + GOOD + ",zzz,never,bought,nan,x\n"
    report = open_partner(write(interactions_csv=content), now=NOW).report
    assert report.quarantined == {"interactions/missing_user_id": 1}


def test_more_bad_rows_than_the_share_refuse_the_file_and_the_share_is_an_argument(write) -> None:
    folder = write(interactions_csv=HEADER + GOOD + "u1,zzz,1,click,,train\nu1,yyy,2,click,,train\n")
    with pytest.raises(DataError, match="unknown_item") as caught:
        open_partner(folder, limits=Limits(quarantined_share=0.3))
    assert "2 of 5 rows (40%)" in str(caught.value)
    assert "limit of 30%" in str(caught.value)
    assert len(open_partner(folder, limits=Limits(quarantined_share=0.4))) == 2


def test_a_file_without_a_usable_row_is_refused_even_where_any_share_is_allowed(write) -> None:
    folder = write(interactions_csv="user_id,item_id,timestamp\nu,zzz,1\n")
    with pytest.raises(DataError, match="1 of 1 rows"):
        open_partner(folder, limits=Limits(quarantined_share=1.0))


def test_milliseconds_are_refused_as_future_times(write) -> None:
    folder = write(interactions_csv="user_id,item_id,timestamp\nu,a,1600000000000\n")
    with pytest.raises(DataError, match="future_timestamp"):
        open_partner(folder)


def test_rows_that_differ_in_one_column_are_no_duplicates_and_three_equal_rows_leave_one(write) -> None:
    rows = "u,a,1,click,,train\nu,a,1,conversion,,train\nu,a,1,click,3,train\n" + "u,b,2,,,train\n" * 3
    report = open_partner(write(interactions_csv=HEADER + rows), now=NOW).report
    assert report.quarantined == {"interactions/duplicate_row": 2}


def test_a_quarantined_row_makes_no_duplicate_of_a_good_one(write) -> None:
    rows = "u,a,1,bought,,train\nu,a,1,,,train\nu,b,2,,,train\n"
    data = open_partner(write(interactions_csv=HEADER + rows), now=NOW)
    assert data.report.quarantined == {"interactions/unknown_event": 1}
    assert data.train.of(0).tolist() == [0, 1]


TIME = 1_600_000_000
STAMP = dt.datetime.fromtimestamp(TIME, dt.UTC)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([TIME, TIME + 1], pa.int64()),
        pa.array([TIME, TIME + 1], pa.uint32()),
        pa.array([float(TIME), TIME + 1.5]),
        pa.array([str(TIME), str(TIME + 1)]),
        pa.array([STAMP.isoformat(), (STAMP + dt.timedelta(seconds=1)).isoformat()]),
        pa.array(["2020-09-13T12:26:40Z", "1600000001"]),
        pa.array(["2020-09-13 12:26:40", "2020-09-13T14:26:41+02:00"]),
        pa.array([STAMP, STAMP + dt.timedelta(seconds=1)], pa.timestamp("ns", "UTC")),
        pa.array([TIME * 1000, TIME * 1000 + 500]).cast(pa.timestamp("ms")),
        pa.array(["2020-09-13", "2020-09-14"]).cast(pa.date32()),
        pa.array(["2020-09-13", "2020-09-14"]).cast(pa.date32()).cast(pa.date64()),
        pa.array([str(TIME), str(TIME + 1)]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_every_usual_type_of_time_is_read_in_seconds(tmp_path, column) -> None:
    interactions = pa.table({"user_id": ["u", "u"], "item_id": ["b", "a"], "timestamp": column})
    write_partner(
        tmp_path, interactions=interactions, items=pa.table({name: ["a", "b"] for name in ("item_id", "title", "text")})
    )
    data = open_partner(tmp_path, now=TIME + 86_400.0)
    assert data.report.quarantined == {}
    assert data.train.of(0).tolist() == [1, 0]
    with pytest.raises(DataError, match="future_timestamp"):
        open_partner(tmp_path, now=TIME - 86_400.0)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system cannot change its time zone")
def test_a_time_without_a_zone_is_utc_wherever_the_machine_stands(write, monkeypatch) -> None:
    folder = write(interactions_csv="user_id,item_id,timestamp\nu,a,2020-09-13 12:26:40\nu,b,1600000000\n")
    try:
        for zone in ("Pacific/Auckland", "America/New_York"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert open_partner(folder, now=float(TIME)).report.quarantined == {}
            with pytest.raises(DataError, match="future_timestamp"):
                open_partner(folder, now=TIME - 1.0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7, 8], pa.int64()),
        pa.array([7.0, 8.0]),
        pa.array([7, 8], pa.uint8()),
        pa.array([b"7", b"8"]),
        pa.array(["7", "8"]).dictionary_encode(),
        pa.array(["7", "8"], pa.string_view()),
    ],
    ids=lambda column: str(column.type),
)
def test_ids_of_every_usual_type_are_read_as_text(tmp_path, ids) -> None:
    interactions = pa.table({"user_id": ids, "item_id": ids, "timestamp": [1, 2]})
    write_partner(
        tmp_path,
        interactions=interactions,
        items=pa.table({"item_id": ["7", "8"], "title": ["", ""], "text": ["", ""]}),
    )
    data = open_partner(tmp_path)
    assert data.user_ids == ("7", "8")
    assert data.train.items.tolist() == [0, 1]


def test_a_missing_or_broken_id_in_a_floating_point_column_is_missing(tmp_path) -> None:
    users = pa.array([7.0, float("nan"), 7.5, None, 1e300, 7.0])
    interactions = pa.table({"user_id": users, "item_id": ["a"] * 6, "timestamp": list(range(6))})
    items = pa.table({"item_id": ["a"], "title": ["t"], "text": ["t"]})
    write_partner(tmp_path, interactions=interactions, items=items)
    data = open_partner(tmp_path, limits=Limits(quarantined_share=0.9))
    assert data.report.quarantined == {"interactions/missing_user_id": 4}
    assert data.user_ids == ("7",)


@pytest.mark.parametrize(
    ("column", "values"),
    [("user_id", pa.array([True])), ("item_id", pa.array([["a"]])), ("timestamp", pa.array([{"s": 1}]))],
)
def test_a_column_of_another_type_is_refused_by_name(tmp_path, column, values) -> None:
    cells = {"user_id": pa.array(["u"]), "item_id": pa.array(["a"]), "timestamp": pa.array([1]), column: values}
    items = pa.table({"item_id": ["a"], "title": ["t"], "text": ["t"]})
    write_partner(tmp_path, interactions=pa.table(cells), items=items)
    with pytest.raises(DataError, match=f"interactions.parquet, column '{column}'"):
        open_partner(tmp_path)


def test_text_that_is_not_utf8_inside_parquet_is_refused(tmp_path) -> None:
    bad = pa.array([b"\xff\xfe"])
    cells = {"user_id": bad, "item_id": pa.array(["a"]), "timestamp": pa.array([1])}
    items = pa.table({"item_id": ["a"], "title": ["t"], "text": ["t"]})
    for user_ids in (bad, pa.Array.from_buffers(pa.string(), 1, bad.buffers())):
        write_partner(tmp_path, interactions=pa.table({**cells, "user_id": user_ids}), items=items)
        with pytest.raises(DataError, match=r"interactions\.parquet"):
            open_partner(tmp_path)


def test_impressions_are_no_positives_and_users_of_impressions_alone_have_no_history(write) -> None:
    rows = "u1,a,1,impression,,\nu1,b,2,click,,train\nu1,c,3,,,train\nu2,a,1,impression,,test\n"
    data = open_partner(write(interactions_csv=HEADER + rows), now=NOW)
    assert data.report.quarantined == {}  # an impression needs no split
    assert data.user_ids == ("u1", "u2")
    assert [data.train.of(user).tolist() for user in range(2)] == [[1, 2], []]
    assert data.test.tolist() == [-1, -1]


def test_a_given_catalogue_takes_the_place_of_the_folders_items(write, tmp_path) -> None:
    whole = open_partner(write())
    folder = tmp_path / "second"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\nu,d,1\nu,a,2\nu,new,3\n")
    data = open_partner(folder, catalogue=whole.catalogue)
    assert data.catalogue is whole.catalogue
    assert data.train.of(0).tolist() == [3, 0]
    assert data.report.quarantined == {"interactions/unknown_item": 1}


def test_file_order_of_the_rows_has_no_effect(tmp_path) -> None:
    rng = np.random.default_rng(3)
    users, items, times = rng.integers(0, 9, 80), rng.integers(0, 12, 80), rng.integers(0, 6, 80)
    catalogue = pa.table({"item_id": list(range(12)), "title": [""] * 12, "text": [""] * 12})
    opened = []
    for order in (np.arange(80), rng.permutation(80)):
        table = pa.table({"user_id": users[order], "item_id": items[order], "timestamp": times[order]})
        write_partner(tmp_path, interactions=table, items=catalogue)
        opened.append(open_partner(tmp_path))
    first, second = opened
    assert first.user_ids == second.user_ids
    for name in ("val", "test"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert np.array_equal(first.train.items, second.train.items)
