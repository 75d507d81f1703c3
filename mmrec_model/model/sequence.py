"""The sequence tower: causal self-attention over a history in time order (SASRec: Kang & McAuley 2018, section 3).

Promises:
1. What a query says depends on the places it may see and on no later one: changing, adding or removing later items
   changes nothing, in training as in scoring.
2. Before training a user vector is the last visible item plus the mean of the visible ones.
3. Every layer with weights sees `[users, places, width]`, so a per-sample gradient is a per-user gradient; learned
   positions are looked up for each user.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmrec_model.errors import ModelError
from mmrec_model.model.history import Profile


class SequenceTower(nn.Module):
    """One block of causal attention and feed-forward, without dropout.

    Args:
        hidden: width H of the fused vectors.
        positions: P, places that have a learned position; of a longer history the last P items count.
    """

    def __init__(self, hidden: int, positions: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(positions, hidden)
        self.attention_norm = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(hidden, hidden, bias=False)
        self.forward_norm = nn.LayerNorm(hidden)
        self.widen = nn.Linear(hidden, 2 * hidden)
        self.narrow = nn.Linear(2 * hidden, hidden)
        nn.init.eye_(self.value.weight)
        for start in (self.positions.weight, self.query.weight, self.narrow.weight, self.narrow.bias):
            nn.init.zeros_(start)

    def forward(self, fused_BKH: Tensor, visible_BTK: Tensor, profile: Profile | None = None) -> Tensor:
        """User vectors `[B, T, H]`, zero where a query sees nothing.

        Args:
            fused_BKH: the history, oldest first.
            visible_BTK: which places each query sees: every item up to some place. With several queries, K <= P.
            profile: the user's own media: seen by every place, without a position, and never dropped.

        Raises:
            ModelError: a query leaves out an item that lies before another it sees, which the state of the latter
                would betray; or several queries have more places than there are positions.
        """
        limit, places = self.positions.num_embeddings, visible_BTK.shape[2]
        if visible_BTK.shape[1] > 1 and places > limit:
            raise ModelError(
                f"queries have {places} places, the sequence tower has {limit} positions",
                remedy="Raise the model's positions or lower max_history",
            )
        first = 0 if profile is None else 1
        if profile is not None:
            fused_BKH, visible_BTK = profile.before(fused_BKH, visible_BTK)
        given_BK, last_BT = visible_BTK.any(1), _last_visible(visible_BTK)
        upto_BTK = torch.arange(places + first, device=last_BT.device) <= last_BT.unsqueeze(-1)
        if bool((visible_BTK != (upto_BTK & given_BK.unsqueeze(1))).any()):
            raise ModelError(
                "a query of the sequence tower leaves out an item that lies before another one it sees",
                remedy="Let each query see the items up to a place, or use the attention tower",
            )
        states_BKH = self._states(fused_BKH, given_BK, first)
        index_BTH = last_BT.clamp(min=0).unsqueeze(-1).expand(-1, -1, fused_BKH.shape[-1])
        return states_BKH.gather(1, index_BTH) * (last_BT >= 0).unsqueeze(-1)

    def _states(self, fused_BKH: Tensor, given_BK: Tensor, first: int) -> Tensor:
        """State of every place; the first `first` ones are no items of the history."""
        limit, places = self.positions.num_embeddings, given_BK.shape[1]
        is_item_K = torch.arange(places, device=given_BK.device) >= first
        order_BK = (given_BK & is_item_K).cumsum(-1)
        dropped_B1 = (order_BK[:, -1:] - limit).clamp(min=0)
        place_BK = (order_BK - 1 - dropped_B1).clamp(0, limit - 1)
        earlier_KK = torch.ones(places, places, dtype=torch.bool, device=given_BK.device).tril()
        seen_BKK = (given_BK & ((order_BK > dropped_B1) | ~is_item_K)).unsqueeze(1) & earlier_KK
        seen_BKK = seen_BKK | torch.eye(places, dtype=torch.bool, device=given_BK.device)  # no row without a key
        placed_BKH = fused_BKH + self.positions(place_BK) * is_item_K.unsqueeze(-1)
        normed_BKH = self.attention_norm(placed_BKH)
        mixed_BKH: Tensor = scaled_dot_product_attention(
            self.query(normed_BKH), self.key(normed_BKH), self.value(placed_BKH), attn_mask=seen_BKK
        )
        states_BKH: Tensor = placed_BKH + mixed_BKH
        raised: Tensor = self.narrow(torch.relu(self.widen(self.forward_norm(states_BKH))))
        return raised + states_BKH


def _last_visible(visible_BTK: Tensor) -> Tensor:
    """Index of the last place that each query sees, -1 where it sees none, `[B, T]`."""
    numbers_K = torch.arange(1, visible_BTK.shape[-1] + 1, device=visible_BTK.device)
    last_BT: Tensor = (visible_BTK * numbers_K).amax(-1)
    return last_BT - 1
