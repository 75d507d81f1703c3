"""DeepFM (Guo et al., IJCAI 2017, sections 2.1 and 2.2) over fields of user, item and context; starts at logit zero.

    logit = first order + w_fm * sum over pairs of fields <e_i, e_j> + deep(all e)

Fields: the user vector, the fused item vector, the item's category, the part of the day and the day of the week. The
sum over pairs is taken as half of (square of the sum minus sum of the squares), Rendle 2010, equation 5. The first
order, w_fm and the last layer of the deep part start at zero, so noise is paid for by what training adds alone.

Legend: B users, F rows of a user, H width of the fused space, D width of a field, P fields.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmrec_model.config import HOUR_BUCKETS, WEEKDAYS
from mmrec_model.model.heads.outcomes import Outcomes, Pairs

_EMBEDDING_DEVIATION = 0.3


def pair_sum(fields_PD: Tensor) -> Tensor:
    """Sum over all pairs of fields of their inner product, `[..., P, D]` to `[...]`, in time linear in P."""
    square_of_sum = fields_PD.sum(-2).square()
    sum_of_squares = fields_PD.square().sum(-2)
    return 0.5 * (square_of_sum - sum_of_squares).sum(-1)


class DeepFM(nn.Module):
    """Logit of each row.

    Args:
        hidden: H, and D.
        terms: number of free terms, which enter the first order.
        categories: public categories of items; an item without one has an embedding of its own.
        scale: public size of the vectors that enter.
    """

    def __init__(self, hidden: int, terms: int, categories: int, *, scale: float) -> None:
        super().__init__()
        self.scale = math.sqrt(scale)
        self.categories = categories
        sizes = {"category": categories + 1, "hour": HOUR_BUCKETS, "weekday": WEEKDAYS}
        self.embeddings = nn.ModuleDict({name: nn.Embedding(size, hidden) for name, size in sizes.items()})
        self.first_order = nn.ModuleDict({name: nn.Embedding(size, 1) for name, size in sizes.items()})
        self.user_field = nn.Linear(hidden, hidden, bias=False)
        self.item_field = nn.Linear(hidden, hidden, bias=False)
        self.vectors = nn.Linear(2 * hidden + terms, 1)
        self.deep = nn.Linear((2 + len(sizes)) * hidden, hidden)
        self.deep_out = nn.Linear(hidden, 1, bias=False)
        self.pairs = nn.Linear(1, 1, bias=False)
        for embedding in self.embeddings.values():
            nn.init.normal_(embedding.weight, std=_EMBEDDING_DEVIATION)  # type: ignore[arg-type]
        for first in (*self.first_order.values(), self.vectors, self.deep_out, self.pairs):
            for weight in first.parameters():
                nn.init.zeros_(weight)

    def forward(self, pairs: Pairs, rows: Outcomes) -> Tensor:
        """Residual logits `[B, F]`, zero before training."""
        users_BFH, items_BFH = self.scale * pairs.users_BFH, self.scale * pairs.items_BFH
        known_BF = torch.where(rows.category_BF < 0, self.categories, rows.category_BF)
        buckets = {"category": known_BF, "hour": rows.hour_BF, "weekday": rows.weekday_BF}
        fields = [self.user_field(users_BFH), self.item_field(items_BFH)]
        fields += [self.embeddings[name](bucket_BF) for name, bucket_BF in buckets.items()]
        fields_BFPD = torch.stack(fields, dim=-2)
        logits: Tensor = self.vectors(torch.cat([users_BFH, items_BFH, pairs.terms_BFS], dim=-1))
        for name, bucket_BF in buckets.items():
            logits = logits + self.first_order[name](bucket_BF)
        logits = logits + self.pairs(pair_sum(fields_BFPD).unsqueeze(-1))
        deep: Tensor = self.deep_out(torch.relu(self.deep(fields_BFPD.flatten(-2))))
        return (logits + deep).squeeze(-1)
