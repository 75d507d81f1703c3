"""Trained weights of the content profile: which PCA dimensions of a modality tell one user's taste from another's.

One number per leading dimension, the cheapest trained part there is: noise grows with the number of weights, and a
diagonal metric on whitened features has `trained_dims` of them where a full one has the square.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DimensionWeights(nn.Module):
    """Scale each dimension; starts at zero, so that the residual it adds starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, profile_BTD: Tensor) -> Tensor:
        """The profile with every dimension weighted, `[B, T, D]`."""
        return profile_BTD * self.weight
