"""Cross-attention: the text, or the first modality present, asks all tokens. v = t_q + O attention(t_q; t_1, ..., t_M).

After the crossmodal attention of Tsai et al. 2019 (arXiv 1906.00295), one direction of it. The query's own token is
among those asked: of two modalities alone, the one other token would get all attention whatever query and key say. It
starts as the query's token plus the mean of what is present.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.interface import Fusion
from mmrec_model.model.fusion.masking import first_present
from mmrec_model.model.fusion.token_attention import TokenAttention
from mmrec_model.model.items import Items


class CrossAttentionFusion(Fusion):
    """`fusion_heads` heads; `weights` add 1 for the query's own token to the attention, and halve."""

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        self.attention = TokenAttention(config.hidden, config.fusion_heads)
        self.start_orthogonal()
        for layer in (self.attention.value, self.attention.out):
            nn.init.eye_(layer.weight)

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        return self._attend(items)[1]

    def weights(self, items: Items) -> Tensor:
        """The query's token and the mean attention of the heads, `[..., L, M]`."""
        return self._attend(items)[0]

    def _attend(self, items: Items) -> tuple[Tensor, Tensor]:
        tokens_LMH = self.tokens(items)
        own_LM = first_present(items.present_M).to(tokens_LMH.dtype)
        query_L1H = own_LM.unsqueeze(-2) @ tokens_LMH
        read_L1H, attention_L1M = self.attention(query_L1H, tokens_LMH, items.present_M)
        return (own_LM + attention_L1M.squeeze(-2)) / 2, (query_L1H + read_L1H).squeeze(-2)
