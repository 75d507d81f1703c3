"""A partner's client process that is told when to die: the real exit, the real ledger, a real SIGKILL.

    kill_worker.py PLAN SITE    PLAN is a `RunConfig` as JSON, SITE an enrolled site to warm up with; it is used up

One order per line on standard input, one line of JSON back when the client of that order has ended. Importing torch
takes seconds, so it happens once; a client that is to die then runs in a process of its own, forked from here before
any thread exists; one that is to live runs here. It answers POPULARITY and every TRAIN round of the plan, as one whose
coordinator asks all of them again after a restart, and writes down what the network saw: the digest of each reply, once
the reply was complete.

    {"site": folder, "coordinator": folder, "seen": file,
     "point": name | null, "nth": 1.., "delay": seconds | null, "mutant": bool}

`point` is where the process kills itself, at the `nth` time it gets there; `delay` is when it is killed from outside.
No disk is waited for: a killed process, unlike a machine without power, leaves its writes with the kernel.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from client import outbox, release
from client.pricing import price
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import popularity_event, training_event
from mmrec_model.privacy.files import AppendFile
from mmrec_model.privacy.ledger import Ledger
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import Arrays, Kind, Request, arrays_digest
from server.sites import Sites

Asked: TypeAlias = tuple[Kind, Request, Arrays]


class Fate:
    """Where this process is, said aloud after every step, and where it dies."""

    def __init__(self, report: int, point: str | None, nth: int) -> None:
        self.phase, self._syncs = "starting", 0
        self._report = report
        self._point = point
        self._left = nth

    def enter(self, phase: str) -> None:
        """Say that `phase` begins."""
        self.phase, self._syncs = phase, 0
        os.write(self._report, f"{phase}\n".encode())

    def is_due(self, point: str) -> bool:
        """Whether this is the time and place to die."""
        if point != self._point:
            return False
        self._left -= 1
        return self._left == 0

    def sync(self) -> None:
        """The first sync of an atomic write comes before the file has its name, the second one after."""
        self.strike(f"{self.phase} {'in place' if self._syncs else 'not synced'}")
        self._syncs += 1

    def strike(self, point: str) -> None:
        """Die here if it is due."""
        if self.is_due(point):
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(fate: Fate) -> None:
    """Put the named points into the real client."""
    append, reserve, draw, keep = AppendFile.append, Ledger.reserve, GaussianNoise.draw, outbox.keep

    def appended(file: AppendFile, content: bytes) -> None:
        kind = json.loads(content)["type"] if content.strip() else "newline"
        fate.enter(kind)
        fate.strike(f"{kind} not begun")
        for cut, point in ((len(content) // 2, "torn"), (len(content) - 1, "without newline")):
            if fate.is_due(f"{kind} {point}"):
                file._stream.write(content[:cut])
                die()
        append(file, content)
        fate.enter(f"{kind} head")

    def reserved(ledger: Ledger, **values: Any) -> Any:
        record = reserve(ledger, **values)
        fate.enter("working")
        fate.strike("reserve done")
        return record

    def drawn(noise: GaussianNoise, *values: Any) -> Any:
        fate.strike("noise being drawn")
        return draw(noise, *values)

    def kept(*values: Any) -> None:
        fate.enter("reply")
        keep(*values)
        fate.enter("reply kept")
        fate.strike("reply kept")

    def synced(_descriptor: int) -> None:
        fate.sync()

    AppendFile.append = appended  # type: ignore[method-assign, assignment]
    Ledger.reserve = reserved  # type: ignore[method-assign, assignment]
    GaussianNoise.draw = drawn  # type: ignore[method-assign, assignment]
    outbox.keep = kept  # type: ignore[assignment]
    os.fsync = synced  # type: ignore[assignment]


def requests(config: RunConfig) -> list[Asked]:
    """What a coordinator asks in a whole run; the global state of a round is a function of the round."""
    plan = config.model_dump_json()
    asked: list[Asked] = [(Kind.POPULARITY, Request(config.run_id, 0, plan), {})]
    for number in range(1, config.training.rounds + 1):
        state = {name: array + np.float32(0.01 * number) for name, array in initial_state(config).items()}
        state["prior"] = np.zeros(config.features.items, np.float32)
        asked.append((Kind.TRAIN, Request(config.run_id, number, plan, arrays_digest(state)), state))
    return asked


def take_part(root: Path, coordinator: Path, seen: Path, asked: list[Asked], fate: Fate) -> None:
    """Answer every request of a coordinator that signs them; what has left is in `seen`, one line per priced reply.

    The coordinator has files of its own. It dies with this process: then it never got the reply that was under way.
    """
    site = Site.open(root)
    with Sites.open(coordinator) as sites, seen.open("ab", buffering=0) as network:
        described = sites.describe(replace(asked[0][1], round=0))
        sites.admit(release.answer(site, Kind.DESCRIBE, described, {}).reply)
        for kind, request, arrays in asked:
            addressed = sites.address(kind, request, site.config.name)
            fate.enter("opening")
            fate.strike("ledger not opened")
            answer = release.answer(site, kind, addressed, arrays)
            fate.enter("answered")
            fate.strike("reply not sent")
            refusal = answer.reply.refusal
            what = f"refused {refusal}" if refusal else arrays_digest(answer.arrays)
            network.write(f"{request.round} {what}\n".encode())
            fate.enter("sent")
            fate.strike("reply sent")
            if not refusal:
                sites.admit(answer.reply)


def break_client() -> None:
    """Break the client on purpose: what it sends is not what it has committed."""
    honest = release.answer

    def answer(*values: Any) -> release.Answer:
        said = honest(*values)
        return replace(said, arrays={name: array + np.float32(1.0) for name, array in said.arrays.items()})

    release.answer = answer  # type: ignore[assignment]


def run_order(order: dict[str, Any], asked: list[Asked]) -> dict[str, object]:
    """Let one client live; how its process ended, in which phase, and after how long."""
    started = time.monotonic()
    if order["point"] is None and order["delay"] is None and not order["mutant"]:
        # Nobody is to be killed: this process, which shares no memory with the killed one, opens the site itself.
        with Path(os.devnull).open("wb") as nowhere:
            _live(order, asked, Fate(nowhere.fileno(), None, 1))
        return {"status": 0, "phase": "ended", "seconds": time.monotonic() - started}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _exit_after(lambda: _die(order, asked, Fate(writing, order["point"], order["nth"])))
    os.close(writing)
    phases = _watch(child, reading, order["delay"])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"status": status, "phase": phases[-1], "seconds": time.monotonic() - started}


def _watch(child: int, reading: int, delay: float | None) -> list[str]:
    """What the child says until it ends; it is killed after `delay` seconds."""
    deadline = None if delay is None else time.monotonic() + delay
    said = b"starting\n"
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)  # its parent has not waited for it yet: the number is its own
            deadline = None
        elif part := os.read(reading, 4096):
            said += part
        else:
            os.close(reading)
            return said.decode().split("\n")[:-1]


def _die(order: dict[str, Any], asked: list[Asked], fate: Fate) -> None:
    arm(fate)
    if order["mutant"]:
        break_client()
    _live(order, asked, fate)


def _live(order: dict[str, Any], asked: list[Asked], fate: Fate) -> None:
    take_part(Path(order["site"]), Path(order["coordinator"]), Path(order["seen"]), asked, fate)


def _exit_after(work: Callable[[], None]) -> None:
    """End a forked process without running what its parent has registered."""
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def warm_up(config: RunConfig, site: Path, asked: list[Asked]) -> None:
    """Do the expensive first times here, so that every forked process inherits them."""
    for kind, request, arrays in asked:
        release.answer(Site.open(site), kind, request, arrays)
    popularity = popularity_event(config.privacy)
    round_event = training_event(config.privacy, config.training, rounds=1)
    for lost in range(4):
        price((popularity,) * (1 + lost), config.privacy.delta)
        for rounds in range(1, config.training.rounds + 4):
            price((popularity,) * (1 + lost) + (round_event,) * rounds, config.privacy.delta)


def main(plan: str, site: str) -> None:
    torch.set_num_threads(1)
    logging.disable()  # refusals are part of the trials
    os.fsync = lambda _descriptor: None  # type: ignore[assignment]
    config = parse_config(RunConfig, Path(plan).read_text(encoding="utf-8"), source=plan)
    asked = requests(config)
    warm_up(config, Path(site), asked)
    gc.freeze()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run_order(json.loads(line), asked)) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
