"""Gates from the joint content: v = sum_m g_m t_m / sum_m g_m with g = sigmoid(G [t_1; ...; t_M; present] + c).

After the gated multimodal unit (Arevalo et al. 2017, arXiv 1702.01992). The gates are divided by their sum over what
is present, so that an item with one modality is as long as one with four. It starts as the mean of the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.concat import joined
from mmrec_model.model.fusion.interface import MeanOfTokens
from mmrec_model.model.fusion.masking import masked_softmax
from mmrec_model.model.items import Items


class GatedFusion(MeanOfTokens):
    """One gate per modality that sees all of them; `weights` are the gates over their sum."""

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        count = len(dims)
        self.gates = nn.Linear(count * (config.hidden + 1), count)
        self.start_orthogonal()
        nn.init.zeros_(self.gates.weight)
        nn.init.zeros_(self.gates.bias)

    def weights_of(self, tokens_LMH: Tensor, items: Items) -> Tensor:
        """Gates over their sum, `[..., L, M]`."""
        logits_LM = self.gates(joined(tokens_LMH, items.present_M))
        # The softmax of log-sigmoids is the sigmoids over their sum, also where all of them round to 0.
        return masked_softmax(nn.functional.logsigmoid(logits_LM), items.present_M)
