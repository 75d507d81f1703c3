"""A submitted run: a bundle without code, its digest told, and an end that is Flower's real one."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from mmrec_model.errors import ConfigError, UsageError
from server import flower_programs
from server.flower_programs import Connection, FlowerFailed, coordinator_environment, coordinator_programs
from server.submission import RunFailed, make_bundle, submit, wait_for_end


def test_the_bundle_holds_no_code_and_its_told_digest_is_that_of_the_bytes_that_flower_sends(tmp_path: Path) -> None:
    digest = make_bundle(tmp_path)
    content = build_fab_from_disk(tmp_path / "flower" / "mmrec-run")
    assert hashlib.sha256(content).hexdigest() == digest
    assert json.loads((tmp_path / "bundle.json").read_text()) == {"sha256": digest, "bytes": len(content)}
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ["pyproject.toml", ".info/CONTENT"]
    assert make_bundle(tmp_path) == digest


def test_what_lies_in_the_folder_of_the_app_changes_no_bundle(tmp_path: Path) -> None:
    digest = make_bundle(tmp_path)
    (tmp_path / "flower" / "mmrec-run" / "client.py").write_text("raise RuntimeError\n")
    assert make_bundle(tmp_path) == digest


def test_the_coordinators_programs_are_quiet_and_on_loopback(tmp_path: Path) -> None:
    link, executor = coordinator_programs(tmp_path, port=9123)
    assert link.command[0].endswith("/flower-superlink")
    assert executor.command[0].endswith("/flower-superexec")
    assert link.command[link.command.index("--host") + 1] == "127.0.0.1"
    assert "127.0.0.1:9123" in executor.command
    for program in (link, executor):
        assert "--insecure" not in program.command
        assert program.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert program.environment["FLWR_HOME"] == str(tmp_path / "flower")
    with pytest.raises(UsageError, match="port"):
        coordinator_programs(tmp_path, port=0)
    assert coordinator_environment(tmp_path)["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


class Told(Connection):
    """A connection whose runs have the given statuses, one per question; the last stays."""

    statuses: Iterator[tuple[str, str]]

    def status(self, run_id: str) -> tuple[str, str]:
        return next(self.statuses)


def told(folder: Path, *statuses: tuple[str, str]) -> Told:
    connection = Told(folder, 9)
    object.__setattr__(connection, "statuses", iter(statuses))
    return connection


def test_a_run_that_completes_leads_to_its_export(tmp_path: Path) -> None:
    slept: list[float] = []
    connection = told(tmp_path, ("pending", ""), ("running", ""), ("finished:completed", ""))
    assert wait_for_end(connection, "1", sleep=slept.append) == tmp_path / "final.safetensors"
    assert slept


@pytest.mark.parametrize("status", ["finished:failed", "finished:stopped", "finished:no one knows"])
def test_a_run_that_ends_otherwise_fails_with_flowers_reason(tmp_path: Path, status: str) -> None:
    with pytest.raises(RunFailed, match=f"{status}.*the reason"):
        wait_for_end(told(tmp_path, ("running", ""), (status, "the reason")), "1", sleep=lambda _: None)


def test_the_end_in_the_journal_is_followed_by_a_question_at_once(tmp_path: Path) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        (tmp_path / "run.jsonl").write_text('{"event": "finished"}\n')

    wait_for_end(told(tmp_path, ("running", ""), ("finished:completed", "")), "1", sleep=sleep)
    assert len(slept) == 2


def answering(monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    def ran(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, text, "")

    monkeypatch.setattr(flower_programs.subprocess, "run", ran)


def test_only_what_flower_lists_is_a_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection.open(tmp_path, port=9)
    answering(monkeypatch, 0, 'a notice\n{"runs": [{"status": "finished:failed", "status-details": "why"}]}')
    assert connection.status("1") == ("finished:failed", "why")
    for text in ("", "no json", '{"runs": []}', '{"success": false}', "[]"):
        answering(monkeypatch, 0, text)
        with pytest.raises(FlowerFailed):
            connection.status("1")


def test_a_plan_that_is_none_is_not_submitted(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ConfigError):
        submit(Connection(tmp_path / "coordinator", 9), tmp_path / "plan.json")
    assert not (tmp_path / "coordinator").exists()


def test_a_superlink_that_does_not_answer_is_not_up(tmp_path: Path) -> None:
    assert not Connection(tmp_path, 9).is_up()
