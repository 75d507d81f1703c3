"""The collaborative term: what the released pairs of items say of a candidate beside a history.

    c(query, item) = sum over visible places k of  w_k W[item_k, item] / sqrt(sum_k w_k^2),
    w_k = (1 + items between place k and the query)^(-1/2),

W is the scorer that `mmrec_model.collaboration` makes of the noised pairs: public once they are paid for, and constant
here. Items that were not selected have no pairs and get 0. There is nothing to train, so no gradient meets it.

Shapes as in `mmrec_model.model.items`; M selected items.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmrec_model.collaboration.pairs import nearness
from mmrec_model.errors import ModelError
from mmrec_model.model.items import Items


class PairScorer(nn.Module):
    """Holds W; scores nothing before `load`."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor
        self.selected: Tensor
        self.register_buffer("weights", torch.zeros(1, 1), persistent=False)
        self.register_buffer("selected", torch.zeros(0, dtype=torch.int64), persistent=False)

    def load(self, selected: Any, weights: Any) -> None:
        """Take over a scorer.

        Args:
            selected: catalogue places of the M items, ascending.
            weights: `[M, M]`; row: item of the history.

        Raises:
            ModelError: shapes differ, places are not ascending, or a weight is not finite.
        """
        places = torch.as_tensor(selected).to(torch.int64)
        matrix = torch.as_tensor(weights, dtype=torch.float32)
        if matrix.shape != (len(places), len(places)) or not bool(torch.isfinite(matrix).all()):
            raise ModelError(
                f"a scorer of shape {tuple(matrix.shape)} for {len(places)} items, or with values that are not finite",
                remedy="Use the scorer that the run's coordinator made",
            )
        if len(places) and (int(places[0]) < 0 or not bool((places.diff() > 0).all())):
            raise ModelError("the scorer's items are not ascending places", remedy="Use the run's own scorer")
        device = self.weights.device
        self.weights = functional.pad(matrix, (0, 1, 0, 1)).to(device)
        self.selected = places.to(device)

    def forward(self, history: Items, visible_BTK: Tensor, scored: Items, *, leave_one_out: bool) -> Tensor:
        """The term `[B, T, L]`.

        Args:
            history: `[B, K]`, oldest first.
            visible_BTK: what each query may see.
            scored: `[B, L]` or `[1, L]`.
            leave_one_out: T = K queries stand at the places of the history; else one query behind its end.
        """
        weights_BTK = recency(visible_BTK, leave_one_out=leave_one_out)
        rows_BK, columns_BL = self._find(history.place), self._find(scored.place)
        if leave_one_out:
            pairs_BKL = self.weights[rows_BK.unsqueeze(-1), columns_BL.unsqueeze(-2)]
            scores: Tensor = weights_BTK @ pairs_BKL
            return scores
        summed_BM = functional.embedding_bag(
            rows_BK, self.weights, per_sample_weights=weights_BTK.squeeze(1), mode="sum"
        )
        return summed_BM.gather(1, columns_BL.expand(len(summed_BM), -1)).unsqueeze(1)

    def _find(self, place: Tensor) -> Tensor:
        """Row of W of each item; the last one, which is zero, for an item that was not selected."""
        if not len(self.selected):
            return torch.zeros_like(place)
        found = torch.searchsorted(self.selected, place.contiguous()).clamp(max=len(self.selected) - 1)
        return torch.where(self.selected[found] == place, found, len(self.selected))


def recency(visible_BTK: Tensor, *, leave_one_out: bool) -> Tensor:
    """Weights of the visible places `[B, T, K]`, of L2 length 1 in each query that sees any."""
    places = visible_BTK.shape[-1]
    place_K = torch.arange(places, device=visible_BTK.device)
    if leave_one_out:
        between = (place_K.unsqueeze(-1) - place_K).abs() - 1
    else:
        between = visible_BTK.sum(-1, keepdim=True) - 1 - place_K
    near = torch.from_numpy(nearness(torch.arange(max(1, places), dtype=torch.float64).numpy())).to(torch.float32)
    weights = near.to(visible_BTK.device)[between.clamp(0, max(0, places - 1))] * visible_BTK
    return weights / weights.square().sum(-1, keepdim=True).sqrt().clamp(min=torch.finfo(weights.dtype).tiny)
