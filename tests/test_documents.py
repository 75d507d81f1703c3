"""The documents are true: links lead somewhere, targets exist, and commands run as they are written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from client import operation_cli
from mmrec_model import cli, price_cli
from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.features.bundle import build_bundle
from simulations.small_site import make_small_sites

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(r"^(?:\.venv/bin/)?mmrec (.+?)(?:\s+#.*)?$", re.MULTILINE)
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
ELSEWHERE = "--engine flower"
"""Run by tests/federation/test_flwr_run.py, because it starts Ray."""


def commands(page: Path) -> list[str]:
    return [line for block in BLOCK.findall(page.read_text()) for line in COMMAND.findall(block)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_every_make_target_that_is_named_exists() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`?make ([a-z][a-z-]+)`?(?:\s|$|`|:)", page.read_text())}
    verbs = {name for name in named if name in known}
    assert {"simulate", "test"} <= verbs
    in_blocks = {
        name
        for page in PAGES
        for block in BLOCK.findall(page.read_text())
        for name in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
    }
    assert in_blocks <= known


def test_the_readme_shows_the_main_commands() -> None:
    assert len(commands(ROOT / "README.md")) >= 3


@pytest.mark.parametrize("command", [c for c in commands(ROOT / "README.md") if ELSEWHERE not in c])
def test_every_command_of_the_readme_runs(command: str, small_partner: Path, tmp_path: Path) -> None:
    words = shlex.split(command)
    words = [str(small_partner) if word == "FOLDER" else word for word in words]
    words = [str(tmp_path / word) if word.startswith("runs/") else word for word in words]
    words += ["--rounds", "1", "--delta", "1e-3"] if "--help" not in words else []
    program = str(Path(sys.executable).parent / "mmrec")
    environment = {**os.environ, "MMREC_CACHE": str(small_partner.parent / "vectors")}
    done = subprocess.run([program, *words], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


SITE = ROOT / "tests" / "golden" / "ledger" / "good.jsonl"
QUICK_PAGES = [ROOT / "docs" / name for name in ("accounting.md", "private-step.md")]
"""Pages whose commands take seconds and need no data."""


@pytest.mark.parametrize("command", [command for page in QUICK_PAGES for command in commands(page)])
def test_every_command_of_the_privacy_pages_runs(command: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][cli.COMMAND_GROUP]
    app = cli.build_app(EntryPoint(name, place, cli.COMMAND_GROUP) for name, place in declared.items())
    words = [str(SITE) if word == "SITE/ledger.jsonl" else word for word in shlex.split(command)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout


def test_the_privacy_pages_show_their_commands() -> None:
    shown = [command.split()[0] for page in QUICK_PAGES for command in commands(page)]
    assert {"price", "self-test"} <= set(shown)


def test_the_figures_of_the_price_page_are_those_of_its_command() -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    price_cli.register(app)
    done = CliRunner().invoke(app, ["price", "--rate", ".2", "--noise", "1.1", "--steps", "50", "--json"])
    figures = [f"{row[name]:.4f}" for row in json.loads(done.stdout)["prices"] for name in ("epsilon", "replayed")]
    page = (ROOT / "docs" / "accounting.md").read_text()
    assert len(figures) == 20
    assert [figure for figure in figures if figure not in page] == []


def test_the_commands_of_the_deployment_page_run_one_after_the_other(
    small_partner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][cli.COMMAND_GROUP]
    app = cli.build_app(EntryPoint(name, place, cli.COMMAND_GROUP) for name, place in declared.items())
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_partner, "shop")
    encoders, transform = [EncoderConfig(modality="image")], TransformConfig(dims=4)
    build_bundle(open_catalogue(Path("shop")), Path("bundle"), encoders=encoders, transform=transform, store=tmp_path)
    words: dict[str, str] = {}
    ran = commands(ROOT / "docs" / "deployment.md")
    for command in ran:
        done = CliRunner().invoke(app, [words.get(word, word) for word in shlex.split(command)])
        assert done.exit_code == 0, (command, done.output, done.exception)
        for file, variable in (
            ("federation.json", "$FEDERATION_FINGERPRINT"),
            ("enrolment.json", "$ENROLMENT_FINGERPRINT"),
        ):
            if found := re.search(rf"Fingerprint of {file}: (\S+)", done.output):
                words[variable] = found[1]
                shutil.copyfile(next(Path().glob(f"*/{file}")), file)
    assert [word for command in ran for word in shlex.split(command)[:2] if word == "init"] == ["init", "init"]
    assert json.loads(Path("coordinator/partners.json").read_text())["north"]["revoked"]["reason"]


def test_the_commands_of_the_gateway_page_are_among_those_of_the_deployment_page() -> None:
    shown = commands(ROOT / "docs" / "gateway.md")
    assert shown
    assert set(shown) <= set(commands(ROOT / "docs" / "deployment.md"))


def test_the_commands_of_the_site_page_run_one_after_the_other(tmp_path: Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][cli.COMMAND_GROUP]
    app = cli.build_app(EntryPoint(name, place, cli.COMMAND_GROUP) for name, place in declared.items())
    small = make_small_sites(tmp_path)
    words = {"SITE": str(small.copy("operated")), "plan.json": str(small.plan)}
    ran = commands(ROOT / "docs" / "site.md")
    for command in ran:
        done = CliRunner().invoke(app, [words.get(word, word) for word in shlex.split(command)])
        assert done.exit_code == 0, (command, done.output, done.exception)
    shown = {command.split()[1] for command in ran}
    assert shown == {name for name, _ in operation_cli.COMMANDS}


@pytest.mark.parametrize("command", commands(ROOT / "docs" / "pretraining.md"))
def test_every_command_of_the_pretraining_page_runs(command: str, small_partner: Path, tmp_path: Path) -> None:
    words = [str(small_partner) if word == "FOLDER" else word for word in shlex.split(command)]
    words = [str(tmp_path / word) if word.startswith("runs/") else word for word in words]
    script = (
        "import typer; from mmrec_model.pretraining.cli import register; "
        "app = typer.Typer(); app.callback()(lambda: None); register(app); app()"
    )
    environment = {**os.environ, "MMREC_CACHE": str(small_partner.parent / "vectors")}
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, env=environment, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
