"""The main job: data -> partners -> private federated training -> exported model, `run.json` and `report.html`.

Stages, in order: claim the folder, split users into sites, encode the catalogue, plan the noise, enrol the sites, train
through one of the doors, assess, export, write. The same seed gives the same `run.json` metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from client.app import app as client_app
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.features.bundle import FeatureBundle, open_bundle
from mmrec_model.model.folder import save_model
from server.app import app as server_app
from server.app import read_plan
from simulations.assessment import Panel, own_media, panel_of
from simulations.card import write_card
from simulations.flower_door import run_with_flower
from simulations.loopback import run_loopback
from simulations.notes import notes
from simulations.partition import catalogue_of
from simulations.progress import Progress
from simulations.quality_of_run import write_quality_of_run
from simulations.record import Outcome, build_record, final_state
from simulations.report import write_report
from simulations.run_record import RunRecord, as_json, write_run
from simulations.standing import rank_systems
from simulations.workspace import Recipe, divide, encode, found, plan

Engine = Literal["loopback", "flower"]


@dataclass
class Stopwatch:
    """Wall seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; a name used twice adds up."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: a partner's small tensors do not repay its synchronisation.

    Two threads beside another busy process took up to ten times the CPU time of one for the same step.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Prepared:
    """A workspace that is ready to train."""

    recipe: Recipe
    config: RunConfig
    bundle: FeatureBundle
    sites: list[Site]


def prepare(recipe: Recipe, progress: Progress, watch: Stopwatch) -> Prepared:
    """Write the workspace up to its plan and enrolled sites.

    Raises:
        MmrecError: the data, the partition or the plan is refused.
    """
    with watch.stage("split"):
        groups = divide(recipe)
    with watch.stage("encode"):
        bundle = encode(
            recipe, lambda name, done, total, unreadable: progress(f"encoding {name}", done, total, unreadable)
        )
    with watch.stage("plan"):
        config = plan(recipe, bundle, groups)
    with watch.stage("enrol"):
        sites = found(recipe, groups, config)
    return Prepared(recipe, config, bundle, sites)


def train(prepared: Prepared, engine: Engine, progress: Progress, watch: Stopwatch) -> None:
    """Run the plan through a door; the coordinator's files are the result.

    Raises:
        MmrecError: the coordinator's run failed.
    """
    with watch.stage("train"), one_thread():
        if engine == "flower":
            run_with_flower(prepared.recipe.out, len(prepared.sites))
            return
        config = prepared.config
        once = 3 + 2 * config.collaboration.released + (config.gate.metric is not None)
        once += config.privacy.activity_quantile > 0.0
        waves = once + config.training.rounds + len(config.evaluated_rounds)
        messages = len(prepared.sites) * waves
        run_loopback(
            server_app,
            client_app,
            [site.root for site in prepared.sites],
            {"workspace": str(prepared.recipe.out)},
            _counter(lambda done: progress("training", done, messages)),
        )


def finish(prepared: Prepared, command: str, name: str, progress: Progress, watch: Stopwatch) -> RunRecord:
    """Assess, export and report a trained workspace."""
    with watch.stage("assess"), one_thread():
        datasets = [site.dataset for site in prepared.sites]
        own = own_media(prepared.sites, prepared.config)
        panels: dict[str, Panel] = {"val": panel_of(datasets, "val", own), "test": panel_of(datasets, "test", own)}
        outcome = Outcome(prepared.config, prepared.bundle, prepared.sites, prepared.recipe, command, name)
        out, test = prepared.recipe.out, panels["test"]
        state = final_state(out)
        standing = rank_systems(prepared.config, prepared.sites, panels["val"], test, state, progress)
        record = build_record(outcome, panels["val"], test, standing, progress)
    with watch.stage("quality"), one_thread():
        write_quality_of_run(
            prepared.config.run_id,
            prepared.sites,
            prepared.bundle,
            test,
            standing,
            out,
            lambda done, total: progress("quality", done, total),
        )
    record = record.model_copy(update={"seconds": dict(watch.seconds), "wall_seconds": watch.total})
    told = notes(outcome.coordinator, record, rounds=prepared.config.training.rounds)
    record = record.model_copy(update={"notes": told})
    save_model(out / "model", prepared.config, state, card=write_card(record))
    write_run(record, out)
    write_report(as_json(record), out)
    return record


def reopen(out: Path) -> Prepared:
    """A workspace that was prepared before, and trained through any door.

    Raises:
        MmrecError: the folder is no workspace, or a part of it is damaged.
    """
    config = read_plan(out / "plan.json")
    sites = [Site.open(path.parent) for path in sorted((out / "sites").glob("*/site.toml"))]
    training = config.training
    epsilon = config.privacy.epsilon or float("inf")
    recipe = Recipe(
        catalogue_of(out), out, epsilon, config.privacy.delta, config.seed, training, evaluation=config.evaluation
    )
    return Prepared(recipe, config, open_bundle(out / "features"), sites)


def _counter(report: Callable[[int], None]) -> Callable[[object], None]:
    done = 0

    def count(_message: object) -> None:
        nonlocal done
        done += 1
        report(done)

    return count
