"""Decision-level fusion: every modality scores for itself, and the scores are combined (late fusion).

The trained residual of modality m's scorer is bilinear in its own projected space,

    r_m(user, item) = <A_m P_m profile_m(user), P_m x_m(item)> + b_m . P_m x_m(item)          A_m, b_m start at 0

The recommender adds it to the modality's content score and weighs the scorers; `mmrec_model.model.decision_rules` says
how votes and ranks are combined. Baltrusaitis et al. 2018, arXiv 1705.09406, section 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality, ModelConfig
from mmrec_model.model.fusion.interface import Fusion, weighted_mean
from mmrec_model.model.fusion.masking import shares
from mmrec_model.model.items import Items


class DecisionFusion(Fusion):
    """One scorer per modality; `weights` are the public ones over what is present, equal where all of them are 0.

    The fused vector is the mean by these weights, for whoever needs one vector per item; no score of the recommender
    is made from it.
    """

    def __init__(self, config: ModelConfig, dims: Mapping[Modality, int]) -> None:
        super().__init__(config, dims)
        hidden = config.hidden
        self.interactions = nn.ModuleDict({name: nn.Linear(hidden, hidden, bias=False) for name in dims})
        self.biases = nn.ModuleDict({name: nn.Linear(hidden, 1, bias=False) for name in dims})
        self.start_orthogonal()
        for layer in (*self.interactions.values(), *self.biases.values()):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        self.public_M: Tensor
        public = [config.modality_weights.get(name, 0.0) for name in dims]
        self.register_buffer("public_M", torch.tensor(public), persistent=False)

    def forward(self, items: Items) -> Tensor:
        """Fused vectors `[..., L, H]`."""
        return weighted_mean(self.weights(items), self.tokens(items))

    def weights(self, items: Items) -> Tensor:
        """Public weights over what is present, `[..., L, M]`."""
        return shares(self.public_M.expand(items.present_M.shape), items.present_M)

    def residuals(self, profiles: Mapping[Modality, Tensor], scored: Items) -> Tensor:
        """Trained score of each modality.

        Args:
            profiles: per modality `[B, T, D_m]`.
            scored: `[B, L]`, or `[1, N]` for a list that every user is scored against.

        Returns:
            `[B, T, L, M]`, 0 where an item lacks the modality.
        """
        tokens_LMH = self.tokens(scored)
        parts = []
        for place, (name, width) in enumerate(self.widths.items()):
            rows_LH = tokens_LMH[..., place, :]
            user_BTH = self.interactions[name](self.projections[name](profiles[name][..., :width]))
            parts.append(user_BTH @ rows_LH.transpose(-1, -2) + self.biases[name](rows_LH).transpose(-1, -2))
        return torch.stack(parts, dim=-1)
