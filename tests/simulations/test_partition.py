"""Users to partners and folders to sites: nobody twice, nobody lost, names that are safe."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.errors import DataError, UsageError
from simulations.partition import (
    LONGEST_NAME,
    OTHERS,
    catalogue_of,
    partition_by_column,
    partition_evenly,
    read_users,
    slug,
    write_sites,
)

ids = st.text("abcdefgh0123456789", min_size=1, max_size=6)
values = st.sampled_from(
    ["", " ", "North", "north", "NORTH!", "Others", "unknown", "Île-de-France", "東京", "../..", "a/b"]
)
tables = st.dictionaries(ids, st.dictionaries(st.just("silo_region"), values), min_size=1, max_size=60)


def partition(users: dict[str, dict[str, str]], minimum_users: int) -> dict[str, list[str]]:
    return partition_by_column(users | {"sure": {"silo_region": "North"}}, "silo_region", minimum_users=minimum_users)


@given(tables, st.integers(1, 12))
def test_every_user_is_at_exactly_one_partner(users: dict[str, dict[str, str]], minimum_users: int) -> None:
    members = [user for group in partition(users, minimum_users).values() for user in group]
    assert sorted(members) == sorted({*users, "sure"})


@given(tables, st.integers(1, 12))
def test_partner_names_are_safe_and_only_others_is_small(users: dict[str, dict[str, str]], minimum_users: int) -> None:
    groups = partition(users, minimum_users)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in groups)
    assert all(len(group) >= minimum_users for name, group in groups.items() if name != OTHERS)


@given(tables)
def test_users_of_one_value_stay_together_and_of_two_values_apart(users: dict[str, dict[str, str]]) -> None:
    home = {user: name for name, group in partition(users, 1).items() for user in group}
    cell = {user: row.get("silo_region", "").strip() for user, row in users.items()}
    for one in users:
        for two in users:
            assert (home[one] == home[two]) == (cell[one] == cell[two])


@given(tables, st.randoms())
def test_the_order_of_the_users_does_not_matter(users: dict[str, dict[str, str]], random: Random) -> None:
    names = list(users)
    random.shuffle(names)
    assert list(partition({name: users[name] for name in names}, 3).items()) == list(partition(users, 3).items())


@given(st.text(max_size=80))
def test_a_slug_is_a_folder_name_and_its_own_slug(text: str) -> None:
    name = slug(text)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= LONGEST_NAME
    assert slug(name) == name


def test_users_without_a_value_form_the_partner_unknown() -> None:
    users = {"a": {"silo_region": "Unknown"}, "b": {}, "c": {"silo_region": "  "}}
    assert partition_by_column(users, "silo_region", minimum_users=1) == {"unknown": ["b", "c"], "unknown-2": ["a"]}


def test_small_partners_are_merged_and_a_region_called_others_is_not_confused_with_them() -> None:
    users = {f"u{n}": {"silo_region": "Others"} for n in range(5)} | {"x": {"silo_region": "a"}, "y": {}}
    groups = partition_by_column(users, "silo_region", minimum_users=3)
    assert groups == {"others": ["x", "y"], "others-2": ["u0", "u1", "u2", "u3", "u4"]}


def test_a_column_that_nobody_has_is_refused_with_the_columns_there_are() -> None:
    with pytest.raises(UsageError, match=r"'silo_land'.*\['silo_region'\]"):
        partition_by_column({"a": {"silo_region": "north"}}, "silo_land")


def test_a_minimum_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="minimum_users is 0"):
        partition_by_column({"a": {"silo_region": "north"}}, "silo_region", minimum_users=0)


@given(st.sets(ids, min_size=1, max_size=60), st.data(), st.integers(0, 9))
def test_even_partners_hold_everyone_once_and_differ_by_at_most_one(
    users: set[str], data: st.DataObject, seed: int
) -> None:
    partners = data.draw(st.integers(1, len(users)))
    groups = partition_evenly(users, partners, seed)
    sizes = [len(group) for group in groups.values()]
    assert sorted(user for group in groups.values() for user in group) == sorted(users)
    assert len(sizes) == partners
    assert max(sizes) - min(sizes) <= 1
    assert groups == partition_evenly(sorted(users, reverse=True), partners, seed)


def test_even_partners_depend_on_the_seed() -> None:
    users = [f"u{number}" for number in range(40)]
    assert partition_evenly(users, 4, 0) != partition_evenly(users, 4, 1)


@pytest.mark.parametrize("partners", [0, -1, 4])
def test_a_number_of_partners_outside_the_users_is_refused(partners: int) -> None:
    with pytest.raises(UsageError, match=rf"{partners} partners for 3 users"):
        partition_evenly(["a", "b", "c"], partners, 0)


ROWS = [(7, 1, 100), (8, 1, 101), (7, 2, 102), (9, 3, 103), (11, 1, 104)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A partner folder with integer ids in which user 11 has no row in the users table."""
    folder = tmp_path / "source"
    folder.mkdir()
    users, items, times = zip(*ROWS, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), folder / "interactions.parquet")
    pq.write_table(
        pa.table({"item_id": [1, 2, 3], "title": list("abc"), "text": list("def")}), folder / "items.parquet"
    )
    regions = pa.table({"user_id": [7, 8, 9, 10], "silo_region": ["North", "South", "North", None]})
    pq.write_table(regions, folder / "users.parquet")
    return folder


def test_users_are_those_of_both_tables_with_their_values_as_text(source: Path) -> None:
    assert read_users(source) == {
        "7": {"silo_region": "North"},
        "8": {"silo_region": "South"},
        "9": {"silo_region": "North"},
        "10": {"silo_region": ""},
        "11": {},
    }


def test_sites_hold_their_own_rows_and_together_all_rows(source: Path, tmp_path: Path) -> None:
    groups = partition_by_column(read_users(source), "silo_region", minimum_users=1)
    folders = write_sites(source, tmp_path / "run", groups)
    assert [folder.relative_to(tmp_path / "run").as_posix() for folder in folders] == [
        "sites/north/data",
        "sites/south/data",
        "sites/unknown/data",
    ]
    seen = []
    for folder, members in zip(folders, groups.values(), strict=True):
        rows = [tuple(row.values()) for row in pq.read_table(folder / "interactions.parquet").to_pylist()]
        known = pq.read_table(folder / "users.parquet")["user_id"].to_pylist()
        assert {str(row[0]) for row in rows} <= set(members)
        assert {str(user) for user in known} <= set(members)
        seen += rows
    assert sorted(seen) == sorted(ROWS)


def test_the_public_catalogue_stays_where_it_is_and_its_place_is_recorded(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "run"
    write_sites(source, workspace, {"all": ["7", "8", "9"]})
    assert catalogue_of(workspace) == source.resolve()
    assert {path.name for path in workspace.rglob("*") if path.is_file()} == {
        "catalogue.json",
        "interactions.parquet",
        "users.parquet",
    }


def test_a_folder_of_csv_files_is_split_as_well(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, rows in (
        ("interactions", [("user_id", "item_id", "timestamp"), ("007", "a", "1"), ("7", "a", "2")]),
        ("items", [("item_id", "title", "text"), ("a", "b", "c")]),
    ):
        with (source / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    one, two = write_sites(source, tmp_path, {"one": ["007"], "two": ["7"]})
    assert pq.read_table(one / "interactions.parquet")["timestamp"].to_pylist() == ["1"]
    assert pq.read_table(two / "interactions.parquet")["timestamp"].to_pylist() == ["2"]
    assert not (one / "users.parquet").exists()


def test_a_user_at_two_partners_is_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two partners, a and b"):
        write_sites(source, tmp_path / "run", {"a": ["7"], "b": ["8", "7"]})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a b", "-a", "a\n"])
def test_a_partner_name_that_is_no_safe_folder_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no safe folder name"):
        write_sites(source, tmp_path / "run", {name: ["7"]})


@pytest.mark.parametrize("missing", ["interactions", "items"])
def test_a_folder_without_a_table_is_refused_by_name(source: Path, tmp_path: Path, missing: str) -> None:
    (source / f"{missing}.parquet").unlink()
    with pytest.raises(DataError, match=missing):
        write_sites(source, tmp_path / "run", {"a": ["7"]})


def test_a_workspace_without_a_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no catalogue"):
        catalogue_of(tmp_path)
    (tmp_path / "catalogue.json").write_text(json.dumps({"catalogue": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match="not a folder"):
        catalogue_of(tmp_path)


def test_real_partners_hold_every_user_once(xwines: Path) -> None:
    users = read_users(xwines)
    groups = partition_by_column(users, "silo_country")
    assert sorted(user for group in groups.values() for user in group) == sorted(users)
    assert min(len(group) for name, group in groups.items() if name != OTHERS) >= 50
