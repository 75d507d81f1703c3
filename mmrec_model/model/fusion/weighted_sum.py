"""Learned weighted sum: v = sum_m softmax_m(c_m) t_m over what is present, one number c_m per modality for all items.

The smallest feature-level fusion: M numbers beside the projections. It starts as the mean of the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.interface import Fusion, weighted_mean
from mmrec_model.model.fusion.masking import masked_softmax
from mmrec_model.model.items import Items


class ModalityLogits(nn.Module):
    """One number per modality, alone in a module so that its gradient per user is known."""

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(modalities))

    def forward(self, present_LM: Tensor) -> Tensor:
        """Softmax over the modalities present, `[..., L, M]`."""
        return masked_softmax(self.weight.expand(present_LM.shape), present_LM)


class WeightedSumFusion(Fusion):
    """The same weights for every item, renormalised over what it has."""

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        self.logits = ModalityLogits(len(dims))
        self.start_orthogonal()

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        return weighted_mean(self.weights(items), self.tokens(items))

    def weights(self, items: Items) -> Tensor:
        """Learned weights over what is present, `[..., L, M]`."""
        weights_LM: Tensor = self.logits(items.present_M)
        return weights_LM
