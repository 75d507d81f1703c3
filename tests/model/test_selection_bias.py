"""Conversions are known on clicked rows alone: what that does to each of the two conversion losses, on known truth.

A confounder drives clicks, and conversions if clicked, in another way. The heads are linear in it, as small heads are,
so they cannot fit conversions everywhere and have to choose where to be right.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mmrec_model.config import ModelConfig
from mmrec_model.model.heads.losses import row_losses
from mmrec_model.model.heads.outcomes import Outcomes

ROWS = 20_000


@dataclass(frozen=True)
class World:
    """Impressions `[R]`: the confounder, the true rates of clicks and of conversions if clicked, and what happened."""

    features: Tensor
    pctr: Tensor
    pcvr: Tensor
    clicked: Tensor
    converted: Tensor


@pytest.fixture(scope="module")
def world() -> World:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, generator=generator, dtype=torch.float64)
    pctr, pcvr = torch.sigmoid(2.0 * x - 1.0), torch.sigmoid(1.0 - 2.0 * x.abs())
    clicked = torch.rand(ROWS, generator=generator) < pctr
    converted = clicked & (torch.rand(ROWS, generator=generator) < pcvr)
    return World(torch.stack([torch.ones_like(x), x], dim=-1), pctr, pcvr, clicked, converted)


def learned(world: World, cvr_loss: str) -> tuple[Tensor, Tensor]:
    """pCTR and pCVR `[R]` of the linear heads that minimise the losses, with one impression per user."""
    config = ModelConfig(heads={"ctr": 1.0, "cvr": 1.0}, cvr_loss=cvr_loss)
    zero = torch.zeros(ROWS, 1, dtype=torch.int64)
    yes = zero == 0
    labels = (world.clicked.unsqueeze(1), world.converted.unsqueeze(1))
    rows = Outcomes(zero, yes, yes, *labels, ~yes, zero.double(), zero, zero, zero, zero)
    weights = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        ctr, cvr = (world.features @ weights.T).T.unsqueeze(-1)
        losses = row_losses(config, {"ctr": ctr, "cvr": cvr}, rows)
        total = losses["ctr"].mean() + losses["cvr"].mean()
        total.backward()
        return total

    optimizer.step(closure)
    ctr, cvr = torch.sigmoid(world.features @ weights.detach().T).T
    return ctr, cvr


def test_a_conditional_head_is_right_on_clicks_and_too_high_on_everything_that_is_shown(world: World) -> None:
    _, pcvr = learned(world, "conditional")
    on_clicks = (pcvr - world.pcvr)[world.clicked].mean()
    on_all = (pcvr - world.pcvr).mean()
    assert abs(on_clicks) < 0.02
    assert on_all > 0.1


def test_esmm_is_closer_on_conversions_per_impression(world: World) -> None:
    """What orders impressions by value is the product, on everything that is shown."""
    truth = world.pctr * world.pcvr
    error = {}
    for cvr_loss in ("conditional", "esmm"):
        pctr, pcvr = learned(world, cvr_loss)
        error[cvr_loss] = float((pctr * pcvr - truth).abs().mean())
    assert error["esmm"] < 0.6 * error["conditional"]


def test_a_conversion_rate_alone_is_no_conversion_per_impression(world: World) -> None:
    """The known error of calling one the other: it overstates what an impression brings several times."""
    truth = world.pctr * world.pcvr
    for cvr_loss in ("conditional", "esmm"):
        _, pcvr = learned(world, cvr_loss)
        assert pcvr.mean() > 2.0 * truth.mean()


def test_esmm_does_not_mend_the_conversion_rate_itself(world: World) -> None:
    """Its pCVR is a quotient of two learned numbers; that it were unbiased on all impressions is not so."""
    _, pcvr = learned(world, "esmm")
    assert (pcvr - world.pcvr).mean() > 0.1
