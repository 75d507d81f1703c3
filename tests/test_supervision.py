"""Programs are kept running, what they say is kept, and nothing of them outlives the supervisor."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mmrec_model.supervision import Program, json_lines, stopped_by_signals, supervise

Events = list[Mapping[str, object]]


def program(folder: Path, code: str, **environment: str) -> Program:
    return Program("fake", (sys.executable, "-c", code), environment, folder)


def supervised(programs: list[Program], until: Callable[[Events], bool]) -> Events:
    """What happened until the condition held; at most 20 s."""
    events: Events = []
    stop = threading.Event()
    thread = threading.Thread(
        target=supervise, args=(programs, stop, events.append), kwargs={"pauses": (0.1,), "stop_seconds": 1.0}
    )
    thread.start()
    end = time.monotonic() + 20
    while not until(events) and time.monotonic() < end:
        time.sleep(0.05)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    return events


def count(events: Events, name: str) -> int:
    return sum(event["event"] == name for event in events)


def test_a_program_that_ends_is_started_again_and_its_words_and_status_are_kept(tmp_path: Path) -> None:
    code = (
        "import os; print('\\x1b[92mhello\\x1b[0m', os.environ.get('OWN'), 'HOME' in os.environ); raise SystemExit(3)"
    )
    events = supervised([program(tmp_path, code, OWN="yes")], lambda seen: count(seen, "ended") >= 2)
    assert count(events, "started") >= 2
    assert [event["code"] for event in events if event["event"] == "ended"][:2] == [3, 3]
    assert {event["text"] for event in events if event["event"] == "said"} == {"hello yes False"}


def test_a_program_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    absent = Program("absent", (str(tmp_path / "none"),), {}, tmp_path)
    events = supervised([absent], lambda seen: count(seen, "not started") >= 2)
    assert count(events, "not started") >= 2


def test_the_end_reaches_what_a_program_started_even_if_it_does_not_listen(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    code = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {deaf!r}])\n"
        "print(p.pid, flush=True)\ntime.sleep(60)"
    )
    events = supervised([program(tmp_path, code)], lambda seen: count(seen, "said") >= 2)
    child = next(
        int(str(event["text"])) for event in events if event["event"] == "said" and str(event["text"]).isdigit()
    )
    assert count(events, "stopped") == 1
    state = Path(f"/proc/{child}/stat")
    end = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_sigterm_stops_and_the_former_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    assert signal.getsignal(signal.SIGTERM) == before


def test_every_line_of_the_log_is_json_with_its_moment(tmp_path: Path) -> None:
    with json_lines(tmp_path / "log" / "x.jsonl") as note:
        note({"program": "a", "event": "said", "text": 'quote " and % and \n line'})
        note({"program": "b", "event": "started", "pid": 3})
    lines = [json.loads(line) for line in (tmp_path / "log" / "x.jsonl").read_text().splitlines()]
    assert [line["program"] for line in lines] == ["a", "b"]
    assert all("at" in line for line in lines)
