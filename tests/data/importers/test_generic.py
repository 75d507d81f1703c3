"""Any tables with a mapping: from options and from TOML, from CSV and Parquet, in every unit of time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrec_model.data.dataset import open_partner
from mmrec_model.data.importers.mapping import mapping_of, read_mapping
from mmrec_model.data.importers.registry import source_of
from mmrec_model.errors import DataError, UsageError

PAIRS = ("user=customer", "item=sku", "time=ts", "rating=stars")
ROWS = [("c1", "007", 10, 4.0), ("c1", "8", 20, 2.0), ("c2", "007", 30, 5.0)]
TOML = """
[interactions]
file = "orders.csv"
user = "customer"
item = "sku"
time = "ts"
rating = "stars"

[items]
file = "products.csv"
item = "sku"
title = "name"
text = ["maker", "blurb"]
category = "dept"
image = "photo"

[users]
file = "people.csv"
user = "customer"
silo = "region"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "pics").mkdir(parents=True)
    lines = [",".join(map(str, row)) for row in ROWS]
    (folder / "orders.csv").write_text("customer,sku,ts,stars\n" + "\n".join(lines) + "\n")
    (folder / "products.csv").write_text(
        'sku,name,maker,blurb,dept,photo\n007,Spoon,Acme,"A spoon, big",Kitchen,pics/s.jpg\n8,Fork,,,,../../x\n'
    )
    (folder / "people.csv").write_text("customer,region,age\nc1,north,33\n")
    (folder / "pics" / "s.jpg").write_bytes(b"x")
    (folder / "map.toml").write_text(TOML)
    return folder


def test_a_toml_mapping_and_pairs_say_the_same(shop: Path) -> None:
    pairs = [*PAIRS, "file=orders.csv", "items.file=products.csv", "items.item=sku", "items.title=name"]
    pairs += ["items.text=maker", "items.text=blurb", "items.category=dept", "items.image=photo"]
    pairs += ["users.file=people.csv", "users.user=customer", "users.silo=region"]
    assert mapping_of(pairs) == read_mapping(shop / "map.toml")


def test_three_tables_become_a_partner_folder(shop: Path, bring, item, column) -> None:
    out = bring(shop, mapping=read_mapping(shop / "map.toml"))
    assert open_partner(out).report.quarantined == {}
    assert item(out, "007") == {
        "item_id": "007",
        "title": "Spoon",
        "text": "Acme. A spoon, big.",
        "category": "Kitchen",
        "image": "image/pics/s.jpg",
        "audio": "",
        "video": "",
    }
    assert item(out, "8")["image"] == ""
    assert column(out, "interactions", "timestamp") == [10, 20, 30]
    assert column(out, "users", "silo_region") == ["north", ""]


def test_the_one_table_needs_no_name(shop: Path, bring, column) -> None:
    for name in ("products.csv", "people.csv"):
        (shop / name).unlink()
    assert column(bring(shop, mapping=mapping_of(PAIRS)), "interactions", "rating") == [4.0, 2.0, 5.0]


def test_several_tables_need_a_name(shop: Path, bring) -> None:
    with pytest.raises(DataError, match="3 tables") as error:
        bring(shop, mapping=mapping_of(PAIRS))
    assert "--map file=NAME" in error.value.remedy


@pytest.mark.parametrize(
    ("unit", "values"),
    [
        ("s", [10, 20, 30]),
        ("s", ["10", "20.0", "1970-01-01T00:00:30Z"]),
        ("ms", [10_000, 20_000, 30_000]),
        ("ms", ["10000", "20000", "30000"]),
        ("iso", ["1970-01-01 00:00:10", "1970-01-01T00:00:20+00:00", "1970-01-01T01:00:30+01:00"]),
        ("ms", [datetime.fromtimestamp(second, UTC) for second in (10, 20, 30)]),
    ],
)
def test_times_of_every_unit_are_seconds(tmp_path: Path, bring, column, unit: str, values: list) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    table = pa.table({"customer": [1, 1, 2], "sku": ["007", "8", "007"], "ts": values})
    pq.write_table(table, folder / "orders.parquet")
    folders = [folder]
    if not isinstance(values[0], datetime):
        folders.append(tmp_path / "csv")
        folders[1].mkdir()
        lines = [f"1,{place},{value}\n" for place, value in enumerate(values)]
        (folders[1] / "orders.csv").write_text("customer,sku,ts\n" + "".join(lines))
    for place in folders:
        out = bring(place, f"out-{place.name}", mapping_of([*PAIRS[:3], f"time_unit={unit}"]))
        assert column(out, "interactions", "timestamp") == [10, 20, 30]
        assert column(out, "interactions", "user_id")[0] == "1"


def test_events_and_separators_are_read(tmp_path: Path, bring, column) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "log.csv").write_bytes("Käufer;sku;ts;what\n1;a;5;click\n1;b;6;impression\n".encode("latin-1"))
    pairs = ["user=Käufer", "item=sku", "time=ts", "event=what", "delimiter=;", "encoding=latin-1"]
    assert column(bring(folder, mapping=mapping_of(pairs)), "interactions", "event") == ["click", "impression"]


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["user=a"], "item"),
        (["user"], "KEY=COLUMN"),
        (["user=a", "user=b"], "twice"),
        (["user=a", "item=a", "time=t"], "mapped twice"),
        ([*PAIRS, "colour=red"], "colour"),
        ([*PAIRS, "time_unit=days"], "time_unit"),
        ([*PAIRS, "things.item=x"], "things"),
        ([*PAIRS, "delimiter=abc"], "delimiter"),
    ],
)
def test_a_wrong_mapping_is_a_usage_error_that_names_the_key(pairs: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        mapping_of(pairs)


def test_a_column_that_is_not_there_is_named_with_those_that_are(shop: Path, bring) -> None:
    with pytest.raises(DataError, match="lacks the column 'buyer'; it has 'customer'"):
        bring(shop, mapping=mapping_of(["user=buyer", *PAIRS[1:], "file=orders.csv"]))


def test_a_mapping_belongs_to_the_generic_format_alone(shop: Path) -> None:
    with pytest.raises(UsageError, match="needs no mapping"):
        source_of(shop, "hm", mapping_of(PAIRS))
    with pytest.raises(UsageError, match="needs a mapping"):
        source_of(shop, "generic", None)
