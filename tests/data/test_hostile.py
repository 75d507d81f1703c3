"""Any bytes in any file end in a DataError or in counted rows, never in another exception."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmrec_model.data.dataset import open_partner, read_user_columns
from mmrec_model.errors import DataError

HEADERS = {
    "interactions": b"user_id,item_id,timestamp,event,rating,loo\n",
    "items": b"item_id,title,text,category,image\n",
    "users": b"user_id,silo_x,text,image\n",
}
GOOD = {
    "interactions": b"user_id,item_id,timestamp\nu,a,1\n",
    "items": b"item_id,title,text\na,b,c\n",
    "users": b"user_id\nu\n",
}
stems = st.sampled_from(list(HEADERS))
fragments = st.sampled_from(
    [b"u", b"a", b"1", b",", b",", b",", b"\n", b"\n", b"\r\n", b'"', b"\0", b"\xff", b"\xc3\xa9", b"nan", b"1e999",
     b"-1", b"2020-01-01", b"99999-01-01", b"0001-01-01T00:00+23:59", b"click", b"test", b"../../etc/passwd",
     b"/etc/passwd", b"9" * 400, b"1_0", b"\xef\xbb\xbf", b" "]
)  # fmt: skip


def survives(stem: str, suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for other, good in GOOD.items():
            if other != stem:
                (folder / f"{other}.csv").write_bytes(good)
        (folder / f"{stem}.{suffix}").write_bytes(content)
        try:
            data = open_partner(folder)
            columns = read_user_columns(folder)
        except DataError:
            return  # any other exception fails the test
        assert len(data) > 0
        assert all(set(columns[user]) == set(columns[next(iter(columns))]) for user in columns)
        assert "rows read" in data.report.to_text()


@settings(max_examples=60, deadline=None)
@given(stems, st.sampled_from(["csv", "parquet"]), st.binary(max_size=300))
def test_random_bytes_end_in_a_message(stem, suffix, content) -> None:
    survives(stem, suffix, content)


@settings(max_examples=200, deadline=None)
@given(stems, st.lists(fragments, max_size=60).map(b"".join))
@example("interactions", b"u,a,0001-01-01T00:00+23:59,,,\n")
@example("interactions", b'u,a,"\n1",,,\n')
def test_random_rows_under_a_good_header_end_in_a_message_or_in_counted_rows(stem, content) -> None:
    survives(stem, "csv", HEADERS[stem] + content)


def parquet_of(stem: str) -> bytes:
    columns = {
        "interactions": {"user_id": [1, 2], "item_id": ["a", "a"], "timestamp": [1.0, 2.0], "event": ["click", None]},
        "items": {"item_id": ["a", "b"], "title": ["x", None], "text": ["y", "z"]},
        "users": {"user_id": ["u", "v"], "silo_x": ["k", None]},
    }
    buffer = BytesIO()
    pq.write_table(pa.table(columns[stem]), buffer)
    return buffer.getvalue()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(stems, st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_parquet_file_with_flipped_bytes_ends_in_a_message_or_in_counted_rows(stem, flips) -> None:
    content = bytearray(parquet_of(stem))
    for place, change in flips:
        content[place % len(content)] ^= change
    survives(stem, "parquet", bytes(content))


cells = st.sampled_from(
    [
        pa.array([None, None]),
        pa.array([float("nan"), 1e300]),
        pa.array([2**63 - 1, -(2**63)], pa.int64()),
        pa.array([2**64 - 1, 0], pa.uint64()),
        pa.array([2**63 - 1, -(2**63) + 1]).cast(pa.timestamp("us")),
        pa.array([2**63 - 1, 1]).cast(pa.timestamp("ns")),
        pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32()),
        pa.array([1, 2], pa.duration("s")),
        pa.array([True, False]),
        pa.array([[1], []]),
        pa.array([{"a": 1}, None]),
        pa.array([b"\xff", b"a"]),
        pa.array(["", "a"]),
        pa.array(["a", "a"]).dictionary_encode(),
        pa.array([1, 2]).cast(pa.decimal128(20, 0)),
    ]
)


@settings(max_examples=150, deadline=None)
@given(stems, st.data())
def test_columns_of_any_type_end_in_a_message_or_in_counted_rows(stem, data) -> None:
    names = HEADERS[stem].decode().strip().split(",")
    buffer = BytesIO()
    pq.write_table(pa.table({name: data.draw(cells, label=name) for name in names}), buffer)
    survives(stem, "parquet", buffer.getvalue())


@pytest.mark.parametrize("name", ["interactions.csv", "items.csv", "users.csv"])
def test_a_link_in_a_circle_in_the_place_of_a_file_ends_in_a_message(tmp_path, name) -> None:
    for stem, good in GOOD.items():
        (tmp_path / f"{stem}.csv").write_bytes(good)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(name)
    if name == "users.csv":
        assert len(open_partner(tmp_path)) == 1  # an optional file that cannot exist is absent
    else:
        with pytest.raises(DataError):
            open_partner(tmp_path)
