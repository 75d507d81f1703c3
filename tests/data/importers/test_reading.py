"""Laws of reading in parts: what is malformed is left out, numbered as in the file, and refused above a share."""

from __future__ import annotations

import gzip
import re
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.data.importers import delimited, json_lines
from mmrec_model.data.importers.delimited import Layout, read_delimited
from mmrec_model.data.importers.intake import Intake
from mmrec_model.data.importers.json_lines import read_json_lines
from mmrec_model.data.tables import RawTable
from mmrec_model.errors import DataError

FIELDS = pa.schema([("id", pa.large_string()), ("n", pa.int64()), ("words", pa.list_(pa.large_string()))])
NAMES = ("user_id", "item_id", "timestamp")


def quiet(*_: object) -> None: ...


def all_rows(parts: list[RawTable]) -> tuple[list[dict[str, object]], list[int], list[int]]:
    """Rows, their numbers, and the numbers of what was left out."""
    rows = [row for part in parts for row in part.table.to_pylist()]
    numbers = [int(number) for part in parts for number in part.rows_R]
    return rows, numbers, [bad.row for part in parts for bad in part.ragged]


@settings(max_examples=40, deadline=None)
@given(good=st.lists(st.booleans(), min_size=1, max_size=60), size=st.integers(40, 200), wide=st.booleans())
def test_good_and_ragged_records_share_the_numbers_of_the_file(good: list[bool], size: int, wide: bool) -> None:
    delimiter = "::" if wide else "\t"
    records = [delimiter.join([f"u{row}", "i", "7"] if fits else [f"u{row}", "i"]) for row, fits in enumerate(good)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK_BYTES", size)
        path = Path(folder) / "rows.dat"
        path.write_text("\n".join(records) + "\n")
        layout = Layout({name: name for name in NAMES}, header=NAMES, delimiter=delimiter, quoted=False)
        rows, numbers, ragged = all_rows(list(read_delimited(path, layout, quiet)))
    assert [row["user_id"] for row in rows] == [f"u{row}" for row, fits in enumerate(good) if fits]
    assert numbers == [row + 1 for row, fits in enumerate(good) if fits]
    assert ragged == [row + 1 for row, fits in enumerate(good) if not fits]


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.tuples(st.integers(0, 99), st.text("a:b", max_size=5)), min_size=1), size=st.integers(32, 64))
def test_wide_separators_are_read_wherever_a_block_ends(texts: list[tuple[int, str]], size: int) -> None:
    titles = [re.sub(":+", ":", text).strip(":") for _, text in texts]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "_BLOCK_BYTES", size)
        path = Path(folder) / "movies.dat"
        path.write_text("".join(f"{n}::x{title}::g\n" for (n, _), title in zip(texts, titles, strict=True)))
        layout = Layout({"a": "a", "b": "b", "c": "c"}, header=("a", "b", "c"), delimiter="::", quoted=False)
        rows, _, ragged = all_rows(list(read_delimited(path, layout, quiet)))
    assert [(row["a"], row["b"], row["c"]) for row in rows] == [
        (str(n), f"x{title}", "g") for (n, _), title in zip(texts, titles, strict=True)
    ]
    assert ragged == []


def test_a_csv_row_counts_from_the_first_after_the_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffa,b\n1,"two\nlines"\nbad\n3,4\n')
    rows, numbers, ragged = all_rows(list(read_delimited(path, Layout({"b": "x", "a": "y"}), quiet)))
    assert rows == [{"x": "two\nlines", "y": "1"}, {"x": "4", "y": "3"}]
    assert (numbers, ragged) == ([1, 3], [2])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"a,c\n1,2\n", "lacks the column 'b'; it has 'a', 'c'"),
        (b"a,b\n1,\xff\n", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_data_error(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        list(read_delimited(path, Layout({"a": "a", "b": "b"}), quiet))
    assert "rows.csv" in str(error.value)


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(b"a,b\n" + b"1,2\n" * 1000)[:-20]])
def test_a_damaged_gzip_file_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.csv\.gz cannot be read"):
        list(read_delimited(path, Layout({"a": "a"}), quiet))


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(st.sampled_from(["good", "bare", "broken", "array", "type", "blank"]), max_size=40))
def test_json_lines_keep_every_good_line_and_number_every_bad_one(kinds: list[str]) -> None:
    lines = {
        "good": '{"id": "é", "n": 3, "words": ["a", "b"], "other": {"x": [1]}}',
        "bare": "{}",
        "broken": '{"id": "x", ',
        "array": "[1]",
        "type": '{"id": "x", "n": "three"}',
        "blank": "",
    }
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "_BLOCK_BYTES", 100)
        path = Path(folder) / "rows.jsonl.gz"
        with gzip.open(path, "wt", encoding="utf-8") as stream:
            stream.write("".join(f"{lines[kind]}\n" for kind in kinds))
        rows, numbers, ragged = all_rows(list(read_json_lines(path, FIELDS, quiet)))
    assert numbers == [place for place, kind in enumerate(kinds, 1) if kind in {"good", "bare"}]
    assert ragged == [place for place, kind in enumerate(kinds, 1) if kind in {"broken", "array", "type"}]
    assert [row["id"] for row in rows] == [
        "é" if kind == "good" else None for kind in kinds if kind in {"good", "bare"}
    ]


def test_half_a_surrogate_is_malformed_and_a_number_is_an_id(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "\\ud800"}\n{"id": 7}\n{"id": true}\n')
    rows, numbers, ragged = all_rows(list(read_json_lines(path, FIELDS, quiet)))
    assert ([row["id"] for row in rows], numbers, ragged) == (["7"], [2], [1, 3])


def part(users: list[str | None], start: int = 1) -> RawTable:
    columns = {"user_id": users, "item_id": ["i"] * len(users), "timestamp": ["5"] * len(users)}
    table = pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()})
    return RawTable(Path("rows.csv"), table, np.arange(start, start + len(users)), (), ())


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.lists(st.sampled_from(["a", "b", "cc", ""]), min_size=1, max_size=6), min_size=1))
def test_parts_of_any_size_become_the_same_rows(parts: list[list[str]]) -> None:
    flat = [user for users in parts for user in users]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmrec_model.data.importers.intake._SMALLEST_COMPACTION", 3)
        intake = Intake(now=100.0)
        for users in parts:
            intake.add(part(users))
        if not any(flat):
            with pytest.raises(DataError):
                intake.close(1.0)
            return
        rows = intake.close(1.0)
    assert [rows.user_ids[user].as_py() for user in rows.users_R.tolist()] == [user for user in flat if user]
    assert (intake.rows_read, sum(intake.report.quarantined.values())) == (len(flat), flat.count(""))


def test_a_refusal_names_file_code_and_the_first_rows_and_no_value() -> None:
    intake = Intake(now=100.0)
    intake.add(part(["a", "", "a"]))
    intake.add(part(["private-name", "a", None, "", ""], start=4))
    with pytest.raises(DataError) as error:
        intake.close(0.4)
    assert "4 of 8 rows (50.0%)" in str(error.value)
    assert "rows.csv: missing_user_id, first in row 2, 6, 7" in str(error.value)
    assert "private-name" not in str(error.value)
    assert len(intake.close(0.5)) == 4
