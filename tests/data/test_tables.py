"""Files: whatever is wrong with one as a whole is a DataError that names it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrec_model.data import tables
from mmrec_model.data.dataset import open_partner
from mmrec_model.data.schema import INTERACTIONS, Limits
from mmrec_model.data.tables import read_table
from mmrec_model.data.writing import write_partner
from mmrec_model.errors import DataError

HEADER = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "cannot be read"),
        (HEADER.encode(), "0 rows"),
        (b"user_id;item_id;timestamp\nu;a;1\n", "lacks the required column 'user_id'"),
        (b"user_id,item_id\nu,a\n", "lacks the required column 'timestamp'"),
        (b"user_id,item_id,timestamp,user_id\nu,a,1,u\n", "'user_id' twice"),
        (HEADER.encode() + b"u,a,1\nJos\xe9,a,2\n", "not UTF-8: byte 0xe9 in line 3"),
        (HEADER.encode() + b"u,a,1\nJos\xc3", "not UTF-8: byte 0xc3 in line 3"),
        (HEADER.encode("utf-16"), "not UTF-8"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_refused_by_name_with_a_remedy(write, content, said) -> None:
    with pytest.raises(DataError, match=r"interactions\.csv") as caught:
        open_partner(write(interactions_csv=content))
    assert said in str(caught.value)
    assert caught.value.remedy


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        open_partner(tmp_path / "absent")


@pytest.mark.parametrize("stem", ["interactions", "items"])
def test_a_missing_file_is_refused_with_both_names_it_may_have(write, stem) -> None:
    with pytest.raises(DataError, match=f"no {stem}.parquet or {stem}.csv"):
        open_partner(write(**{f"{stem}_csv": None}))


def test_both_forms_of_a_file_side_by_side_are_refused(write) -> None:
    with pytest.raises(DataError, match=r"both interactions\.parquet and interactions\.csv"):
        open_partner(write(interactions_parquet=b"x"))


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped"])
def test_a_damaged_parquet_file_is_refused(write, tmp_path, damage) -> None:
    whole = tmp_path / "whole.parquet"
    rows = {"user_id": ["u"] * 50, "item_id": ["a"] * 50, "timestamp": list(range(50))}
    pq.write_table(pa.table(rows), whole, write_page_checksum=True, compression="none")
    content = whole.read_bytes()
    flipped = bytearray(content)
    flipped[60] ^= 0xFF
    bad = {"garbage": b"PAR1 not really PAR1", "truncated": content[: len(content) // 2], "flipped": bytes(flipped)}
    with pytest.raises(DataError, match=r"interactions\.parquet cannot be read"):
        open_partner(write(interactions_csv=None, interactions_parquet=bad[damage]))


def test_a_changed_value_is_noticed_where_the_file_stores_checksums(tmp_path) -> None:
    rows = pa.table({"user_id": ["u"] * 3, "item_id": ["a"] * 3, "timestamp": [7_654_321, 7_654_322, 7_654_323]})
    items = pa.table({"item_id": ["a"], "title": ["t"], "text": ["t"]})
    write_partner(tmp_path, interactions=rows, items=items)
    path = tmp_path / "interactions.parquet"
    pq.write_table(rows, path, write_page_checksum=True, compression="none", use_dictionary=False)
    place = path.read_bytes().index((7_654_322).to_bytes(8, "little"))
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        open_partner(tmp_path)


def test_a_directory_in_the_place_of_a_file_is_refused(write) -> None:
    folder = write(interactions_csv=None)
    (folder / "interactions.parquet").mkdir()
    with pytest.raises(DataError, match=r"interactions\.parquet"):
        open_partner(folder)


@pytest.mark.parametrize(("limits", "unit"), [(Limits(rows=4), "rows"), (Limits(file_bytes=60), "bytes")])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_above_a_limit_is_refused_with_the_value_and_the_limit(write, tmp_path, limits, unit, suffix) -> None:
    rows = pa.table({"user_id": list("abcde"), "item_id": ["a"] * 5, "timestamp": [1, 2, 3, 4, 5]})
    pq.write_table(rows, tmp_path / "five.parquet")
    content = (tmp_path / "five.parquet").read_bytes() if suffix == "parquet" else HEADER + "uuuu,a,1234567\n" * 5
    folder = write(**{"interactions_csv": None, f"interactions_{suffix}": content})
    with pytest.raises(DataError, match=unit) as caught:
        read_table(folder, INTERACTIONS, limits)
    assert f"above the limit of {limits.rows if unit == 'rows' else limits.file_bytes}" in str(caught.value)


def test_a_parquet_file_that_unpacks_beyond_the_limit_is_refused(write, tmp_path) -> None:
    rows = pa.table({"user_id": [str(n) * 200 for n in range(1000)], "item_id": ["a"] * 1000, "timestamp": [1] * 1000})
    pq.write_table(rows, tmp_path / "big.parquet", compression="zstd")
    content = (tmp_path / "big.parquet").read_bytes()
    folder = write(interactions_csv=None, interactions_parquet=content)
    with pytest.raises(DataError, match="decompressed"):
        read_table(folder, INTERACTIONS, Limits(file_bytes=len(content) + 1000))


def test_records_of_the_wrong_width_are_left_out_and_row_numbers_still_fit_the_file(write, monkeypatch) -> None:
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 64)  # several blocks: numbers must count over all of them
    lines = ["u,a,1" if row % 7 else "u,a" for row in range(1, 61)]
    raw = read_table(write(interactions_csv=HEADER + "\n".join(lines)), INTERACTIONS, Limits())
    assert [bad.row for bad in raw.ragged] == list(range(7, 61, 7))
    assert raw.rows_R.tolist() == [row for row in range(1, 61) if row % 7]


def test_rows_that_an_open_quote_swallows_count_as_lost(write) -> None:
    content = HEADER + "u,a,1\n" * 3 + '"u,a,1\n' + "u,a,1\n" * 8
    raw = read_table(write(interactions_csv=content), INTERACTIONS, Limits())
    assert sum(bad.lines for bad in raw.ragged) >= 9
    with pytest.raises(DataError, match="ragged_record"):
        open_partner(write(interactions_csv=content))


def test_unknown_columns_are_ignored_with_a_notice_and_silo_columns_of_users_are_known(write) -> None:
    folder = write(
        interactions_csv="user_id,item_id,timestamp,price\nu,a,1,9\n", users_csv="user_id,silo_a.b,age\nu,north,40\n"
    )
    notices = " ".join(open_partner(folder).report.notices)
    assert "'price'" in notices
    assert "'age'" in notices
    assert "silo" not in notices


def test_a_byte_order_mark_quotes_and_blank_lines_are_read(write) -> None:
    content = "\ufeff" + HEADER + '\n"u,1",a,5\n\n"u,1",b,6\n'
    data = open_partner(write(interactions_csv=content))
    assert data.user_ids == ("u,1",)
    assert data.train.of(0).tolist() == [0, 1]
