"""Text + lambda * image + ... + mu * rating: the first modality whole, the others and the rating by learned numbers.

    v = t_1 + sum_{m > 1} lambda_m t_m + mu R r

t_1 is the text, or the first modality of a model without text; r is the item's `prior`, the standardised popularity
from one release under differential privacy, and R a learned direction. lambda starts at the modality's public weight
and mu at `popularity_weight`; all of them at 0 is the fusion of the first modality alone, exactly. The rating is the
same number for every user, as released: no label and no row of the user at hand is read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.interface import Fusion
from mmrec_model.model.fusion.masking import shares
from mmrec_model.model.items import Items


class Coefficients(nn.Module):
    """One learned number per addend, alone in a module so that its gradient per user is known."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    def forward(self, addends_LNH: Tensor) -> Tensor:
        """Weighted sum of the addends, `[..., L, H]`."""
        summed: Tensor = (addends_LNH * self.weight.unsqueeze(-1)).sum(-2)
        return summed


class AdditiveFusion(Fusion):
    """A sum by learned numbers; `weights` are their sizes, the first modality's being 1, as shares."""

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        others = [config.modality_weights.get(name, 0.0) for name in list(dims)[1:]]
        self.rating = nn.Linear(1, config.hidden, bias=False)
        self.coefficients = Coefficients([*others, config.popularity_weight])
        self.start_orthogonal()
        nn.init.orthogonal_(self.rating.weight)

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        tokens_LMH = self.tokens(items)
        rating_LH = self.rating(items.prior.unsqueeze(-1))
        rest_LH: Tensor = self.coefficients(torch.cat([tokens_LMH[..., 1:, :], rating_LH.unsqueeze(-2)], dim=-2))
        fused_LH = tokens_LMH[..., 0, :] + rest_LH
        return fused_LH.masked_fill(~items.present_M.any(-1, keepdim=True), 0.0)

    def weights(self, items: Items) -> Tensor:
        """Size of each modality's number as a share of those present, `[..., L, M]`; the rating is none of them."""
        learned = self.coefficients.weight.detach()[:-1].abs()
        sizes_M = torch.cat([learned.new_ones(1), learned])
        return shares(sizes_M.expand(items.present_M.shape), items.present_M)
