"""What privacy costs: CPU time and peak memory of a private step over those of a plain SGD step.

`python -m benchmarks.private_step --json` prints one JSON object on its last line. CPU time: all modes interleaved in
one process on one thread, median of the ratios to the plain step of the same round. Memory: one subprocess per mode,
the largest resident set during two steps above what was resident before them.

Modes: `plain` takes the whole batch at once, `plain_micro` accumulates micro-batches; `bookkeeping`, `ghost` and
`hooks` are this project's private step in micro-batches, noise from ChaCha20 included; `opacus_hooks` and
`opacus_ghost` are Opacus as it comes, whole batch, its own noise. A plain step over the whole batch may pay for fresh
memory pages that micro-batches reuse, so `cpu_seconds` of `plain_micro` is the harder comparison.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TypeAlias

import torch

from benchmarks.reference_model import Clicks, ReferenceModel, made_up_clicks, user_loss
from client.gradients import WAYS, gradients_by_name
from client.gradients.contract import count_users, select_users, trainable_parameters
from client.private_step import StepPlan, private_step
from mmrec_model.privacy.noise import GaussianNoise

MODES = ("plain", "plain_micro", "bookkeeping", "ghost", "hooks", "opacus_hooks", "opacus_ghost")
PARTS = ("full", "heads")
ITEMS = 20
LEARNING_RATE = 1e-6
BEST = "bookkeeping"
HEADLINE_USERS = 256

Results: TypeAlias = dict[str, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds for CPU time; 0 skips it")
    parser.add_argument("--users", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is trained")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--micro-batch", type=int, help="users at once; default a quarter of the batch, at least 16")
    parser.add_argument("--no-memory", action="store_true", help="skip the subprocesses")
    parser.add_argument("--peak-of", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.peak_of:
        micro_batch = options.micro_batch or _default_micro_batch(options.users[0])
        print(_peak_mib(options.peak_of, options.parts[0], options.users[0], micro_batch))
        return
    found: dict[str, Results] = {}
    for part in options.parts:
        for users in options.users:
            found[f"{part}_{users}"] = _measure(part, users, options)
            print(_table(f"{part}, {users} users", found[f"{part}_{users}"]), flush=True)
    if options.json:
        print(json.dumps(_summary(found)))


def _measure(part: str, users: int, options: argparse.Namespace) -> Results:
    modes = ["plain", *(mode for mode in options.modes if mode != "plain")]
    results: Results = {mode: {} for mode in modes}
    micro_batch = options.micro_batch or _default_micro_batch(users)
    if options.rounds:
        steps = {mode: _step_of(mode, part, users, micro_batch) for mode in modes}
        seconds: dict[str, list[float]] = {mode: [] for mode in modes}
        for turn in range(options.rounds + 1):
            for mode in modes:
                started = time.process_time()
                steps[mode]()
                if turn:
                    seconds[mode].append(time.process_time() - started)
        for mode in modes:
            pairs = zip(seconds[mode], seconds["plain"], strict=True)
            results[mode]["cpu_seconds"] = round(statistics.median(seconds[mode]), 4)
            results[mode]["dp_over_plain_cpu"] = round(statistics.median(mine / plain for mine, plain in pairs), 3)
    if not options.no_memory:
        for mode in modes:
            results[mode]["peak_mib"] = _peak_in_subprocess(mode, part, users, micro_batch)
        for mode in modes:
            ratio = results[mode]["peak_mib"] / results["plain"]["peak_mib"]
            results[mode]["dp_over_plain_memory"] = round(ratio, 3)
    return results


def _default_micro_batch(users: int) -> int:
    return max(16, users // 4)


def _model(part: str) -> ReferenceModel:
    torch.manual_seed(0)
    model = ReferenceModel()
    if part == "heads":
        model.train_heads_only()
    return model


def _step_of(mode: str, part: str, users: int, micro_batch: int) -> Callable[[], None]:
    batch = made_up_clicks(users, ITEMS, seed=1)
    return _runner(mode, _model(part), batch, users if mode == "plain" else micro_batch)


def _runner(mode: str, model: ReferenceModel, batch: Clicks, micro_batch: int) -> Callable[[], None]:
    users = count_users(batch)
    if mode.startswith("opacus_"):
        return _opacus_runner(mode, model, batch)
    batches = [select_users(batch, rows) for rows in torch.split(torch.arange(users), micro_batch)]
    optimizer = torch.optim.SGD(trainable_parameters(model), lr=LEARNING_RATE)

    def plain() -> None:
        optimizer.zero_grad()
        for part in batches:
            torch.autograd.backward(user_loss(model, part).sum() / users)
        optimizer.step()

    if mode not in WAYS:
        return plain
    plan = StepPlan(max_grad_norm=1.0, noise_multiplier=1.0, expected_users=float(users), sample_rate=0.05)
    noise, way = GaussianNoise(), gradients_by_name(mode)
    return lambda: _discard(private_step(model, optimizer, batches, user_loss, plan, noise, way))


def _opacus_runner(mode: str, model: ReferenceModel, batch: Clicks) -> Callable[[], None]:
    from client.gradients.stock_opacus import stock_opacus_step  # noqa: PLC0415 - not to weigh on the other modes

    step = stock_opacus_step(
        model,
        user_loss,
        "hooks" if mode == "opacus_hooks" else "ghost",
        expected_users=count_users(batch),
        max_grad_norm=1.0,
        noise_multiplier=1.0,
        learning_rate=LEARNING_RATE,
    )
    return lambda: step(batch)


def _discard(_: object) -> None:
    """Steps return nothing here, so that no mode keeps its results alive."""


def _peak_mib(mode: str, part: str, users: int, micro_batch: int) -> float:
    """Peak resident memory of two steps above what was resident before, in MiB; for a fresh process."""
    model = _model(part)
    _runner(mode, deepcopy(model), made_up_clicks(2, 2, seed=0), 1)()
    run = _runner(mode, model, made_up_clicks(users, ITEMS, seed=1), users if mode == "plain" else micro_batch)
    before = _reset_peak()
    run()
    run()
    return round(_status("VmHWM") - before, 1)


def _reset_peak() -> float:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _peak_in_subprocess(mode: str, part: str, users: int, micro_batch: int) -> float:
    chosen = ["--peak-of", mode, "--parts", part, "--users", str(users), "--micro-batch", str(micro_batch)]
    command = [sys.executable, "-m", "benchmarks.private_step", *chosen]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this module itself
    return float(done.stdout.split()[-1])


def _summary(found: dict[str, Results]) -> dict[str, object]:
    summary: dict[str, object] = {}
    for part in PARTS:
        suffix = "" if part == "full" else "_heads"
        results = found.get(f"{part}_{HEADLINE_USERS}", {})
        for name in ("dp_over_plain_cpu", "dp_over_plain_memory"):
            for mode, values in results.items():
                if name in values and mode != "plain":
                    summary[f"{name}_{mode}{suffix}"] = values[name]
                    if mode == BEST:
                        summary[f"{name}{suffix}"] = values[name]
    return {**summary, "torch": torch.__version__, "settings": found}


def _table(title: str, results: Results) -> str:
    columns = ("cpu_seconds", "dp_over_plain_cpu", "peak_mib", "dp_over_plain_memory")
    rows = [f"{title:24}" + "".join(f"{column:>22}" for column in columns)]
    for mode, values in results.items():
        rows.append(f"{mode:24}" + "".join(f"{values.get(column, float('nan')):22.3f}" for column in columns))
    return "\n".join(rows)


if __name__ == "__main__":
    main()
