"""The reference way: Opacus' per-sample gradients of every layer, in memory at once, clipped here.

Slow (2-3 times a plain step) and large (one gradient per user), but each user's gradient is there to be looked at.
Opacus only computes `grad_sample`; clip, sum, noise and divisor are this project's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from client.gradients.contract import (
    Batch,
    ClippedSum,
    UserLoss,
    check_max_grad_norm,
    clip_coefficients,
    count_users,
    losses_of_users,
    sum_dtype,
    trainable_parameters,
    zero_sums,
)
from client.gradients.refusals import refuse_layers_without_sampler, refuse_unsupported
from client.gradients.watch import BufferWatch, ParameterWatch
from mmrec_model.errors import PrivacyError


class HookGradients:
    """`PerUserGradients` by Opacus hooks; see `client.gradients.contract` for the promise."""

    name = "hooks"

    def clipped_sum(self, model: nn.Module, user_loss: UserLoss, batch: Batch, max_grad_norm: float) -> ClippedSum:
        """See `PerUserGradients.clipped_sum`; memory is users x parameters."""
        check_max_grad_norm(max_grad_norm)
        refuse_unsupported(model)
        refuse_layers_without_sampler(model, way=self.name)
        users = count_users(batch)
        if users == 0:
            return ClippedSum(zero_sums(model), torch.zeros(0))
        per_user = _gradients_of_users(model, user_loss, batch, users)
        square_norm_B = torch.zeros(users, dtype=torch.float64, device=trainable_parameters(model)[0].device)
        for gradient in per_user:
            if gradient is not None:
                square_norm_B += gradient.reshape(users, -1).norm(dim=1).double().square()
        coefficient_B, finite_B = clip_coefficients(square_norm_B, max_grad_norm)
        keep = finite_B.nonzero().squeeze(1)
        sums = [
            zero if gradient is None else torch.tensordot(coefficient_B[keep].to(gradient), gradient[keep], dims=1)
            for zero, gradient in zip(zero_sums(model), per_user, strict=True)
        ]
        return ClippedSum(sums, square_norm_B.sqrt())


def _gradients_of_users(model: nn.Module, user_loss: UserLoss, batch: Batch, users: int) -> list[Tensor | None]:
    buffers = BufferWatch(model)
    with opacus_hooks(model, GradSampleHooks), ParameterWatch(model, users) as watch:
        loss_B = losses_of_users(model, user_loss, batch, users)
        watch.gradients(loss_B.sum())
        buffers.check()
        return [_whole_gradient(p, path) for path, p in model.named_parameters() if p.requires_grad]


def _whole_gradient(parameter: nn.Parameter, path: str) -> Tensor | None:
    refuse_unfinished(parameter, path)
    gradient: Tensor | None = vars(parameter)["grad_sample"]
    return None if gradient is None else gradient.to(sum_dtype(parameter))


def refuse_unfinished(parameter: nn.Parameter, path: str) -> None:
    """Refuse when Opacus saw a forward pass of the parameter's layer without its backward pass.

    Raises:
        PrivacyError: an output was not used in the loss, or the hooks were bypassed (checkpointing).
    """
    unfinished: int = vars(parameter)["_forward_counter"]
    if unfinished != 0:
        raise PrivacyError(
            f"the layer of {path!r} ran {unfinished} times more forward than backward",
            remedy="Use every output of the layer in the loss, without activation checkpointing",
        )


@contextmanager
def opacus_hooks(model: nn.Module, kind: type[GradSampleHooks]) -> Iterator[GradSampleHooks]:
    """Attach Opacus to the model itself for one pass, and leave nothing behind."""
    if hasattr(model, "autograd_grad_sample_hooks"):
        raise PrivacyError("the model already carries Opacus hooks", remedy="Clean them up before the step")
    hooks = kind(model, batch_first=True, loss_reduction="sum", strict=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield hooks
    finally:
        hooks.cleanup()
        for module in model.modules():
            for name in ("activations", "max_batch_len", "ft_compute_sample_grad"):
                if name in vars(module):
                    delattr(module, name)
