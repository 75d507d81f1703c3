"""Kill a partner's real client process at many moments and count what its budget and its replies suffered.

A trial is one site with its own ledger: a process answers a whole run, is killed by SIGKILL once (at a named point, or
at a random time) or several times, and is started again until the run is over. Then it is judged, from the files and
from what the network saw alone, against four promises:

1. every reply that left is covered by a reserve of its own, for the mechanism that ran, written before (under-counted
   otherwise), and the budget is never exceeded;
2. a reply that the network has seen is never lost or changed: asked again, the same bytes are sent (lost otherwise);
3. the ledger opens and verifies, and a torn line is kept aside and accounted for;
4. what a crash did cost is on the ledger: a reserve without a commit (over-counted; the price of the order).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import IO

from mmrec_model.errors import UsageError
from simulations.kill_verdict import Verdict, judge
from simulations.small_site import SmallSites, make_small_sites

WORKER = Path(__file__).resolve().parents[1] / "tests" / "federation" / "kill_worker.py"
SEVERAL = "several kills at random"
_RECORDS = {"plan": 1, "countersign": 4, "reserve": 4, "commit": 4}
_CUTS = ("not begun", "torn", "without newline", "not synced", "head not synced", "head in place")
COSTLY = (
    "reserve without newline",
    "reserve not synced",
    "reserve head not synced",
    "reserve head in place",
    "reserve done",
    "noise being drawn",
    "reply not synced",
)
"""Where a kill costs budget: the reserve is in the file, the reply is not yet in the outbox."""
POINTS: dict[str, int] = {
    "ledger not opened": 4,
    "opening not synced": 4,
    **{f"{record} {cut}": times for record, times in _RECORDS.items() for cut in _CUTS},
    "reserve done": 4,
    "noise being drawn": 20,
    "reply not synced": 4,
    "reply in place": 4,
    "reply kept": 4,
    "reply not sent": 4,
    "reply sent": 4,
}
"""Where a process kills itself, in the order of a round, and how often a whole run passes there."""
_SHARE_AT_RANDOM = 0.4
_SHARE_SEVERAL = 0.1
_MOST_STARTS = 4
_SHORTER = 0.95
_SLACK = 1.5


@dataclass
class Row:
    """Trials that were killed in one phase.

    Attributes:
        trials: how many.
        over_counted: trials that end with a reserve under which nothing left.
        recovered: trials in which a torn line was kept aside and recorded.
        lost: trials in which a reply that had left was lost or changed; the promise is 0.
        under_counted: trials in which something left without its own reserve, or above the budget; the promise is 0.
    """

    trials: int = 0
    over_counted: int = 0
    recovered: int = 0
    lost: int = 0
    under_counted: int = 0

    def add(self, verdict: Verdict) -> None:
        """Count one trial."""
        self.trials += 1
        self.over_counted += bool(verdict.dangling)
        self.recovered += bool(verdict.recovered)
        self.lost += bool(verdict.lost)
        self.under_counted += bool(verdict.under_counted)


@dataclass
class KillTable:
    """All trials.

    Attributes:
        rows: by the phase in which the process was killed.
        problems: every broken promise, with its trial; empty if all hold.
        refused: trials that ended because repeated kills had spent the budget.
        untouched: trials whose process ended before its kill came.
        seconds: wall time.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    refused: int = 0
    untouched: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> Row:
        """The sum of all rows."""
        values = [asdict(row) for row in self.rows.values()]
        return Row(**{name: sum(row[name] for row in values) for name in asdict(Row())})

    def add(self, phase: str, verdict: Verdict, name: str) -> None:
        """Count one trial."""
        self.rows.setdefault(phase, Row()).add(verdict)
        self.problems += [f"{name} ({phase}): {problem}" for problem in verdict.problems]
        self.refused += verdict.refused

    def to_json(self) -> dict[str, object]:
        """The table as one JSON object."""
        totals = asdict(self.total)
        facts = {"refused": self.refused, "untouched": self.untouched, "seconds": round(self.seconds, 1)}
        return {**totals, **facts, "problems": self.problems, "phases": {k: asdict(v) for k, v in self.rows.items()}}

    def as_text(self) -> str:
        """The table for a person, one phase per line, in the order of a round."""
        names = list(asdict(Row()))
        places = list(POINTS)
        order = sorted(self.rows, key=lambda name: (places.index(name) if name in places else len(places), name))
        lines = [f"{'killed at':32}" + "".join(f"{name.replace('_', '-'):>15}" for name in names)]
        for name, row in [*((name, self.rows[name]) for name in order), ("all", self.total)]:
            lines.append(f"{name:32}" + "".join(f"{value:>15}" for value in asdict(row).values()))
        return "\n".join(lines)


@dataclass(frozen=True)
class Order:
    """One start of the client process; see the worker."""

    site: str = ""
    coordinator: str = ""
    seen: str = ""
    point: str | None = None
    nth: int = 1
    delay: float | None = None
    mutant: bool = False


@dataclass(frozen=True)
class Ending:
    """How a client process ended: exit status (-9 if it was killed), phase and wall seconds."""

    status: int
    phase: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it was killed, as ordered."""
        return self.status < 0


class ForkServer:
    """A process that has imported everything and forks the clients that are to die."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests, self._answers = requests, answers

    def run(self, order: Order) -> Ending:
        """Let one client process live, and possibly die."""
        self._requests.write(json.dumps(asdict(order)) + "\n")
        self._requests.flush()
        answer = self._answers.readline()
        if not answer:
            raise UsageError("the kill worker has ended", remedy="Read its message on standard error")
        return Ending(**json.loads(answer))


@contextmanager
def fork_server(plan: Path, warm_up: Path) -> Iterator[ForkServer]:
    """Start the worker.

    Raises:
        UsageError: this is not a checkout.
    """
    if not WORKER.is_file():
        raise UsageError(f"{WORKER} is missing", remedy="Run the trials from a checkout, not from a wheel")
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(WORKER.parents[2])}
    command = [sys.executable, str(WORKER), str(plan), str(warm_up)]
    with subprocess.Popen(  # noqa: S603 - our own script
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **quiet}
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise UsageError("the kill worker has no pipes", remedy="Run on a system with pipes")
        yield ForkServer(process.stdin, process.stdout)
        process.stdin.close()


def run_trials(trials: int, seed: int, folder: Path, progress: Callable[[int, int], None] | None = None) -> KillTable:
    """Kill and judge.

    Args:
        trials: how many; a good part at named points in turn, the rest at random times and repeatedly.
        seed: of the choice of moments. What is running at a random time also depends on the machine.
        folder: empty or absent; sites of trials that broke a promise are left in it.
        progress: called with (done, trials).

    Raises:
        UsageError: no trial, or no checkout.
    """
    if trials < 1:
        raise UsageError(f"{trials} trials", remedy="Ask for at least 1")
    table, started = KillTable(), time.monotonic()
    chance = random.Random(seed)  # noqa: S311 - moments of death are no secret
    sites, points = make_small_sites(folder), cycle(POINTS)
    with fork_server(sites.plan, sites.copy("warm-up")) as server:
        whole = _SLACK * min(server.run(trial_of(sites, name)).seconds for name in ("whole-1", "whole-2"))
        for number in range(trials):
            orders = _kills(points, chance, whole)
            name = f"trial-{number:04d}"
            trial = trial_of(sites, name, tight=len(orders) > 1)
            phase = live(server, trial, orders)
            if not phase:
                table.untouched += 1
                whole *= _SHORTER
            verdict = judge(Path(trial.site), Path(trial.seen), sites.config)
            table.add(phase or "not killed", verdict, name)
            if not verdict.problems:
                shutil.rmtree(trial.site)
            if progress is not None:
                progress(number + 1, trials)
    table.seconds = time.monotonic() - started
    return table


def trial_of(sites: SmallSites, name: str, *, tight: bool = False) -> Order:
    """A new site with its coordinator, and the order that lets its client live undisturbed."""
    root, coordinator = sites.copy_with_coordinator(name, tight=tight)
    return Order(str(root), str(coordinator), str(sites.folder / f"{name}.seen"))


def live(server: ForkServer, trial: Order, kills: Sequence[Order]) -> str:
    """Start the client with each of `kills` in turn, then undisturbed until it ends by itself; the phase of its death.

    Args:
        server: forks the client.
        trial: the site, its coordinator, and where the client notes what the network saw.
        kills: how each start is to end.

    Returns:
        The named point, or what was going on; empty if no kill came in time.

    Raises:
        UsageError: a start that nobody killed did not end well.
    """
    phases = []
    for kill in [*kills, Order()]:
        ending = server.run(replace(trial, point=kill.point, nth=kill.nth, delay=kill.delay))
        if ending.killed:
            phases.append(kill.point or f"at random, {ending.phase}")
        elif ending.status != 0:
            raise UsageError(f"the client at {trial.site} failed while {ending.phase}", remedy="Read standard error")
    if not phases:
        return ""
    return phases[0] if len(kills) == 1 else SEVERAL


def _kills(points: Iterator[str], chance: random.Random, whole: float) -> list[Order]:
    """The kills of one trial; the named points come in turn, so that each is visited."""
    dice = chance.random()
    if dice < _SHARE_SEVERAL:
        return [_several(chance, whole) for _ in range(chance.randint(2, _MOST_STARTS))]
    if dice < _SHARE_SEVERAL + _SHARE_AT_RANDOM:
        return [Order(delay=chance.uniform(0.0, whole))]
    point = next(points)
    return [Order(point=point, nth=chance.randint(1, POINTS[point]))]


def _several(chance: random.Random, whole: float) -> Order:
    """One of several kills; also in the middle of the recovery from the one before."""
    kind = chance.randrange(3)
    if kind == 0:
        return Order(delay=chance.uniform(0.0, whole))
    if kind == 1:
        return Order(point="noise being drawn", nth=chance.randint(1, 6))
    anywhere = {**POINTS, "recovered torn": 1, "recovered not synced": 1, "recovered head not synced": 1}
    point = chance.choice(list(anywhere))
    return Order(point=point, nth=chance.randint(1, min(2, anywhere[point])))
