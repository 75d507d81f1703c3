"""The replay accepts the real step and catches each of the ways in which trainers have broken the bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from client.gradients import WAYS, ClippedSum, gradients_by_name
from client.gradients.contract import count_users, select_users
from client.neighbour_replay import Step, recorded_step, refuse_mixed_users, replay_neighbours
from client.private_step import StepPlan
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.noise import GaussianNoise

USERS, ITEMS, HUGE = 32, 5, 7
PLAN = StepPlan(max_grad_norm=1.0, noise_multiplier=1.0, expected_users=32.0, sample_rate=0.5)


def seeded() -> GaussianNoise:
    return GaussianNoise(seed=b"replay")


def made_up_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 1)


def made_up_users() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x, y = torch.randn(USERS, ITEMS, 6), torch.randn(USERS, ITEMS)
    y[HUGE] = 50.0 + y[HUGE]
    return x, y


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x).squeeze(-1) - y).square().flatten(1).mean(1)


def centred_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return loss(model, (x - 50 * x.mean(0), y - y.mean(0)))


Gradient = list[Tensor]


@dataclass
class Broken:
    """Adds up the users' gradients in a way of its own."""

    combine: Callable[[list[Gradient], float], Gradient]
    name: str = "broken"

    def clipped_sum(self, model, user_loss, batch, max_grad_norm) -> ClippedSum:
        users = [
            torch.autograd.grad(
                user_loss(model, select_users(batch, torch.tensor([u]))).sum(), list(model.parameters())
            )
            for u in range(count_users(batch))
        ]
        return ClippedSum(self.combine([list(g) for g in users], max_grad_norm), torch.zeros(len(users)))


def norm(gradient: Gradient) -> float:
    return math.sqrt(sum(float(part.square().sum()) for part in gradient))


def total(gradients: list[Gradient]) -> Gradient:
    return [torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True)]


def unclipped(users: list[Gradient], limit: float) -> Gradient:
    return total(users)


def clipped_mean(users: list[Gradient], limit: float) -> Gradient:
    mean = [part / len(users) for part in total(users)]
    return [part * min(1.0, limit / norm(mean)) * len(users) for part in mean]


def clipped_per_layer(users: list[Gradient], limit: float) -> Gradient:
    return total([[part * min(1.0, limit / norm([part])) for part in user] for user in users])


def clipped_without_dropping(users: list[Gradient], limit: float) -> Gradient:
    return total([[part * torch.tensor(limit / norm(user)).clamp(max=1.0) for part in user] for user in users])


def real(way: str = "bookkeeping", user_loss=loss) -> Step:
    return recorded_step(made_up_model(), user_loss, PLAN, gradients_by_name(way), seeded, micro_batch=16)


def broken(combine: Callable[[list[Gradient], float], Gradient]) -> Step:
    return recorded_step(made_up_model(), loss, PLAN, Broken(combine), seeded, micro_batch=USERS)


def per_record(batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    x, y = batch
    return list(real()((x.reshape(-1, 1, 6), y.reshape(-1, 1))))


def divided_by_count(batch: tuple[Tensor, Tensor]) -> list[Tensor]:
    return [part * PLAN.expected_users / count_users(batch) for part in real()(batch)]


def poisoned() -> tuple[Tensor, Tensor]:
    x, y = made_up_users()
    x[HUGE, 0, 0] = math.nan
    return x, y


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("users", [made_up_users, poisoned])
def test_the_real_step_stays_within_the_clip(way: str, users: Callable[[], tuple[Tensor, Tensor]]) -> None:
    report = replay_neighbours(real(way), users(), 1.0)
    assert report.holds, str(report)
    assert "holds" in str(report)
    if users is made_up_users:
        assert report.measured == pytest.approx(1.0, rel=1e-3), "the huge user reaches the clip, so the test can fail"
    else:
        assert report.distances[HUGE] < 1e-4


VIOLATIONS: dict[str, tuple[Step, Callable[[], tuple[Tensor, Tensor]], float]] = {
    "no clip": (broken(unclipped), made_up_users, 50.0),
    "clip of the mean": (broken(clipped_mean), made_up_users, 5.0),
    "clip per layer charged as flat": (broken(clipped_per_layer), made_up_users, 1.41),
    "five records of one user": (per_record, made_up_users, 3.0),
    "centring over users": (real(user_loss=centred_loss), made_up_users, 1.5),
    "divisor from the number of users": (divided_by_count, made_up_users, 1.1),
    "a user with NaN": (broken(clipped_without_dropping), poisoned, math.nan),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_the_replay_catches(name: str) -> None:
    step, users, at_least = VIOLATIONS[name]
    report = replay_neighbours(step, users(), 1.0, users=(HUGE, 0, 23))
    assert not report.holds
    assert "VIOLATED" in str(report)
    assert math.isnan(report.measured) if math.isnan(at_least) else report.measured >= at_least


def test_a_step_that_cannot_be_repeated_is_not_called_private() -> None:
    step = recorded_step(made_up_model(), loss, PLAN, gradients_by_name("bookkeeping"), GaussianNoise)
    report = replay_neighbours(step, made_up_users(), 1.0, users=(HUGE,))
    assert not report.repeatable
    assert not report.holds
    assert "not repeatable" in str(report)


def test_replaying_does_not_change_the_model() -> None:
    model = made_up_model()
    before = model.weight.clone()
    recorded_step(model, loss, PLAN, gradients_by_name("bookkeeping"), seeded)(made_up_users())
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None


class Positions(nn.Module):
    """Looks positions up once for all users."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(ITEMS, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.table(torch.arange(ITEMS)))


def masked_mean(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    mask = (y > 0).float()
    return ((model(x).squeeze(-1) - y).square() * mask).sum(1) / mask.sum()


@pytest.mark.parametrize("way", WAYS)
def test_losses_and_layers_that_mix_users_are_refused_on_made_up_users(way: str) -> None:
    gradients = gradients_by_name(way)
    few = select_users(made_up_users(), torch.arange(ITEMS))
    refuse_mixed_users(made_up_model(), loss, few, gradients)
    for model, user_loss in ((made_up_model(), centred_loss), (made_up_model(), masked_mean), (Positions(), loss)):
        with pytest.raises(PrivacyError, match=r"among others|dim 0 must be"):
            refuse_mixed_users(model, user_loss, few, gradients)
