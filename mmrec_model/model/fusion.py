"""Feature-level fusion: one vector per item from whatever modalities it has.

Each modality's leading PCA dimensions are projected into a shared space; an attention over the modalities that are
present mixes them. A missing modality has weight exactly 0, the weights of the others sum to 1, and an item without
any modality is the zero vector. Every parametrised layer sees `[users, tokens, width]`, so a per-sample gradient is a
per-user gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.items import Items


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where `mask` is True; exactly 0 elsewhere, and all 0 where nothing is present."""
    peak = logits.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    peak = torch.where(peak.isfinite(), peak, torch.zeros_like(peak)).detach()
    weights = torch.where(mask, (logits - peak).exp(), torch.zeros_like(logits))
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


class AttentionFusion(nn.Module):
    """Attention over modality tokens.

    Args:
        config: gives `hidden` and `trained_dims`.
        dims: width of each modality's frozen vectors.
    """

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__()
        self.widths = {name: min(width, config.trained_dims) for name, width in dims.items()}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width, config.hidden, bias=False) for name, width in self.widths.items()}
        )
        self.attention = nn.Linear(config.hidden, 1, bias=False)
        for projection in self.projections.values():
            nn.init.orthogonal_(projection.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.attention.weight)

    def weights(self, items: Items) -> Tensor:
        """Attention of each modality, `[..., L, M]`; rows sum to 1 where anything is present."""
        return self._mix(self._tokens(items), items)[0]

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        return self._mix(self._tokens(items), items)[1]

    def _tokens(self, items: Items) -> Tensor:
        projected = [
            projection(items.vectors[name][..., : self.widths[name]])  # type: ignore[index]
            for name, projection in self.projections.items()
        ]
        return torch.stack(projected, dim=-2)  # [..., L, M, H]

    def _mix(self, tokens_LMH: Tensor, items: Items) -> tuple[Tensor, Tensor]:
        *leading, modalities, hidden = tokens_LMH.shape
        flat = tokens_LMH.reshape(*leading[:-1], leading[-1] * modalities, hidden)
        logits_LM = self.attention(torch.tanh(flat)).reshape(*leading, modalities)
        weights_LM = masked_softmax(logits_LM, items.present_M)
        return weights_LM, (weights_LM.unsqueeze(-2) @ tokens_LMH).squeeze(-2)
