"""The neighbour replay tried out: the step that trains must pass it, every known way of breaking the bound must not.

The cases are those in which trainers have broken user-level privacy: no clip, a clip of the mean, a clip per layer
charged as flat, one record of a user at a time, statistics over users, a divisor that counts users, a user whose data
is not a number, too little noise, and with adaptive clipping a count with too little noise, not centred, or taken over
the users at hand. Each is the real step with that one mistake put in, on made-up users of whom one has extreme data. A
replay that misses one of them proves nothing about the step that it lets pass, so `mmrec self-test` runs them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from client.gradients import WAYS, Batch, ClippedSum, PerUserGradients, UserLoss, gradients_by_name
from client.gradients.contract import count_users, select_users
from client.neighbour_replay import PrivateStep, SensitivityReport, Step, recorded_step, replay_neighbours
from client.private_step import Noise, StepFacts, StepPlan, private_step
from mmrec_model.privacy.noise import GaussianNoise

USERS, ITEMS, WIDTH, HUGE = 32, 5, 6, 7
LIMIT: Final = 1.0
PLAN: Final = StepPlan(max_grad_norm=LIMIT, noise_multiplier=1.0, expected_users=32.0, sample_rate=0.5)
TRIED: Final = (HUGE, 0, 23)
"""The user with extreme data, and two others."""
_CALM, _COUNT_NOISE = 0.5, 0.9
ADAPTIVE: Final = replace(PLAN, count_noise=_COUNT_NOISE)

Users: TypeAlias = tuple[Tensor, Tensor]
Gradient: TypeAlias = list[Tensor]


@dataclass(frozen=True)
class Case:
    """One step and what the replay must say of it.

    Attributes:
        name: for the table.
        step: makes the step.
        users: makes the users it runs on.
        least: the sensitivity that a broken step must be caught with at least, NaN if it releases no number; None for
            the real step, which must hold.
    """

    name: str
    step: Callable[[], Step]
    users: Callable[[], Users]
    least: float | None = None


@dataclass(frozen=True)
class Finding:
    """What the replay measured.

    Attributes:
        name: of the case.
        violates: whether the step of this case breaks the bound, on purpose.
        measured: L2 distance that one user caused; NaN if a release was not a number.
        limit: the bound.
        holds: what the replay says.
        expected: whether that is what it must say.
    """

    name: str
    violates: bool
    measured: float
    limit: float
    holds: bool
    expected: bool


def measure(case: Case) -> Finding:
    """Replay one case."""
    report = replay_neighbours(case.step(), case.users(), LIMIT, users=TRIED)
    expected = report.holds if case.least is None else _is_caught(report, case.least)
    return Finding(case.name, case.least is not None, report.measured, report.limit, report.holds, expected)


def _is_caught(report: SensitivityReport, least: float) -> bool:
    if math.isnan(least):
        return not report.holds and math.isnan(report.measured)
    return not report.holds and report.repeatable and report.measured >= least


def real_cases() -> Iterator[Case]:
    """The real step with every way to gradients, on the users with extreme data and on one whose data is no number."""
    for way in WAYS:
        yield Case(f"the real step, {way}", lambda way=way: real_step(way), made_up_users)  # type: ignore[misc]
    yield Case("the real step, a user with NaN", real_step, poisoned_users)
    yield Case("the real step, adaptive clipping", lambda: real_step(plan=ADAPTIVE), calm_users)
    yield Case("the real step, adaptive clipping, a user with NaN", lambda: real_step(plan=ADAPTIVE), poisoned_users)


def broken_cases() -> tuple[Case, ...]:
    """The real step with one mistake each."""
    return (
        Case("no clip", lambda: _broken(_unclipped), made_up_users, 50.0),
        Case("clip of the mean", lambda: _broken(_clipped_mean), made_up_users, 5.0),
        Case("clip per layer, charged as flat", lambda: _broken(_clipped_per_layer), made_up_users, 1.41),
        Case("five records of one user", lambda: _per_record, made_up_users, 3.0),
        Case("centring over users", lambda: real_step(user_loss=centred_loss), made_up_users, 1.5),
        Case("divisor from the number of users", lambda: _divided_by_count, made_up_users, 1.1),
        Case("a user with NaN, not dropped", lambda: _broken(_clipped_without_dropping), poisoned_users, math.nan),
        Case("half of the noise", lambda: real_step(take=halved(PLAN.noise_multiplier)), made_up_users, 1.99),
        *(
            Case(f"adaptive: {name}", lambda take=take: real_step(plan=ADAPTIVE, take=take), calm_users, least)  # type: ignore[misc]
            for name, take, least in BROKEN_COUNTS
        ),
    )


def seeded() -> GaussianNoise:
    """Noise in always the same state."""
    return GaussianNoise(seed=b"replay")


def made_up_model() -> nn.Module:
    """A linear model of `WIDTH` features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(WIDTH, 1)


def made_up_users() -> Users:
    """Features `[USERS, ITEMS, WIDTH]` and targets `[USERS, ITEMS]`; the targets of user `HUGE` are far away."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(USERS, ITEMS, WIDTH, generator=generator), torch.randn(USERS, ITEMS, generator=generator)
    y[HUGE] = 50.0 + y[HUGE]
    return x, y


def calm_users() -> Users:
    """The same, but most users are within the clip: their numbers are small, those of user `HUGE` are not."""
    x, y = made_up_users()
    others = torch.arange(USERS) != HUGE
    x[others], y[others] = x[others] * _CALM, y[others] * _CALM
    return x, y


def poisoned_users() -> Users:
    """As `made_up_users`, but one feature of user `HUGE` is not a number."""
    x, y = made_up_users()
    x[HUGE, 0, 0] = math.nan
    return x, y


def squared_loss(model: nn.Module, batch: Batch) -> Tensor:
    """One loss per user, of that user's rows alone."""
    x, y = batch
    losses: Tensor = (model(x).squeeze(-1) - y).square().flatten(1).mean(1)
    return losses


def centred_loss(model: nn.Module, batch: Batch) -> Tensor:
    """A loss that mixes users: features and targets are centred over the batch."""
    x, y = batch
    return squared_loss(model, (x - 50 * x.mean(0), y - y.mean(0)))


def real_step(
    way: str = WAYS[0], user_loss: UserLoss = squared_loss, *, plan: StepPlan = PLAN, take: PrivateStep = private_step
) -> Step:
    """The step that trains, or another one, on the made-up model."""
    return recorded_step(made_up_model(), user_loss, plan, gradients_by_name(way), seeded, micro_batch=16, take=take)


@dataclass(frozen=True)
class _HalfNoise:
    """A source that gives half of the noise wherever `deviation` is asked for."""

    inner: Noise
    deviation: float

    @property
    def source(self) -> str:
        return self.inner.source

    def draw(self, count: int, standard_deviation: float) -> npt.NDArray[np.float64]:
        drawn = self.inner.draw(count, standard_deviation)
        return 0.5 * drawn if standard_deviation == self.deviation else drawn

    def poisson_sample(self, population: int, rate: float) -> npt.NDArray[np.int64]:
        return self.inner.poisson_sample(population, rate)


def halved(deviation: float) -> PrivateStep:
    """The real step with half of the noise in the numbers that are to have this standard deviation."""

    def take(  # noqa: PLR0917 - the signature of the real step
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[Batch],
        user_loss: UserLoss,
        plan: StepPlan,
        noise: Noise,
        gradients: PerUserGradients,
    ) -> StepFacts:
        return private_step(model, optimizer, batches, user_loss, plan, _HalfNoise(noise, deviation), gradients)

    return take


def counted(share: Callable[[StepFacts, float], float]) -> PrivateStep:
    """The real step that releases another count: `share` of what it did and of the honest release."""

    def take(*parts: Any) -> StepFacts:
        facts = private_step(*parts)
        return facts if facts.clip_share is None else replace(facts, clip_share=share(facts, facts.clip_share))

    return take


def _unnoised(facts: StepFacts, _: float) -> float:
    return facts.local.centred_count(facts.max_grad_norm) / facts.divisor


def _over_the_batch(facts: StepFacts, share: float) -> float:
    return share * facts.divisor / max(1, facts.local.users)


def _unsigned(facts: StepFacts, share: float) -> float:
    """Counts 1 for a user within the clip and 0 for one beyond: twice what a centred count moves by."""
    return share + facts.local.users / 2 / facts.divisor


BROKEN_COUNTS: Final[tuple[tuple[str, PrivateStep, float], ...]] = (
    ("the count with half of its noise", halved(_COUNT_NOISE), 1.38),
    ("gradients with half of their noise beside the count", halved(ADAPTIVE.gradient_noise_multiplier), 1.75),
    ("the count not centred", counted(_unsigned), 1.2),
    ("the count without noise", counted(_unnoised), math.nan),
    ("the count over the realised batch", counted(_over_the_batch), math.nan),
)
"""What adaptive clipping has been done wrong with: name, step, and the sensitivity that must be found."""


@dataclass
class _Combined:
    """Adds up the users' gradients in a way of its own."""

    combine: Callable[[list[Gradient], float], Gradient]
    name: str = "broken"

    def clipped_sum(self, model: nn.Module, user_loss: UserLoss, batch: Batch, max_grad_norm: float) -> ClippedSum:
        users = [
            torch.autograd.grad(user_loss(model, _only(batch, user)).sum(), list(model.parameters()))
            for user in range(count_users(batch))
        ]
        sums = self.combine([list(gradient) for gradient in users], max_grad_norm)
        return ClippedSum(sums, torch.zeros(len(users)))


def _only(batch: Batch, user: int) -> Batch:
    return select_users(batch, torch.tensor([user]))


def _broken(combine: Callable[[list[Gradient], float], Gradient]) -> Step:
    gradients: PerUserGradients = _Combined(combine)
    return recorded_step(made_up_model(), squared_loss, PLAN, gradients, seeded, micro_batch=USERS)


def _norm(gradient: Gradient) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in gradient))


def _total(gradients: list[Gradient]) -> Gradient:
    return [torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True)]


def _unclipped(users: list[Gradient], _limit: float) -> Gradient:
    return _total(users)


def _clipped_mean(users: list[Gradient], limit: float) -> Gradient:
    mean = [part / len(users) for part in _total(users)]
    return [part * min(1.0, limit / _norm(mean)) * len(users) for part in mean]


def _clipped_per_layer(users: list[Gradient], limit: float) -> Gradient:
    return _total([[part * min(1.0, limit / _norm([part])) for part in user] for user in users])


def _clipped_without_dropping(users: list[Gradient], limit: float) -> Gradient:
    return _total([[part * torch.tensor(limit / _norm(user)).clamp(max=1.0) for part in user] for user in users])


def _per_record(batch: Batch) -> list[Tensor]:
    x, y = batch
    return list(real_step()((x.reshape(-1, 1, WIDTH), y.reshape(-1, 1))))


def _divided_by_count(batch: Batch) -> list[Tensor]:
    return [part * PLAN.expected_users / count_users(batch) for part in real_step()(batch)]
