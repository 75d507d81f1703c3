"""The page of the importers: its commands run as written, and it names every format."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmrec_model.data import cli
from mmrec_model.data.importers.registry import AUTO, NAMES, SETS
from simulations.partition import MINIMUM_USERS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line.removeprefix("mmrec ") for block in BLOCKS for line in block.splitlines()]
FOLDERS = {
    "ml-100k": "movielens-100k",
    "ml-1m": "movielens-1m",
    "ml-32m": "movielens-csv",
    "beauty": "amazon-2023",
    "microlens": "microlens",
    "hm": "hm",
    "mind": "mind",
}


def app() -> typer.Typer:
    whole = typer.Typer()
    whole.callback()(lambda: None)
    cli.register(whole)
    return whole


def test_the_commands_of_the_page_run_in_its_order(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in FOLDERS.items():
        make(name, 40).rename(tmp_path / folder)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.csv").write_text("customer,sku,ts\nc,s,1600000000000\n")
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        done = CliRunner().invoke(app(), shlex.split(command))
        assert done.exit_code == 0, (command, done.output, done.exception)


def test_the_page_names_every_format_and_every_silo() -> None:
    names = [name for name in NAMES if name != AUTO] + [silo for kind in SETS for silo in kind.silos]
    assert [name for name in names if f"`{name}`" not in PAGE] == []


def test_small_silos_are_those_that_a_simulation_merges() -> None:
    from mmrec_model.data.description import SMALL_SILO

    assert SMALL_SILO == MINIMUM_USERS
