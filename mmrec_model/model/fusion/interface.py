"""What every fusion promises, and the projections that they share.

For items `[..., L]` with M modalities, whatever subset of them an item has:
1. the fused vector is finite, and exactly zero for an item without any modality;
2. what the vectors of a missing modality hold changes nothing; its weight is exactly 0;
3. the weights of an item that has anything sum to 1;
4. every parametrised layer sees `[users, ...]`, so that a per-sample gradient is a per-user gradient.

Leading axes are `[users]`, or `[1]` for a list that every user is scored against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.items import Items


class Fusion(nn.Module, ABC):
    """One vector per item from the leading PCA dimensions of its modalities, each projected into a shared space.

    Args:
        config: gives `hidden`, `trained_dims` and what the family reads.
        dims: width of each modality's frozen vectors, in the order of `Items.vectors`.

    Attributes:
        widths: leading dimensions of each modality that are read.
    """

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__()
        self.widths = {name: min(width, config.trained_dims) for name, width in dims.items()}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width, config.hidden, bias=False) for name, width in self.widths.items()}
        )

    @abstractmethod
    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""

    @abstractmethod
    def weights(self, items: Items) -> Tensor:
        """How much each modality counts, `[..., L, M]`; what that means is said by the family."""

    def tokens(self, items: Items) -> Tensor:
        """Projected modalities `[..., L, M, H]`, zero where missing."""
        projected = [
            projection(items.vectors[name][..., : self.widths[name]])  # type: ignore[index]
            for name, projection in self.projections.items()
        ]
        return torch.stack(projected, dim=-2).masked_fill(~items.present_M.unsqueeze(-1), 0.0)

    def start_orthogonal(self) -> None:
        """Let every projection keep lengths and angles; called last in `__init__`, after all layers are made."""
        for projection in self.projections.values():
            nn.init.orthogonal_(projection.weight)  # type: ignore[arg-type]


class MeanOfTokens(Fusion):
    """A family whose fused vector is the mean of an item's tokens by weights that the tokens themselves give."""

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        tokens_LMH = self.tokens(items)
        return weighted_mean(self.weights_of(tokens_LMH, items), tokens_LMH)

    def weights(self, items: Items) -> Tensor:
        """What each token counts in the mean, `[..., L, M]`."""
        return self.weights_of(self.tokens(items), items)

    @abstractmethod
    def weights_of(self, tokens_LMH: Tensor, items: Items) -> Tensor:
        """Weights of the tokens, `[..., L, M]`."""


def weighted_mean(weights_LM: Tensor, tokens_LMH: Tensor) -> Tensor:
    """Sum of the tokens times their weights, `[..., L, H]`."""
    return (weights_LM.unsqueeze(-2) @ tokens_LMH).squeeze(-2)
