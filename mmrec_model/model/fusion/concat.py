"""Concatenation: v = W [t_1; ...; t_M; present], the missing modalities zero and the mask told to the layer.

With `fusion_layers` above 1, each further layer is a GELU and a square matrix (early fusion, Baltrusaitis et al. 2018,
arXiv 1705.09406, section 6.1). No layer has a bias, so an item without any modality stays the zero vector. The first
layer starts as the sum of the tokens divided by M.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.interface import Fusion
from mmrec_model.model.fusion.masking import shares
from mmrec_model.model.items import Items


class ConcatFusion(Fusion):
    """Layers over the concatenated modalities; `weights` are parts of what the first layer makes of each, by length."""

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        hidden, count = config.hidden, len(dims)
        self.first = nn.Linear(count * (hidden + 1), hidden, bias=False)
        self.further = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(config.fusion_layers - 1))
        self.start_orthogonal()
        with torch.no_grad():
            blocks = [torch.eye(hidden) / count] * count
            self.first.weight.copy_(torch.cat([*blocks, torch.zeros(hidden, count)], dim=1))
        for layer in self.further:
            nn.init.orthogonal_(layer.weight)  # type: ignore[arg-type]

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        fused: Tensor = self.first(joined(self.tokens(items), items.present_M))
        for layer in self.further:
            fused = layer(nn.functional.gelu(fused))
        return fused

    def weights(self, items: Items) -> Tensor:
        """Length of each modality's part after the first layer, as a share `[..., L, M]`."""
        alone = torch.eye(items.present_M.shape[-1], dtype=torch.bool, device=items.present_M.device)
        present_LMM = items.present_M.unsqueeze(-2) & alone
        tokens_LMMH = self.tokens(items).unsqueeze(-3).masked_fill(~present_LMM.unsqueeze(-1), 0.0)
        return shares(self.first(joined(tokens_LMMH, present_LMM)).norm(dim=-1), items.present_M)


def joined(tokens_LMH: Tensor, present_LM: Tensor) -> Tensor:
    """All tokens of an item and its mask as one row, `[..., L, M * H + M]`."""
    return torch.cat([tokens_LMH.flatten(-2), present_LM.to(tokens_LMH.dtype)], dim=-1)
