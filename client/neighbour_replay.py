"""Deterministic test of the real step: one user may move what is released by `max_grad_norm` at most.

The step runs twice from the same weights and the same noise state, once with a user and once without him. Whatever
the two releases differ by is that user's doing, because nothing else changed; it may be at most `max_grad_norm`, in
units in which the noise that is really there is the plan's: gradients with half of their noise count double, and where
a count of users is released beside the gradients, both count together, each in units of its own noise. A
handful of users with extreme data finds missing, per-layer or per-record clipping, losses that mix users, divisors that
count users, and non-finite users, in milliseconds (after Re:cord-play, arXiv 2602.17454). It runs on made-up data, so
its result is public.

A pass is evidence, not proof: it bounds the users that were tried. It must be run on the step that trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.gradients import Batch, PerUserGradients, UserLoss
from client.gradients.contract import count_users, select_users
from client.private_step import Noise, StepFacts, StepPlan, private_step
from mmrec_model.errors import PrivacyError

Release: TypeAlias = Sequence[Tensor]
Step: TypeAlias = Callable[[Batch], Release]
"""Returns the noised sum of one step (the noised mean times the public divisor), and the noised count where there is
one. Every call must start from the same weights and the same state of the noise, which is what makes two calls
comparable."""

PrivateStep: TypeAlias = Callable[
    [nn.Module, torch.optim.Optimizer, Iterable[Batch], UserLoss, StepPlan, Noise, PerUserGradients], StepFacts
]
"""`private_step`, or one with a mistake put in."""

ROUNDING = 1e-3
"""Relative excess over the limit that is put down to float32 rounding of sums and noise."""


@dataclass(frozen=True)
class SensitivityReport:
    """What the replay found.

    Attributes:
        limit: the L2 distance one user may cause, `max_grad_norm`.
        measured: the largest distance seen; NaN or inf if a release was not finite.
        user: position of the user who caused it.
        distances: one distance per user tried, in the order of `users`.
        users: positions tried.
        repeatable: the same batch gave the same release twice; otherwise the distances mean nothing.
    """

    limit: float
    measured: float
    user: int
    distances: tuple[float, ...]
    users: tuple[int, ...]
    repeatable: bool

    @property
    def holds(self) -> bool:
        """Whether the replay found no violation."""
        return self.repeatable and self.measured <= self.limit * (1.0 + ROUNDING)

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "VIOLATED"
        if not self.repeatable:
            verdict = "NOT MEASURED: the step is not repeatable"
        return f"sensitivity {self.measured:.4f}, limit {self.limit:.4f}, user {self.user}: {verdict}"


def replay_neighbours(
    step: Step, batch: Batch, max_grad_norm: float, *, users: Iterable[int] | None = None
) -> SensitivityReport:
    """Compare the step's release on a batch with its release without one user, for each of `users`.

    Args:
        step: the real step, see `Step`; `recorded_step` makes one from `private_step`.
        batch: made-up users, some of them with extreme data.
        max_grad_norm: the limit, in the unit of the release.
        users: positions to remove in turn; all of them by default.
    """
    count = count_users(batch)
    tried = tuple(range(count) if users is None else users)
    whole = _vector(step(batch))
    repeatable = torch.equal(whole.nan_to_num(), _vector(step(batch)).nan_to_num())
    distances = tuple(_distance(whole, _vector(step(without_user(batch, user)))) for user in tried)
    worst = max(range(len(tried)), key=lambda i: math.inf if math.isnan(distances[i]) else distances[i])
    return SensitivityReport(
        limit=max_grad_norm,
        measured=distances[worst],
        user=tried[worst],
        distances=distances,
        users=tried,
        repeatable=repeatable,
    )


def refuse_mixed_users(
    model: nn.Module, user_loss: UserLoss, batch: Batch, gradients: PerUserGradients, *, tolerance: float = 1e-3
) -> None:
    """Refuse a model or loss in which the gradient of a user depends on who else is in the batch.

    Each user's gradient norm within the batch is compared with the norm when the batch is that user alone. This finds
    losses divided by batch-wide counts, statistics over users, and layers whose dim 0 equals the number of users by
    coincidence. Run it on made-up users, once, before the first step.

    Args:
        model: accepted by `refuse_unsupported`.
        user_loss: as in training; it must not draw random numbers.
        batch: at least two made-up users of different lengths.
        gradients: as in training.
        tolerance: relative difference put down to rounding.

    Raises:
        PrivacyError: the two norms of a user differ.
    """
    together_B = gradients.clipped_sum(model, user_loss, batch, 1.0).local_norms_B.double()
    for user in range(count_users(batch)):
        alone = gradients.clipped_sum(model, user_loss, select_users(batch, torch.tensor([user])), 1.0)
        norms = float(together_B[user]), float(alone.local_norms_B[0])
        if not math.isclose(*norms, rel_tol=tolerance, abs_tol=1e-9):
            raise PrivacyError(
                f"the gradient of user {user} has norm {norms[0]:.6g} among others and {norms[1]:.6g} alone",
                remedy="Let each user's loss depend on that user's rows only, also through counts and layer shapes",
            )


def without_user(batch: Batch, user: int) -> Batch:
    """The neighbouring batch: everyone but the user at this position."""
    rest = [other for other in range(count_users(batch)) if other != user]
    return select_users(batch, torch.tensor(rest, dtype=torch.int64))


def recorded_step(
    model: nn.Module,
    user_loss: UserLoss,
    plan: StepPlan,
    gradients: PerUserGradients,
    noise: Callable[[], Noise],
    *,
    micro_batch: int = 64,
    take: PrivateStep = private_step,
) -> Step:
    """A repeatable `private_step` on a copy of the model: the noised sum that the optimizer was given, and the count.

    Both are in units in which the noise has deviation `noise_multiplier * max_grad_norm`. The noise is measured, not
    taken from the plan: before its first release the step runs on nobody, once with one standard deviation of noise in
    every number and once with none, and so again on the batch. A step whose noise depends on the users releases NaN.

    Args:
        model: where every call starts from; it is not changed.
        user_loss: as in training; it must not draw random numbers.
        plan: as in training.
        gradients: as in training.
        noise: makes a generator in always the same state, such as `GaussianNoise(seed=...)`.
        micro_batch: users per micro-batch.
        take: the step that is recorded.
    """
    run = partial(_released, take, model, user_loss, plan, gradients, micro_batch)
    planned = plan.noise_multiplier * plan.max_grad_norm
    units: list[Tensor] = []

    def step(batch: Batch) -> Release:
        released = run(noise(), batch)
        if not planned:
            return released
        if not units:
            units.extend(_noise_units(run, batch))
        return [planned * part / unit for part, unit in zip(released, units, strict=True)]

    return step


class _Steady:
    """A source whose every number is `level` times the deviation that is asked for."""

    source = "constant"

    def __init__(self, level: float) -> None:
        self._level = level

    def draw(self, count: int, standard_deviation: float) -> npt.NDArray[np.float64]:
        return np.full(count, self._level * standard_deviation)

    def poisson_sample(self, population: int, rate: float) -> npt.NDArray[np.int64]:
        return np.flatnonzero(np.full(population, rate) > 0.0)


def _noise_units(run: Callable[[Noise, Batch], Release], batch: Batch) -> Iterator[Tensor]:
    """What one standard deviation of noise adds to each number; NaN where the users of the batch change that."""
    nobody = select_users(batch, torch.zeros(0, dtype=torch.int64))
    cases = [run(_Steady(level), users) for users in (nobody, batch) for level in (0.0, 1.0)]
    for silent, loud, silent_among, loud_among in zip(*cases, strict=True):
        unit = loud - silent
        same = torch.isclose(loud_among - silent_among, unit, rtol=ROUNDING, atol=0.0)
        yield unit.masked_fill(~same, math.nan)


def _released(  # noqa: PLR0917 - the parts of a step
    take: PrivateStep,
    model: nn.Module,
    user_loss: UserLoss,
    plan: StepPlan,
    gradients: PerUserGradients,
    micro_batch: int,
    noise: Noise,
    batch: Batch,
) -> Release:
    replica = deepcopy(model)
    trained = [parameter for parameter in replica.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    released: list[Tensor] = []

    def record(*_: object) -> None:
        released.extend(p.grad.double() * plan.expected_users for p in trained if p.grad is not None)

    optimizer.register_step_pre_hook(record)
    parts = torch.split(torch.arange(count_users(batch)), micro_batch)
    batches = (select_users(batch, part) for part in parts if len(part))
    facts = take(replica, optimizer, batches, user_loss, plan, noise, gradients)
    if facts.clip_share is not None:
        released.append(torch.tensor([facts.clip_share * plan.expected_users], dtype=torch.float64))
    return released


def _vector(release: Release) -> Tensor:
    return torch.cat([part.detach().double().flatten().cpu() for part in release])


def _distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm())
