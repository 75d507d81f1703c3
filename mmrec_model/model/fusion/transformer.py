"""One joint transformer over all modality tokens of an item ("model-level" fusion), then the mean of what is present.

Pre-norm encoder layers (Xiong et al. 2020, arXiv 2002.04745) of plain linear layers: attention, then a layer twice as
wide. A learned vector per modality tells the tokens apart. Both branches of every layer start at zero, so the whole
starts as the mean of the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.interface import Fusion, weighted_mean
from mmrec_model.model.fusion.masking import normalised
from mmrec_model.model.fusion.token_attention import TokenAttention
from mmrec_model.model.items import Items


class EncoderLayer(nn.Module):
    """Attention over an item's tokens and a two-layer network on each, both added to what came in."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.before_attention, self.before_network = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention = TokenAttention(hidden, heads)
        self.wide, self.narrow = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden, bias=False)
        for layer in (self.attention.out, self.narrow):
            nn.init.zeros_(layer.weight)

    def forward(self, tokens_LMH: Tensor, mask_LM: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the next layer, and the mean attention of the heads `[..., L, M, M]`."""
        normed = self.before_attention(tokens_LMH)
        read, attention_LMM = self.attention(normed, normed, mask_LM)
        tokens_LMH = tokens_LMH + read
        return tokens_LMH + self.narrow(nn.functional.gelu(self.wide(self.before_network(tokens_LMH)))), attention_LMM


class TransformerFusion(Fusion):
    """`fusion_layers` layers of `fusion_heads` heads; `weights` are the attention that each token gets in the last."""

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        self.kinds = nn.Embedding(len(dims), config.hidden)
        self.layers = nn.ModuleList(
            EncoderLayer(config.hidden, config.fusion_heads) for _ in range(config.fusion_layers)
        )
        self.start_orthogonal()
        nn.init.zeros_(self.kinds.weight)

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        return self._encode(items)[1]

    def weights(self, items: Items) -> Tensor:
        """Attention received in the last layer, the mean over heads and present tokens, `[..., L, M]`."""
        return self._encode(items)[0]

    def _encode(self, items: Items) -> tuple[Tensor, Tensor]:
        present_LM = items.present_M
        kinds_LM = torch.arange(present_LM.shape[-1], device=present_LM.device).expand(present_LM.shape)
        tokens_LMH = self.tokens(items) + self.kinds(kinds_LM)
        equal_LM = normalised(present_LM.to(tokens_LMH.dtype))
        received_LM = equal_LM
        for layer in self.layers:
            tokens_LMH, attention_LMM = layer(tokens_LMH, present_LM)
            received_LM = weighted_mean(equal_LM, attention_LMM)
        return received_LM, weighted_mean(equal_LM, tokens_LMH)
