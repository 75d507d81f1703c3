"""The page for operators is true: its commands run as they are written, one after the other.

Lines of `mmrec` are run in the order of the two pages, woven together where one side waits for the other. Of the
system's own commands, names and files are compared.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmrec_model import cli
from mmrec_model.config import EncoderConfig, ModelConfig, PrivacyConfig, RunConfig, TrainingConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.features.bundle import build_bundle
from mmrec_model.features.folder import open_bundle

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operate.md").read_text()
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
ELSEWHERE = "mmrec self-test"
"""Run by test_documents.py, as a command of the page on the private step."""
SYSTEM = {
    *("cd", "curl", "docker", "install", "journalctl", "ln", "mmrec", "python3.11", "systemctl", "tail", "useradd"),
    "/opt/mmrec-0.1.0/bin/pip",
}


def lines(text: str) -> list[str]:
    return [line for block in BLOCK.findall(text) for line in block.splitlines()]


def section(title: str) -> list[str]:
    """The commands of `mmrec` below a heading."""
    text = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in lines(text) if line.startswith("mmrec ") and line != ELSEWHERE]


class Life:
    """A folder in place of /srv/mmrec, in which commands are run."""

    def __init__(self, folder: Path) -> None:
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][cli.COMMAND_GROUP]
        self._app = cli.build_app(EntryPoint(name, place, cli.COMMAND_GROUP) for name, place in declared.items())
        self._folder = folder
        self._words: dict[str, str] = {}

    def run(self, commands: Iterable[str]) -> None:
        for command in commands:
            words = [word.replace("/srv/mmrec", str(self._folder)) for word in shlex.split(command)[1:]]
            done = CliRunner().invoke(self._app, [self._words.get(word, word) for word in words])
            assert done.exit_code == 0, (command, done.output, done.exception)
            for file, variable in (
                ("federation.json", "$FEDERATION_FINGERPRINT"),
                ("enrolment.json", "$ENROLMENT_FINGERPRINT"),
            ):
                if found := re.search(rf"Fingerprint of {file}: (\S+)", done.output):
                    self._words[variable] = found[1]
                    shutil.copyfile(next(self._folder.rglob(file)), file)


def write_plan(bundle: Path) -> None:
    config = RunConfig(
        run_id="run-1",
        seed=0,
        features=open_bundle(bundle).spec,
        model=ModelConfig(hidden=4, trained_dims=4),
        training=TrainingConfig(rounds=1, local_steps=1, max_history=4, negatives=3, sample_rate=0.3),
        privacy=PrivacyConfig(epsilon=4.0, delta=1e-5, noise_multiplier=3.0, popularity_noise_multiplier=6.0),
        minimum_cohort=2,
    )
    Path("plan.json").write_text(config.model_dump_json())


def cut(commands: list[str], word: str) -> tuple[list[str], list[str]]:
    """What stands before the first command with the word, and the rest."""
    place = next(number for number, command in enumerate(commands) if word in shlex.split(command))
    return commands[:place], commands[place:]


def test_the_commands_of_both_pages_run_one_after_the_other(
    small_partner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_partner, "shop")
    encoders, transform = [EncoderConfig(modality="image")], TransformConfig(dims=4)
    build_bundle(open_catalogue(Path("shop")), Path("bundle"), encoders=encoders, transform=transform, store=tmp_path)
    write_plan(Path("bundle"))
    life = Life(tmp_path / "srv")
    founding, coordinating = cut(section("The coordinator"), "enrol")
    joining, taking_part = cut(section("The partner"), "dry-run")
    enrolling, ending = coordinating[:1], coordinating[1:]
    for commands in (founding, joining, enrolling, taking_part, ending):
        assert commands
        life.run(commands)
    site, coordinator = tmp_path / "srv" / "north", tmp_path / "srv" / "federation" / "coordinator"
    assert (site / "leaving.json").is_file()
    assert '"reason":"left the federation"' in (coordinator / "partners.json").read_text().replace(": ", ":")


def test_the_systems_commands_are_known_ones_and_the_files_that_they_name_exist() -> None:
    assert {re.split(r"\s", line)[0] for line in lines(PAGE)} <= SYSTEM
    named = re.findall(r"\bdeploy/[\w@./-]*\w", PAGE)
    assert len(set(named)) >= 6
    assert [name for name in named if not (ROOT / name).exists()] == []
    units = {unit.name.removesuffix(".service") for unit in (ROOT / "deploy" / "systemd").iterdir()}
    called = {
        word for line in lines(PAGE) if line.startswith("systemctl") for word in line.split()[1:] if "mmrec" in word
    }
    assert {re.sub(r"@.*", "@", word) for word in called} == units


def test_the_version_in_paths_and_image_is_the_packages() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    texts = [PAGE, *(path.read_text() for path in (ROOT / "deploy" / "container").iterdir())]
    found = {name for text in texts for name in re.findall(r"mmrec[:-](\d+\.\d+\.\d+)", text)}
    assert found == {version}


@pytest.mark.slow
def test_the_example_trains_a_model_and_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    program = f'#!/bin/sh\nexec {sys.executable} -c "import sys; from mmrec_model.cli import main; main()" "$@"\n'
    (tmp_path / "mmrec").write_text(program)
    (tmp_path / "mmrec").chmod(0o700)
    environment = {
        **os.environ,
        "MMREC": str(tmp_path / "mmrec"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    script = ROOT / "examples" / "two_partners.sh"
    done = subprocess.run([script, folder], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "work" / "model" / "model.safetensors").is_file()
    assert done.stdout.count("== What it cost") == 2
    assert alive(folder) == []
    again = subprocess.run([script, folder], capture_output=True, text=True, env=environment, check=False)
    assert again.returncode != 0


def alive(folder: Path) -> list[str]:
    """Command lines that name the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found
