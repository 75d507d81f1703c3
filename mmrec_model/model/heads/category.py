"""Which category a user takes next: a softmax over public categories, beside the ranking and never instead of it.

    logit of category c = W u + s * share of c in the visible history + bias_c            W, s and the biases start at 0

The share is the free predictor. The place that is predicted is hidden from both u and the share.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CategoryHead(nn.Module):
    """Logits over C categories.

    Args:
        hidden: H, width of the user vector.
        categories: C.
        scale: public size of the part that reads the user vector and the share.
    """

    def __init__(self, hidden: int, categories: int, *, scale: float) -> None:
        super().__init__()
        self.categories = categories
        self.scale = scale
        self.taste = nn.Linear(hidden, categories)
        self.habit = nn.Linear(1, 1, bias=False)
        for weight in self.parameters():
            nn.init.zeros_(weight)

    def forward(self, users_BTH: Tensor, visible_BTK: Tensor, category_BK: Tensor) -> Tensor:
        """Logits `[B, T, C]`, zero before training.

        Args:
            users_BTH: user vectors of T queries.
            visible_BTK: which places of the history each query sees.
            category_BK: class numbers of the history, -1 for none.
        """
        one_hot_BKC = category_BK.unsqueeze(-1) == torch.arange(self.categories, device=category_BK.device)
        seen_BTC = visible_BTK.to(users_BTH.dtype) @ one_hot_BKC.to(users_BTH.dtype)
        share_BTC = seen_BTC / seen_BTC.sum(-1, keepdim=True).clamp(min=1.0)
        users, queries, categories = share_BTC.shape
        habit: Tensor = self.habit(share_BTC.reshape(users, queries * categories, 1))
        taste: Tensor = self.taste(self.scale * users_BTH)
        return taste + self.scale * habit.reshape(users, queries, categories)
