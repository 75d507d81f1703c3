"""The plain scorer of a row: free terms, user times item, and item alone, each with weights that start at zero.

    logit = signals . terms + c + scale * (<A u, v> + b . v)          all of signals, c, A, b start at 0

u is the user without the row's own item, v the fused item, and terms what the free recommender says of the pair.
"""

from __future__ import annotations

from torch import Tensor, nn

from mmrec_model.model.heads.outcomes import Outcomes, Pairs


class BilinearScorer(nn.Module):
    """Logit of each row.

    Args:
        hidden: H.
        terms: S.
        scale: public size of the part that reads vectors.
    """

    def __init__(self, hidden: int, terms: int, *, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.interaction = nn.Linear(hidden, hidden, bias=False)
        self.item_bias = nn.Linear(hidden, 1, bias=False)
        self.signals = nn.Linear(terms, 1)
        for weight in self.parameters():
            nn.init.zeros_(weight)

    def forward(self, pairs: Pairs, _rows: Outcomes) -> Tensor:
        """Residual logits `[B, F]`, zero before training."""
        crossed: Tensor = (self.interaction(pairs.users_BFH) * pairs.items_BFH).sum(-1, keepdim=True)
        logits: Tensor = self.signals(pairs.terms_BFS) + self.scale * (crossed + self.item_bias(pairs.items_BFH))
        return logits.squeeze(-1)
