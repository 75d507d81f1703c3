"""Attention over the modalities of an item; the default. v = sum_m softmax_m(a . tanh(t_m)) t_m over what is present.

After the attention of Bahdanau et al. 2015 (arXiv 1409.0473) with a learned query: one number per hidden width.
It starts as the mean of the projected modalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.interface import MeanOfTokens
from mmrec_model.model.fusion.masking import masked_softmax
from mmrec_model.model.items import Items


class AttentionFusion(MeanOfTokens):
    """Attention over modality tokens; `weights` are what mixes them."""

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        self.attention = nn.Linear(config.hidden, 1, bias=False)
        self.start_orthogonal()
        nn.init.zeros_(self.attention.weight)

    def weights_of(self, tokens_LMH: Tensor, items: Items) -> Tensor:
        """Attention of each modality, `[..., L, M]`."""
        *leading, modalities, hidden = tokens_LMH.shape
        flat = tokens_LMH.reshape(*leading[:-1], leading[-1] * modalities, hidden)
        logits_LM = self.attention(torch.tanh(flat)).reshape(*leading, modalities)
        return masked_softmax(logits_LM, items.present_M)
