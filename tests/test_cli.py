"""The command line: what it prints, how it ends, and what it does not load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmrec_model import cli
from mmrec_model.errors import BudgetExhausted, MmrecError, UsageError

HEAVY = ("torch", "torchvision", "transformers", "flwr", "opacus", "pyarrow", "matplotlib")


def refuse() -> None:
    raise BudgetExhausted("the plan costs epsilon 9, 8 is left", remedy="Plan fewer rounds")


def misuse() -> None:
    raise UsageError("--partners is 0, the least is 1", remedy="Ask for 1 or more")


def interrupt() -> None:
    raise KeyboardInterrupt


def crash() -> None:
    raise ZeroDivisionError("secret detail")


def leave() -> None:
    raise typer.Exit(3)


def work() -> None:
    typer.echo("done")


BEHAVIOURS = (refuse, misuse, interrupt, crash, leave, work)


def register(app: typer.Typer) -> None:
    for behaviour in BEHAVIOURS:
        app.command(behaviour.__name__)(behaviour)


class Entry(EntryPoint):
    """An entry point whose object is at hand."""

    def load(self) -> object:
        return register


def entry(name: str = "behaviours") -> EntryPoint:
    return Entry(name, "tests:register", cli.COMMAND_GROUP)


def broken_entry(name: str) -> EntryPoint:
    return EntryPoint(name, "a_module_that_is_not_there:register", cli.COMMAND_GROUP)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call `main` with these arguments; returns exit status, stdout and stderr."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, entries: tuple[EntryPoint, ...] = (entry(),)) -> tuple[int, str, str]:
        monkeypatch.setattr(cli, "entry_points", lambda group: entries if group == cli.COMMAND_GROUP else ())
        monkeypatch.setattr(sys, "argv", ["mmrec", *arguments])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        output = capsys.readouterr()
        code = ending.value.code
        return (0 if code is None else int(code)), output.out, output.err

    return call


@pytest.mark.parametrize(
    ("command", "code"), [("work", 0), ("refuse", 1), ("crash", 1), ("misuse", 2), ("leave", 3), ("interrupt", 130)]
)
def test_every_ending_has_its_exit_status(run, command: str, code: int) -> None:
    assert run(command)[0] == code


def test_an_expected_error_shows_problem_and_remedy_and_no_traceback(run) -> None:
    _, out, err = run("refuse")
    assert out == ""
    assert err == "Error: the plan costs epsilon 9, 8 is left. Plan fewer rounds.\n"


def test_an_unexpected_error_is_one_line_that_names_the_file_with_the_traceback(run, tmp_path: Path) -> None:
    _, _, err = run("crash")
    (kept,) = tmp_path.glob("mmrec-*.log")
    assert err == f"Unexpected ZeroDivisionError; the traceback is in {kept}\n"
    assert "ZeroDivisionError: secret detail" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0, "a traceback can hold a user's data"


@pytest.mark.parametrize("command", ["refuse", "crash"])
def test_the_debug_variable_shows_the_traceback(run, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    assert "Traceback (most recent call last)" in run(command)[2]


def test_an_interrupt_says_so_in_one_line(run) -> None:
    assert run("interrupt")[2] == "Interrupted.\n"


def test_the_version_is_that_of_the_distribution(run) -> None:
    assert run("--version")[:2] == (0, f"mmrec {version('mmrec')}\n")


@pytest.mark.parametrize("arguments", [("nothing-of-this-name",), ("work", "--unknown")])
def test_wrong_arguments_end_with_2(run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


def test_a_command_that_cannot_be_loaded_leaves_the_others_alone(run) -> None:
    entries = (broken_entry("aaa"), entry(), broken_entry("zzz"))
    assert run("work", entries=entries)[:2] == (0, "done\n")


def test_a_command_that_cannot_be_loaded_says_why_when_called(run) -> None:
    code, _, err = run("aaa", "--any", "argument", "--help", entries=(broken_entry("aaa"), entry()))
    assert code == 1
    assert "ModuleNotFoundError" in err
    assert "a_module_that_is_not_there" in err
    assert "Traceback" not in err


def test_the_help_names_what_is_unavailable() -> None:
    output = CliRunner().invoke(cli.build_app([broken_entry("aaa"), entry()]), ["--help"]).output
    assert re.search(r"aaa.*unavailable", output)
    assert "work" in output


def test_every_error_of_the_tree_ends_with_a_status_above_zero() -> None:
    def tree(kind: type[MmrecError]) -> set[type[MmrecError]]:
        return {kind}.union(*(tree(child) for child in kind.__subclasses__()))

    assert {kind.exit_code for kind in tree(MmrecError)} <= {1, 2}


def test_help_loads_nothing_heavy(repository: Path) -> None:
    script = (
        "import sys; from mmrec_model import cli; sys.argv = ['mmrec', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit as ending: code = ending.code\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules], 'code:', code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "loaded: [] code: 0"
