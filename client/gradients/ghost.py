"""The ghost way: Opacus' norms from activations and output gradients, then a second backward of the weighted loss.

What is released here is autograd's own gradient, so anything the norms did not see would go out unclipped. The way
is therefore only run with every weight watched (`client.gradients.watch`): a weight used outside its layer, a layer
used twice, and a gradient without a norm are refused. Opacus' own norm rule of nn.Linear knows three dimensions at
most and may silently reuse a stale norm; it is replaced by this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from opacus.grad_sample import GradSampleHooksFastGradientClipping
from torch import Tensor, nn

from client.gradients.contract import (
    Batch,
    ClippedSum,
    UserLoss,
    check_max_grad_norm,
    clip_coefficients,
    count_users,
    losses_of_users,
    select_users,
    sum_dtype,
    trainable_parameters,
    zero_sums,
)
from client.gradients.hooks import opacus_hooks, refuse_unfinished
from client.gradients.refusals import (
    own_parameters,
    refuse_layers_without_sampler,
    refuse_low_precision_products,
    refuse_unsupported,
)
from client.gradients.token_products import TokenProducts
from client.gradients.watch import BufferWatch, ParameterWatch
from mmrec_model.errors import PrivacyError

AUTOCAST_SHRINK = 0.99
"""Under autocast the second backward rounds the released gradient to bfloat16, up to 0.5 % above its norm."""


def linear_norms(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Per-user gradient norms of a linear layer with any number of dimensions.

    Args:
        layer: the layer.
        activations: its one input, [B, ..., d].
        backprops: output gradients, [B, ..., p].
    """
    found: dict[nn.Parameter, Tensor] = {}
    for name, parameter in own_parameters(layer).items():
        products = TokenProducts(weight=name == "weight", bias=name == "bias")
        products.add(activations[0].to(backprops.dtype), backprops)
        square_norm_B = products.square_norm()
        if square_norm_B is not None:
            found[parameter] = square_norm_B.sqrt()
    return found


class GhostHooks(GradSampleHooksFastGradientClipping):  # type: ignore[misc]
    """Opacus' ghost hooks with the project's own rule for linear layers."""

    NORM_SAMPLERS: ClassVar[dict[type[nn.Module], Callable[..., Any]]] = {
        **GradSampleHooksFastGradientClipping.NORM_SAMPLERS,
        nn.Linear: linear_norms,
    }


class GhostGradients:
    """`PerUserGradients` by ghost clipping; see `client.gradients.contract` for the promise."""

    name = "ghost"

    def clipped_sum(self, model: nn.Module, user_loss: UserLoss, batch: Batch, max_grad_norm: float) -> ClippedSum:
        """See `PerUserGradients.clipped_sum`; a batch with a non-finite user is computed again without him."""
        check_max_grad_norm(max_grad_norm)
        refuse_unsupported(model)
        refuse_layers_without_sampler(model, way=self.name)
        refuse_low_precision_products()
        users = count_users(batch)
        if users == 0:
            return ClippedSum(zero_sums(model), torch.zeros(0))
        sums, norm_B = _two_passes(model, user_loss, batch, users, max_grad_norm)
        if sums is None:
            keep = torch.isfinite(norm_B).nonzero().squeeze(1)
            sums = self.clipped_sum(model, user_loss, select_users(batch, keep), max_grad_norm).sums
        return ClippedSum(sums, norm_B)


def _two_passes(
    model: nn.Module, user_loss: UserLoss, batch: Batch, users: int, max_grad_norm: float
) -> tuple[list[Tensor] | None, Tensor]:
    """Clipped sums and norms; no sums where a user's norm is not finite."""
    buffers = BufferWatch(model)
    with opacus_hooks(model, GhostHooks) as hooks, ParameterWatch(model, users) as watch:
        loss_B = _losses_once_per_layer(model, user_loss, batch, users)
        watch.gradients(loss_B.sum(), retain_graph=True)
        buffers.check()
        hooks.disable_hooks()
        norms = [_norm(parameter, path) for path, parameter in model.named_parameters() if parameter.requires_grad]
        square_norm_B = torch.zeros(users, dtype=torch.float64, device=loss_B.device)
        for norm_B in norms:
            if norm_B is not None:
                square_norm_B += norm_B.double().square()
        coefficient_B, finite_B = clip_coefficients(square_norm_B, max_grad_norm)
        if not bool(finite_B.all()):
            return None, square_norm_B.sqrt()
        if watch.autocast or loss_B.dtype in {torch.bfloat16, torch.float16}:
            coefficient_B = coefficient_B * AUTOCAST_SHRINK
        gradients = watch.gradients((loss_B * coefficient_B.to(loss_B.dtype)).sum())
    return _released(model, gradients, norms), square_norm_B.sqrt()


def _losses_once_per_layer(model: nn.Module, user_loss: UserLoss, batch: Batch, users: int) -> Tensor:
    try:
        return losses_of_users(model, user_loss, batch, users)
    except NotImplementedError as error:
        raise PrivacyError(
            "a layer ran twice in one forward pass, of which the ghost way knows the norm of the last run only",
            remedy="Use the way 'bookkeeping' or 'hooks', or encode history and candidates in one call",
        ) from error


def _norm(parameter: nn.Parameter, path: str) -> Tensor | None:
    refuse_unfinished(parameter, path)
    norm_B: Tensor | None = getattr(parameter, "_norm_sample", None)
    return norm_B


def _released(model: nn.Module, gradients: list[Tensor | None], norms: list[Tensor | None]) -> list[Tensor]:
    sums = zero_sums(model)
    for index, (parameter, gradient) in enumerate(zip(trainable_parameters(model), gradients, strict=True)):
        if gradient is None:
            continue
        if norms[index] is None:
            raise PrivacyError(
                f"a weight of shape {tuple(parameter.shape)} has a gradient but no norm",
                remedy="Use the way 'bookkeeping'",
            )
        sums[index] = gradient.to(sum_dtype(parameter))
    return sums
