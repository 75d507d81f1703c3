"""A crash, a cut file, a flipped bit, a second process: a record that was acknowledged is never lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmrec_model.canonical import sha256_hex
from mmrec_model.privacy.chain import read_chain, verify_next
from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.privacy.files import AppendFile
from mmrec_model.privacy.heads import Head
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import Ledger, read_ledger

BODIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "ledger" / "bodies.json").read_text()
)
SEED = bytes(range(32))
KEY = SigningKey.from_seed(SEED)
STEP = {"type": "sampled_gaussian", "sample_rate": 0.05, "noise_multiplier": 1.1, "steps": 20}


def small_ledger(path: Path) -> Head:
    with Ledger.create(path, KEY, BODIES["open"]) as ledger:
        ledger.append("plan", {**BODIES["plan"], "mechanisms": [], "hyper_parameters": {}})
        ledger.reserve(run_id="run-1", round_number=1, kind="train", mechanism=STEP, sensitivity=1.0)
        return ledger.head


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops below do not cut the power: no need to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("quick")
def test_with_a_known_head_a_ledger_cut_at_any_byte_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    head = small_ledger(path)
    content = path.read_bytes()
    first = content.index(b"\n")
    kept = path.with_suffix(".head").rename(tmp_path / "kept")
    for cut in range(len(content) - 1):
        path.write_bytes(content[:cut])
        known: list[dict[str, Any]] = [{"pinned": head}, *([{"head_path": kept}] if cut % 16 == 0 else [])]
        for heads in known:
            with pytest.raises(LedgerFault) as caught:
                Ledger.open(path, KEY, **heads)
            assert caught.value.code is (FaultCode.EMPTY if cut < first else FaultCode.ROLLBACK)
    assert path.read_bytes() == content[:-2]


@pytest.mark.usefixtures("quick")
def test_without_any_head_a_ledger_cut_at_any_byte_is_recovered_up_to_the_cut(tmp_path: Path) -> None:
    path, aside = tmp_path / "ledger.jsonl", tmp_path / "ledger.jsonl.torn-1"
    small_ledger(path)
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(ends[0] - 1, len(content)):
        whole = sum(cut >= end - 1 for end in ends)
        torn = content[ends[whole - 1] : cut]
        path.with_suffix(".head").unlink()
        path.write_bytes(content[:cut])
        with Ledger.open(path, KEY, accept_missing_head=True) as ledger:
            assert len(ledger.records) == whole + bool(torn)
            assert path.read_bytes().startswith(content[: ends[whole - 1]])
            if torn:
                assert aside.read_bytes() == torn
                assert ledger.records[-1].text("torn_digest") == sha256_hex(torn)
                aside.unlink()


def test_every_flipped_bit_of_a_record_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    *lines, last = path.read_bytes().splitlines()
    history = read_chain(b"".join(line + b"\n" for line in lines), KEY.public).history
    assert verify_next(history, last).type == "reserve"
    codes = set()
    for place in range(len(last)):
        for bit in range(8):
            with pytest.raises(LedgerFault) as caught:
                verify_next(history, last[:place] + bytes([last[place] ^ (1 << bit)]) + last[place + 1 :])
            codes.add(caught.value.code)
    assert codes >= {FaultCode.FORM, FaultCode.VERSION, FaultCode.PLACE, FaultCode.HASH, FaultCode.SIGNATURE}


def test_the_torn_bytes_of_every_crash_are_kept_and_accounted_for_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    for number, torn in enumerate((b'{"body":', b"\0" * 30, b"\xff"), start=1):
        with path.open("ab") as stream:
            stream.write(torn)
        for _ in range(2):
            with Ledger.open(path, KEY) as ledger:
                recovered = [record for record in ledger.records if record.type == "recovered"]
        assert len(recovered) == number
        assert path.with_name(recovered[-1].text("kept_as")).read_bytes() == torn
        assert recovered[-1].whole("torn_bytes") == len(torn)


@pytest.mark.parametrize("step", ["create_file", "cut", "append"])
def test_a_crash_during_recovery_loses_nothing(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    with path.open("ab") as stream:
        stream.write(b'{"body":')

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "create_file":
            patch.setattr("mmrec_model.privacy.journal.create_file", crash)
        else:
            patch.setattr(AppendFile, step, crash)
        with pytest.raises(KeyboardInterrupt):
            Ledger.open(path, KEY)
    with Ledger.open(path, KEY) as ledger:
        assert [record.type for record in ledger.records] == ["open", "plan", "reserve", "recovered"]
        assert path.with_name("ledger.jsonl.torn-1").read_bytes() == b'{"body":'
        assert not path.with_name("ledger.jsonl.torn-2").exists()


def test_a_crash_between_the_record_and_the_head_file_does_not_close_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    old = path.with_suffix(".head").read_bytes()
    with Ledger.open(path, KEY) as ledger:
        ledger.reserve(run_id="run-1", round_number=2, kind="train", mechanism=STEP, sensitivity=1.0)
    path.with_suffix(".head").write_bytes(old)
    with Ledger.open(path, KEY) as ledger:
        assert len(ledger.spent()) == 2
        assert path.with_suffix(".head").read_bytes() != old


def test_bytes_after_the_close_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    with Ledger.open(path, KEY) as ledger:
        ledger.append("close", {"run_id": None, "reason": "completed"})
    with path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(LedgerFault) as caught:
        Ledger.open(path, KEY)
    assert caught.value.code is FaultCode.TORN


def test_another_process_cannot_open_a_ledger_that_is_open_here(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from mmrec_model.privacy.faults import LedgerFault\n"
        "from mmrec_model.privacy.keys import SigningKey\n"
        "from mmrec_model.privacy.ledger import Ledger\n"
        "try:\n    Ledger.open(Path(sys.argv[1]), SigningKey.from_seed(bytes(range(32))))\n"
        "except LedgerFault as fault:\n    sys.exit(fault.code)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with Ledger.open(path, KEY):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.strip()) == (1, "locked")
    assert subprocess.run(command, check=False).returncode == 0


def test_a_forked_child_cannot_write_through_its_parents_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    with Ledger.open(path, KEY) as ledger:
        child = os.fork()
        if child == 0:
            try:
                ledger.append("code", BODIES["code"])
            except LedgerFault as fault:
                os._exit(7 if fault.code is FaultCode.BROKEN else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        ledger.append("code", BODIES["code"])
    assert len(read_ledger(path, KEY.public)) == 4


def spend_until_killed(path: Path, report: int, *, slowly: bool) -> None:
    """Child: reserve and commit for ever, and say each hash only after `append` returned."""
    if slowly:
        # One byte per system call: the kill tears lines, as a power cut would.
        write = AppendFile.append

        def dribble(file: AppendFile, content: bytes) -> None:
            for index in range(0, len(content), 7):
                write(file, content[index : index + 7])

        setattr(AppendFile, "append", dribble)  # noqa: B010
    with Ledger.open(path, KEY) as ledger:
        for round_number in range(1, 10**6):
            reserve = ledger.reserve(
                run_id="run-1", round_number=round_number, kind="train", mechanism=STEP, sensitivity=1.0
            )
            os.write(report, f"{reserve.hash}\n".encode())
            done = ledger.commit(
                reserve, update_digest="6" * 64, mechanism=STEP, sensitivity=1.0, steps_done=20, rng="simulated"
            )
            os.write(report, f"{done.hash}\n".encode())


def killed_child(path: Path, delay: float, *, slowly: bool) -> list[str]:
    """The hashes that a child acknowledged before `kill -9` ended it after `delay` seconds of work."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            spend_until_killed(path, writing, slowly=slowly)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.readline()
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        said += stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return said.decode().split()


def test_after_kill_9_at_random_points_every_acknowledged_record_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # kill -9 keeps what the kernel has
    path = tmp_path / "ledger.jsonl"
    small_ledger(path)
    chance = random.Random(5)  # noqa: S311
    acknowledged: list[str] = []
    for trial in range(20):
        acknowledged += killed_child(path, chance.uniform(0.0, 0.03), slowly=trial % 2 == 1)
        with Ledger.open(path, KEY) as ledger:
            hashes = {record.hash for record in ledger.records}
            assert hashes.issuperset(acknowledged)
            committed = sum(record.type == "commit" for record in ledger.records)
            assert len(ledger.spent()) == committed + len(ledger.dangling())
    torn = [record for record in read_ledger(path, KEY.public) if record.type == "recovered"]
    assert len(torn) == len(list(tmp_path.glob("ledger.jsonl.torn-*"))) >= 1
    assert len(acknowledged) >= 20
