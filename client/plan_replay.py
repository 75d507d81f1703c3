"""The neighbour replay of a plan's own step: its model, loss and clipping, on made-up users.

None of them may move the release, gradients and count together, by more than the plan's noise allows
(`client.neighbour_replay`); one user reaches that bound, or the replay would prove nothing; and no user's gradient may
depend on who else is there. `FAMILIES` has every choice of code that a plan can make at least once, `mmrec self-test`
runs them all; a site replays the shape of the plan before it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Final, get_args

import torch

from client.gradients import gradients_by_name
from client.gradients.contract import select_users
from client.made_up_plan import USERS, PlanShape, made_up_catalogue, made_up_model, made_up_users
from client.neighbour_replay import SensitivityReport, recorded_step, refuse_mixed_users, replay_neighbours
from client.private_step import StepPlan
from client.training import GRADIENTS, user_loss
from mmrec_model.config import HEADS, FusionName
from mmrec_model.privacy.noise import GaussianNoise

FLAT: Final = StepPlan(max_grad_norm=0.5, noise_multiplier=1.0, expected_users=3.5, sample_rate=0.5)
ADAPTIVE: Final = replace(FLAT, count_noise=1.0)
_REACHED = 0.99
_DEPTHS: Final[dict[FusionName, int]] = {"concat": 2, "transformer": 2}
_FULL: Final = PlanShape(heads=HEADS, ctr_scorer="deepfm", dropout=True, adaptive=True, pairs=True, metric=True)
"""Everything at once that goes with every fusion."""

FAMILIES: Final[dict[str, PlanShape]] = {
    "a default plan": PlanShape(),
    "pairs of items": PlanShape(pairs=True),
    "pairs of features": PlanShape(metric=True),
    **{f"fusion {name}": replace(_FULL, fusion=name, layers=_DEPTHS.get(name, 1)) for name in get_args(FusionName)},
    "public decision weights": PlanShape(fusion="decision", decision_weights="public"),
    "local decision weights": PlanShape(fusion="decision", decision_weights="local", dropout=True, adaptive=True),
    "tower sequence": PlanShape(tower="sequence", dropout=True, adaptive=True, pairs=True),
    "tower sequence, own media": PlanShape(tower="sequence", user_media=("text", "image")),
    "own media": replace(_FULL, user_media=("text", "image")),
    "loss bpr": PlanShape(loss="bpr", heads=HEADS, adaptive=True),
    "loss bce, heads esmm": PlanShape(loss="bce", heads=HEADS, cvr_loss="esmm"),
    "scope head": replace(_FULL, scope="head"),
    "scope lora": PlanShape(scope="lora", dropout=True, adaptive=True),
    "scope top": PlanShape(scope="top", heads=HEADS, modalities=("text", "image")),
    "scope full": PlanShape(scope="full", modalities=("text", "audio"), tower="sequence"),
}


def replay_plan(shape: PlanShape) -> SensitivityReport:
    """Replay one step of a shape, every user left out in turn.

    Raises:
        PrivacyError: the step refuses the model, or a user's gradient depends on others.
    """
    catalogue, users = made_up_catalogue(shape), made_up_users(shape)
    model, gradients = made_up_model(shape), gradients_by_name(GRADIENTS)
    loss, plan = partial(user_loss, catalogue=catalogue, kind=shape.loss), ADAPTIVE if shape.adaptive else FLAT
    step = recorded_step(model, loss, plan, gradients, lambda: GaussianNoise(seed=b"self-test"), micro_batch=3)
    report = replay_neighbours(step, users, plan.max_grad_norm)
    refuse_mixed_users(model, loss, select_users(users, torch.arange(USERS - 1)), gradients)
    return report


def shows_bound(report: SensitivityReport) -> bool:
    """Whether no user moved the release by more than the bound, and one by as much."""
    return report.holds and report.measured >= _REACHED * report.limit


def missing_package(shape: PlanShape) -> str | None:
    """The optional package that a shape needs and this machine lacks."""
    return "peft" if shape.scope == "lora" and find_spec("peft") is None else None
