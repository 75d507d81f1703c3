"""A snapshot that could not be read is said to the reader of the report, by its round and without a place."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from server.journal import Journal
from simulations.notes import notes


def assessed(*rounds: int) -> Any:
    return SimpleNamespace(rounds=[SimpleNamespace(round=number) for number in rounds])


def test_a_run_whose_snapshots_were_whole_has_no_notes(tmp_path: Path) -> None:
    Journal(tmp_path / "run.jsonl").write("resumed", round=1, damaged=[])
    assert notes(tmp_path, assessed(0, 1, 2), rounds=2) == ()


def test_every_snapshot_that_was_missed_is_named_by_its_round_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run.jsonl")
    journal.write("resumed", round=1, damaged=["00002: [Errno 2] No such file: '/home/x/rounds/00002.safetensors'"])
    journal.write("averaged", round=5, left_out={3: "of /home/x", 4: "of /home/x"})
    told = notes(tmp_path, assessed(0, 1, 3, 5), rounds=5)
    assert [text.count("snapshot of round 2") + text.count("snapshots of rounds") for text in told] == [1, 1, 1]
    assert "rounds 3, 4" in told[1]
    assert "rounds 2, 4" in told[2]
    assert "/home" not in json.dumps(told)
