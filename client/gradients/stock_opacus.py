"""Opacus as it comes, for comparison in benchmarks; never used to train on anyone's data.

It lacks what `client.private_step` adds: refusals, dropped users, empty samples, noise from a cryptographic generator.
It lies here because no other package may import Opacus.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import nn

from client.gradients.contract import Batch, UserLoss, trainable_parameters


def stock_opacus_step(
    model: nn.Module,
    user_loss: UserLoss,
    mode: Literal["hooks", "ghost"],
    *,
    expected_users: int,
    max_grad_norm: float,
    noise_multiplier: float,
    learning_rate: float,
) -> Callable[[Batch], None]:
    """A step function over whole batches; the model keeps Opacus' hooks.

    Args:
        model: wrapped for good.
        user_loss: loss of each user, [B].
        mode: Opacus' `grad_sample_mode`.
        expected_users: divisor.
        max_grad_norm: clip.
        noise_multiplier: noise in units of the clip.
        learning_rate: of plain SGD.
    """
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    plain = torch.optim.SGD(trainable_parameters(model), lr=learning_rate)
    if mode == "hooks":
        wrapped = GradSampleModule(model)
        optimizer = DPOptimizer(
            plain,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_users,
        )
    else:
        wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=max_grad_norm)
        optimizer = DPOptimizerFastGradientClipping(
            plain,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_users,
        )

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        loss_B = user_loss(wrapped, batch)
        if mode == "hooks":
            torch.autograd.backward(loss_B.mean())
        else:
            DPTensorFastGradientClipping(wrapped, optimizer, loss_B).backward()
        optimizer.step()

    return step
