"""The user tower: what a user's own history says, computed where the history lives.

Nothing here has a parameter per user, and no user vector ever leaves the partner: only the weights that turn a history
into a vector are shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmrec_model.config import Modality
from mmrec_model.model.fusion.masking import masked_softmax
from mmrec_model.model.items import Items


def visible_history(mask_BK: Tensor, *, leave_one_out: bool, causal: bool = False) -> Tensor:
    """Which places of the history each query may see.

    Args:
        mask_BK: True where the history has an item.
        leave_one_out: one query per place, which sees every place but its own; else one query that sees all.
        causal: with leave_one_out, a query sees the places before its own alone.

    Returns:
        `[B, T, K]` with T = K, or T = 1.
    """
    if not leave_one_out:
        return mask_BK.unsqueeze(-2)
    others_KK = ~torch.eye(mask_BK.shape[-1], dtype=torch.bool, device=mask_BK.device)
    if causal:
        others_KK = others_KK.tril()
    return mask_BK.unsqueeze(-2) & others_KK


def content_profiles(history: Items, visible_BTK: Tensor) -> dict[Modality, Tensor]:
    """Mean frozen vector of the visible items, per modality `[B, T, D_m]`: the part that costs no epsilon."""
    profiles: dict[Modality, Tensor] = {}
    for position, (name, rows_BKD) in enumerate(history.vectors.items()):
        seen_BTK = (visible_BTK & history.present_M[..., position].unsqueeze(-2)).to(rows_BKD.dtype)
        profiles[name] = seen_BTK @ rows_BKD / seen_BTK.sum(-1, keepdim=True).clamp(min=1.0)
    return profiles


@dataclass(frozen=True)
class Profile:
    """A user's own media as the towers see them: one place before the history, which every query sees.

    Attributes:
        fused_B1H: as of an item.
        given_B1: whether the user has any.
    """

    fused_B1H: Tensor
    given_B1: Tensor

    @classmethod
    def of(cls, own: Items, fused_B1H: Tensor) -> Profile:
        """The profile of users whose own media are `own`, `[B, 1]`."""
        return cls(fused_B1H, own.present_M.any(-1))

    def before(self, fused_BKH: Tensor, visible_BTK: Tensor) -> tuple[Tensor, Tensor]:
        """History and visibility with the profile as place 0."""
        given_BT1 = self.given_B1.unsqueeze(1).expand(-1, visible_BTK.shape[1], -1)
        return torch.cat([self.fused_B1H, fused_BKH], dim=1), torch.cat([given_BT1, visible_BTK], dim=2)


class HistoryTower(nn.Module):
    """Attention pooling of the fused history vectors."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.attention = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.attention.weight)

    def forward(self, fused_BKH: Tensor, visible_BTK: Tensor, profile: Profile | None = None) -> Tensor:
        """User vectors `[B, T, H]`, zero where a query sees nothing."""
        if profile is not None:
            fused_BKH, visible_BTK = profile.before(fused_BKH, visible_BTK)
        logits_BTK = self.attention(torch.tanh(fused_BKH)).squeeze(-1).unsqueeze(-2).expand(visible_BTK.shape)
        return masked_softmax(logits_BTK, visible_BTK) @ fused_BKH
