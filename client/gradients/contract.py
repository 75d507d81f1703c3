"""What every way of computing private gradients promises, and the checks they share.

The unit is the user: one row (dim 0) of a batch holds everything one user contributes to a step. With g_u the
gradient of that user's own loss over all trainable parameters, a way returns

    sum over users of g_u * min(1, max_grad_norm / |g_u|)                       (Abadi et al. 2016, flat clipping)

and guarantees, whatever one user's rows hold:
  1. removing that user changes the returned sum by at most `max_grad_norm` in L2 norm (up to float rounding);
  2. a user whose gradient norm is not finite contributes exactly zero, and never stops the step;
  3. anything it cannot prove to be the user's whole gradient is refused (`PrivacyError`), never approximated;
  4. no parameter's `.grad` is read or written, and nothing is left attached to the model.

Shapes: B users of a (micro-)batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from mmrec_model.errors import PrivacyError

Batch: TypeAlias = Any
"""A tensor, or a (frozen) dataclass, tuple, list or mapping of tensors; dim 0 of every tensor is the user."""

UserLoss: TypeAlias = Callable[[nn.Module, Batch], Tensor]
"""Returns the loss of each user, shape [B]; entry u may depend on the rows of user u alone."""


class ClippedSum(NamedTuple):
    """What a way returns for one (micro-)batch.

    Attributes:
        sums: one float32 tensor (float64 for a float64 parameter) per trainable parameter, in the order of
            `model.parameters()`.
        local_norms_B: each user's gradient norm before clipping. Not noised: it must never leave the partner.
            The ghost and book-keeping ways return a bound that exceeds the norm by rounding at most.
    """

    sums: list[Tensor]
    local_norms_B: Tensor


class PerUserGradients(Protocol):
    """One way of computing the clipped sum; the ways are interchangeable."""

    @property
    def name(self) -> str:
        """`hooks`, `ghost` or `bookkeeping`; recorded with every step."""

    def clipped_sum(self, model: nn.Module, user_loss: UserLoss, batch: Batch, max_grad_norm: float) -> ClippedSum:
        """The sum of clipped user gradients.

        Args:
            model: a model that `refuse_unsupported` accepts.
            user_loss: loss of each user, shape [B].
            batch: the users; may be empty.
            max_grad_norm: clip, > 0 and finite.

        Raises:
            PrivacyError: the model or loss is built in a way for which the guarantee would not hold.
        """


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained, in the order of `model.parameters()`."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def zero_sums(model: nn.Module) -> list[Tensor]:
    """The clipped sum over no users."""
    return [torch.zeros(p.shape, dtype=sum_dtype(p), device=p.device) for p in trainable_parameters(model)]


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Precision of norms and sums: float32, or float64 where the tensor is float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def tensors_in(batch: Batch) -> list[Tensor]:
    """All tensors of a batch, depth first."""
    if isinstance(batch, Tensor):
        return [batch]
    if is_dataclass(batch) and not isinstance(batch, type):
        return [t for item in fields(batch) for t in tensors_in(getattr(batch, item.name))]
    if isinstance(batch, Mapping):
        return [t for value in batch.values() for t in tensors_in(value)]
    if isinstance(batch, list | tuple):
        return [t for value in batch for t in tensors_in(value)]
    return []


def count_users(batch: Batch) -> int:
    """Number of users B of a batch.

    Raises:
        PrivacyError: the batch holds no tensor, or tensors that disagree about the number of users.
    """
    tensors = tensors_in(batch)
    rows = {t.shape[0] if t.dim() else -1 for t in tensors}
    if len(rows) != 1 or -1 in rows:
        raise PrivacyError(
            f"the tensors of a batch have {sorted(rows) or 'no'} rows, one row per user is needed in each of them",
            remedy="Make dim 0 of every tensor of the batch the user; hand public tensors to the loss by closure",
        )
    return rows.pop()


def select_users(batch: Batch, index: Tensor) -> Batch:
    """The batch of the users at `index` ([n] int64 positions), of the same type as `batch`."""
    if isinstance(batch, Tensor):
        return batch.index_select(0, index.to(batch.device))
    if is_dataclass(batch) and not isinstance(batch, type):
        return type(batch)(**{item.name: select_users(getattr(batch, item.name), index) for item in fields(batch)})
    if isinstance(batch, Mapping):
        return {key: select_users(value, index) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(select_users(value, index) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(select_users(value, index) for value in batch)
    return batch


def losses_of_users(model: nn.Module, user_loss: UserLoss, batch: Batch, users: int) -> Tensor:
    """Call the loss and check that it returns one number per user.

    Raises:
        PrivacyError: the shape is not [B]. A loss of shape [B, 1] times B clip coefficients broadcasts to B x B and
            silently removes the clip; a scalar loss cannot be taken apart into users.
    """
    loss_B = user_loss(model, batch)
    if loss_B.shape != (users,) or not loss_B.is_floating_point():
        raise PrivacyError(
            f"the user loss has shape {tuple(loss_B.shape)} and type {loss_B.dtype}, the limit is one floating "
            f"number per user, shape ({users},)",
            remedy="Reduce each user's loss over his own rows and divide by his own count only",
        )
    return loss_B


def clip_coefficients(square_norm_B: Tensor, max_grad_norm: float) -> tuple[Tensor, Tensor]:
    """Per-user factors min(1, C / |g_u|), and which users count.

    Args:
        square_norm_B: squared gradient norms, or upper bounds of them; may hold NaN or inf.
        max_grad_norm: C.

    Returns:
        coefficient_B in [0, 1], zero for a user without a finite norm; finite_B, bool.
    """
    norm_B = square_norm_B.sqrt()
    finite_B = torch.isfinite(norm_B)
    coefficient_B = (max_grad_norm / norm_B).clamp(max=1.0)
    return torch.where(finite_B, coefficient_B, torch.zeros_like(coefficient_B)), finite_B


def check_max_grad_norm(max_grad_norm: float) -> None:
    """Refuse a clip that bounds nothing.

    Raises:
        PrivacyError: not above 0, or not finite.
    """
    if not 0.0 < max_grad_norm < float("inf"):
        raise PrivacyError(
            f"max_grad_norm is {max_grad_norm}, it must be above 0 and finite",
            remedy="Use the clip of the approved plan",
        )
