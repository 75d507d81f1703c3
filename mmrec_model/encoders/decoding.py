"""Media files decoded ahead of the network, in the caller or in worker processes, in order and in bounded memory.

Promises:
1. The answers come in the order of the paths, and are the same for any number of workers.
2. At most `ahead` files beyond the one handed out are decoded.
3. A worker that dies or hangs costs its file at most: the file is tried once more in a fresh process, then reported
   with its name and counted as unreadable, and the others go on.
4. A worker imports no torch; what it answers is read as plain arrays (`mmrec_model.encoders.reading`).

Processes, not threads, because the code around libsndfile, scipy and FFmpeg holds the interpreter's lock, and because a
decoder that crashes on a hostile file must not take the run with it; docs/features.md has figures.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, TypeVar

from mmrec_model.encoders.reading import Arrays, Reading, read, read_answer, write_request

PATIENCE_SECONDS = 600.0
"""A worker that is silent for longer is taken for hung; decoding of the longest film allowed stays well below."""

_FAREWELL_SECONDS = 1.0
_ATTEMPTS = 2
_PIPE_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 16
_log = logging.getLogger(__name__)

Medium = TypeVar("Medium")


class Decoder(Generic[Medium]):
    """Reads files one way and finishes each for its network, ahead of the caller.

    Args:
        reading: what is read of every file.
        finish: makes the network's input of the arrays; runs beside the network, in one thread per worker.
        workers: processes that decode; 0 decodes in the caller, when asked.
        ahead: files decoded beyond the one handed out, where there are workers.
    """

    def __init__(self, reading: Reading, finish: Callable[[Arrays], Medium], *, workers: int, ahead: int) -> None:
        self._reading, self._finish, self._ahead = reading, finish, workers + ahead
        self._workers = _Workers(workers) if workers else None

    def decode(self, paths: Iterable[Path]) -> Iterator[Medium | None]:
        """What the network reads of every file, in order; None where a file is unreadable."""
        if self._workers is None:
            yield from (self._settle(read(self._reading, path)) for path in paths)
            return
        pending: deque[Future[Medium | None]] = deque()
        try:
            for path in paths:
                pending.append(self._workers.threads.submit(self._decode_one, self._workers, path))
                if len(pending) > self._ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _decode_one(self, workers: _Workers, path: Path) -> Medium | None:
        return self._settle(workers.read(self._reading, path))

    def _settle(self, arrays: Arrays | None) -> Medium | None:
        return None if arrays is None else self._finish(arrays)


class _Workers:
    """As many processes as threads; each thread borrows a process for a file."""

    def __init__(self, count: int) -> None:
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="decoding")
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for _ in range(count):
            self._idle.put(_Worker())
        weakref.finalize(self, self.threads.shutdown, wait=False, cancel_futures=True)

    def read(self, reading: Reading, path: Path) -> Arrays | None:
        worker = self._idle.get()
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    return worker.read(reading, path)
                except (OSError, EOFError, ValueError, KeyError, TypeError, TimeoutError) as error:
                    ending = worker.stop()
                    _log.warning(
                        "a decoding process ended (%s, status %s) on %s; %s",
                        type(error).__name__, ending, path,
                        "trying once more" if attempt + 1 < _ATTEMPTS else "counted as unreadable",
                    )  # fmt: skip
            return None
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, started when it is first needed and again after it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, reading: Reading, path: Path) -> Arrays | None:
        """The arrays of a file; see `reading.read`.

        Raises:
            OSError, EOFError, ValueError, KeyError, TypeError, TimeoutError: the process ended, hung or sent nonsense.
        """
        if self._process is None:
            self._process = _start()
            weakref.finalize(self, _end, self._process)
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise EOFError
        write_request(requests, reading, path)
        if not select.select([answers], [], [], PATIENCE_SECONDS)[0]:
            raise TimeoutError
        return read_answer(answers)

    def stop(self) -> int | None:
        """End the process and return its exit status, negative for a signal, None if it hung."""
        process, self._process = self._process, None
        return None if process is None else _end(process)


def _start() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "mmrec_model.encoders.decoding_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        pipesize=_PIPE_BYTES,
        bufsize=_BUFFER_BYTES,
    )


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """Let a process end, or kill it; its exit status, or None if it had to be killed."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    try:
        return process.wait(_FAREWELL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
