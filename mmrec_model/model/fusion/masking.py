"""Weights over the modalities that are present: exactly 0 elsewhere, and rows that sum to 1 where anything is."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where `mask` is True; exactly 0 elsewhere, and all 0 where nothing is present."""
    peak = logits.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, torch.zeros_like(peak)).detach()
    weights = torch.where(mask, (logits - peak).exp(), torch.zeros_like(logits))
    return normalised(weights)


def normalised(weights: Tensor) -> Tensor:
    """Weights of at least 0 divided by the sum of their row; a row of zeros stays so."""
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def shares(sizes: Tensor, mask: Tensor) -> Tensor:
    """Each size's part of its row, among what is present; equal parts where every size of a row is 0.

    Args:
        sizes: at least 0.
        mask: of the same shape, True where present.
    """
    present = mask.to(sizes.dtype)
    counted = sizes * present
    return normalised(torch.where(counted.sum(-1, keepdim=True) > 0, counted, present))


def first_present(mask: Tensor) -> Tensor:
    """True at the first True of each row of the last axis, False everywhere else."""
    return mask & (mask.cumsum(-1) == 1)
