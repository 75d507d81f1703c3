"""A rule at a federation: every site finds its part of the same split pinned in its own data."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.dataset import open_partner
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.writing import write_partner
from simulations.panels import panel_of
from simulations.partition import partition_evenly, read_users, write_sites


@pytest.mark.parametrize("rule", ["leave-last-out", "user-time:0.2,0.4", "global-time:1600000001,1600000003+cold:0.2"])
def test_sites_hold_the_parts_that_the_rule_gives_the_whole(small_partner: Path, tmp_path: Path, rule: str) -> None:
    groups = partition_evenly(list(read_users(small_partner)), 3, 0)
    folders = write_sites(small_partner, tmp_path, groups, SplitRule.parse(rule))
    catalogue = open_catalogue(small_partner)
    whole = open_partner(small_partner, catalogue=catalogue, split=SplitRule.parse(rule))
    sites = [open_partner(folder, catalogue=catalogue) for folder in folders]
    assert sum(map(len, sites)) == len(whole)
    for site in sites:
        assert not site.report.quarantined
        for here, user in enumerate(site.user_ids):
            there = whole.user_ids.index(user)
            for part in ("train", "val_items", "test_items", "cold_items"):
                assert getattr(site, part).of(here).tolist() == getattr(whole, part).of(there).tolist(), part
    for part in ("val", "test", "cold"):
        panel = panel_of(sites, part)  # type: ignore[arg-type]
        held_out = getattr(whole, f"{part}_items")
        assert panel.task.flat_targets.size == held_out.items.size


def test_a_rule_replaces_what_the_source_pins_and_impressions_stay_without_a_part(tmp_path: Path) -> None:
    items = pa.table({name: ["a", "b", "c"] for name in ("item_id", "title", "text")})
    rows = pa.table({
        "user_id": ["u"] * 4, "item_id": ["a", "b", "c", "a"], "timestamp": [1, 2, 3, 4],
        "event": ["click", "click", "click", "impression"], "loo": ["test", "val", "train", None],
    })  # fmt: skip
    write_partner(tmp_path / "source", interactions=rows, items=items)
    (folder,) = write_sites(tmp_path / "source", tmp_path / "run", {"one": ["u"]}, SplitRule())
    assert pq.read_table(folder / "interactions.parquet")["loo"].to_pylist() == ["train", "val", "test", None]


def test_a_history_ends_before_what_is_asked_for(small_partner: Path) -> None:
    data = open_partner(small_partner, split=SplitRule.parse("user-time:0.2,0.4+cold:0.1"))
    for part, known in (("val", ("train",)), ("test", ("train", "val_items")), ("cold", ("train", "val_items"))):
        panel = panel_of([data], part)  # type: ignore[arg-type]
        wanted = getattr(data, f"{part}_items")
        users = [user for user in range(len(data)) if len(wanted.of(user))]
        assert len(users) == panel.task.users > 0
        for row, user in enumerate(users):
            history = [item for name in known for item in getattr(data, name).of(user).tolist()]
            assert panel.histories[row].tolist() == history
            assert panel.task.of(row).tolist() == wanted.of(user).tolist()
