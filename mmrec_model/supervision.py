"""Programs that must go on: started together, started again when they end, and ended together.

1. Each program is a session of its own. When it ends, or is to end, so does every process of its session's group: what
   it started never outlives it.
2. A program that ends is started again after a pause; the pauses grow, their last one repeats. One that ran for
   `SETTLED` seconds begins with the shortest again.
3. What the programs say goes line by line into a log of JSON lines of bounded size, beside starts and ends.
4. The environment of a program is the one that is given, nothing of this process's own.

A supervisor that is killed itself ends nothing; for that there is the service manager's control group.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, TypeAlias

PAUSES: Final = (2.0, 10.0, 20.0, 30.0)
"""Seconds; together longer than the minute in which Flower 1.41 does not let a killed node log in again."""
SETTLED: Final = 120.0
_STOP_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 0.2
_LOG_BYTES: Final = 10_000_000
_LOG_FILES: Final = 5
_MOST_TEXT: Final = 4000
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")

Note: TypeAlias = Callable[[Mapping[str, object]], None]
"""Takes one event or line: `program`, `event`, and what belongs to it."""


@dataclass(frozen=True)
class Program:
    """What is to run.

    Attributes:
        name: in the log.
        command: program and words.
        environment: all of it.
        folder: where it runs.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


class _Running:
    """One program: its process, and when it is to start again."""

    def __init__(self, program: Program, note: Note, pauses: Sequence[float]) -> None:
        self._program, self._note, self._pauses = program, note, pauses
        self._process: subprocess.Popen[bytes] | None = None
        self._due, self._began, self._ends = 0.0, 0.0, 0

    def look(self, now: float) -> None:
        """Start what is due; see what has ended."""
        if self._process is None:
            if now >= self._due:
                self._start(now)
        elif (code := self._process.poll()) is not None:
            self._end_group(signal.SIGKILL)
            self._ends = 1 if now - self._began >= SETTLED else self._ends + 1
            pause = self._pauses[min(self._ends, len(self._pauses)) - 1]
            self._due, self._process = now + pause, None
            self._say("ended", code=code, again_in_seconds=pause)

    def ask_to_end(self) -> None:
        self._end_group(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Wait for the process until `deadline`, then end all that is left of its group."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self._end_group(signal.SIGKILL)
        self._say("stopped", code=self._process.wait())
        self._process = None

    def _start(self, now: float) -> None:
        program = self._program
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the words are this package's own
                program.command,
                cwd=program.folder,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._ends += 1
            self._due = now + self._pauses[min(self._ends, len(self._pauses)) - 1]
            self._say("not started", problem=str(error))
            return
        self._began = now
        self._say("started", pid=self._process.pid)
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout as stream:
            for line in stream:
                text = _COLOURS.sub("", line.decode(errors="replace")).rstrip()[:_MOST_TEXT]
                if text:
                    self._say("said", text=text)

    def _end_group(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _say(self, event: str, **facts: object) -> None:
        self._note({"program": self._program.name, "event": event, **facts})


def supervise(
    programs: Sequence[Program],
    stop: threading.Event,
    note: Note,
    *,
    pauses: Sequence[float] = PAUSES,
    stop_seconds: float = _STOP_SECONDS,
) -> None:
    """Keep programs running until `stop` is set; then end all of them.

    Args:
        programs: in the order in which they are started.
        stop: ends the call.
        note: is told of everything, from several threads.
        pauses: seconds before the first, second, ... start again; the last one repeats.
        stop_seconds: what the programs have to end by themselves.
    """
    running = [_Running(program, note, pauses) for program in programs]
    try:
        while not stop.is_set():
            for one in running:
                one.look(time.monotonic())
            stop.wait(_LOOK_SECONDS)
    finally:
        for one in running:
            one.ask_to_end()
        deadline = time.monotonic() + stop_seconds
        for one in running:
            one.end(deadline)


@contextmanager
def json_lines(path: Path) -> Iterator[Note]:
    """A log of JSON lines, at most some 60 MB with its former parts; each line has its moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8")

    def note(event: Mapping[str, object]) -> None:
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **event})
        handler.handle(logging.makeLogRecord({"msg": line, "levelno": logging.INFO}))

    try:
        yield note
    finally:
        handler.close()


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; what they did before comes back afterwards."""
    stop = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda _number, _frame: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
