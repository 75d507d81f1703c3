"""The documents are true: links lead somewhere, targets exist, and commands run as they are written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
