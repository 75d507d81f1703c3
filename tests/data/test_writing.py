"""Writing: what is written opens again unchanged, and nothing half is left."""

from __future__ import annotations

import pyarrow as pa
import pytest

from mmrec_model.data.dataset import open_partner, read_user_columns
from mmrec_model.data.writing import write_partner
from mmrec_model.errors import DataError

INTERACTIONS = pa.table({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "b"], "timestamp": [1, 2, 3]})
ITEMS = pa.table({"item_id": ["a", "b"], "title": ["A", "B"], "text": ["", "b"]})
USERS = pa.table({"user_id": ["u", "v"], "silo_x": ["n", "s"]})


def test_a_written_folder_opens_with_the_same_content(tmp_path) -> None:
    write_partner(tmp_path / "new", interactions=INTERACTIONS, items=ITEMS, users=USERS)
    data = open_partner(tmp_path / "new")
    assert data.user_ids == ("u", "v")
    assert [data.train.of(user).tolist() for user in range(2)] == [[0, 1], [1]]
    assert data.report.quarantined == {}
    assert read_user_columns(tmp_path / "new")["v"] == {"silo_x": "s"}


def test_the_same_tables_give_the_same_bytes_and_no_other_file(tmp_path) -> None:
    for name in ("one", "two"):
        write_partner(tmp_path / name, interactions=INTERACTIONS)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["interactions.parquet"]
    contents = [(tmp_path / name / "interactions.parquet").read_bytes() for name in ("one", "two")]
    assert contents[0] == contents[1]


def test_a_flipped_byte_of_a_written_value_is_noticed(tmp_path) -> None:
    write_partner(tmp_path, interactions=INTERACTIONS, items=ITEMS.set_column(2, "text", [["distinct", "b"]]))
    path = tmp_path / "items.parquet"
    content = bytearray(path.read_bytes())
    content[content.index(b"distinct") + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"items\.parquet cannot be read"):
        open_partner(tmp_path)


def test_a_table_without_a_required_column_writes_nothing(tmp_path) -> None:
    with pytest.raises(DataError, match="'timestamp'"):
        write_partner(tmp_path, items=ITEMS, interactions=INTERACTIONS.drop_columns(["timestamp"]))
    assert list(tmp_path.iterdir()) == []


def test_a_csv_file_of_the_same_name_is_not_shadowed(tmp_path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,text\na,b,c\n")
    with pytest.raises(DataError, match=r"items\.csv"):
        write_partner(tmp_path, interactions=INTERACTIONS, items=ITEMS)
