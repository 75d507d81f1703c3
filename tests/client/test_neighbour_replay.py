"""The replay accepts the real step and catches each of the ways in which trainers have broken the bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from client.gradients import WAYS, gradients_by_name
from client.gradients.contract import select_users
from client.neighbour_replay import recorded_step, refuse_mixed_users, replay_neighbours
from client.sensitivity_cases import (
    HUGE,
    ITEMS,
    PLAN,
    TRIED,
    Case,
    Users,
    broken_cases,
    centred_loss,
    made_up_model,
    made_up_users,
    measure,
    poisoned_users,
    real_step,
    seeded,
    squared_loss,
)
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.noise import GaussianNoise


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("users", [made_up_users, poisoned_users])
def test_the_real_step_stays_within_the_clip(way: str, users: Callable[[], Users]) -> None:
    report = replay_neighbours(real_step(way), users(), 1.0)
    assert report.holds, str(report)
    assert "holds" in str(report)
    if users is made_up_users:
        assert report.measured == pytest.approx(1.0, rel=1e-3), "the huge user reaches the clip, so the test can fail"
    else:
        assert report.distances[HUGE] < 1e-4


@pytest.mark.parametrize("case", broken_cases(), ids=lambda case: case.name)
def test_the_replay_catches(case: Case) -> None:
    assert case.least is not None
    report = replay_neighbours(case.step(), case.users(), 1.0, users=TRIED)
    assert not report.holds
    assert "VIOLATED" in str(report)
    assert math.isnan(report.measured) if math.isnan(case.least) else report.measured >= case.least
    assert measure(case).expected


def test_a_step_that_cannot_be_repeated_is_not_called_private() -> None:
    step = recorded_step(made_up_model(), squared_loss, PLAN, gradients_by_name("bookkeeping"), GaussianNoise)
    report = replay_neighbours(step, made_up_users(), 1.0, users=(HUGE,))
    assert not report.repeatable
    assert not report.holds
    assert "not repeatable" in str(report)


def test_replaying_does_not_change_the_model() -> None:
    model = made_up_model()
    before = model.weight.clone()
    recorded_step(model, squared_loss, PLAN, gradients_by_name("bookkeeping"), seeded)(made_up_users())
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
    refuse_mixed_users(made_up_model(), squared_loss, few, gradients)
    mixed = ((made_up_model(), centred_loss), (made_up_model(), masked_mean), (Positions(), squared_loss))
    for model, user_loss in mixed:
        with pytest.raises(PrivacyError, match=r"among others|dim 0 must be"):
            refuse_mixed_users(model, user_loss, few, gradients)
