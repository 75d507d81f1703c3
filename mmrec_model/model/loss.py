"""The training loss, one number per user, so that clipping a sample is clipping a user.

Each item of the bounded history is predicted from the others against catalogue items drawn for that user alone; the
mean is taken inside the user. With s the score of the item times the temperature, and n those of the negatives:

    sampled_softmax   log(e^s + sum of e^n) - s
    bpr               mean of softplus(n - s)                         (Rendle et al., UAI 2009)
    bce               softplus(-s) + mean of softplus(n)

No term depends on another user's rows: batch-wide negatives,
means or statistics would break the sensitivity bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmrec_model.config import RankingLoss
from mmrec_model.data.batches import UserBatch
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork


@dataclass(frozen=True)
class HistoryBatch:
    """Users as tensors; dim 0 of each is the user.

    Attributes:
        items_BL: catalogue indices: K places of history, then the negatives.
        mask_BK: True where the history has an item.
        kept_BLM: False where a modality of an item is hidden from that user in this step; None to hide nothing.
        own: the users' own media `[B, 1]`, in a run that reads them.
        outcomes: the same users' labels for the heads; None for a model without heads.
    """

    items_BL: Tensor
    mask_BK: Tensor
    kept_BLM: Tensor | None = None
    own: Items | None = None
    outcomes: Outcomes | None = None

    @classmethod
    def from_users(
        cls, batch: UserBatch, *, own: Items | None = None, outcomes: Outcomes | None = None
    ) -> HistoryBatch:
        """Tensors of a drawn batch."""
        history, negatives = torch.from_numpy(batch.history_BK), torch.from_numpy(batch.negatives_BN)
        kept = None if batch.kept_BLM is None else torch.from_numpy(batch.kept_BLM)
        places_BL = torch.cat([history, negatives], dim=1)
        return cls(places_BL, torch.from_numpy(batch.mask_BK), kept_BLM=kept, own=own, outcomes=outcomes)

    def __len__(self) -> int:
        return len(self.mask_BK)

    def split(self, size: int) -> list[HistoryBatch]:
        """Consecutive parts of at most `size` users."""
        return [self._part(start, start + size) for start in range(0, len(self), size)]

    def items(self, catalogue: Items) -> Items:
        """The items of every user `[B, L]`, without what is hidden from him."""
        return self._taken(catalogue, self.items_BL.shape[1])

    def history(self, catalogue: Items) -> Items:
        """The first K of them, `[B, K]`."""
        return self._taken(catalogue, self.mask_BK.shape[1])

    def _taken(self, catalogue: Items, places: int) -> Items:
        items = catalogue.take(self.items_BL[:, :places])
        return items if self.kept_BLM is None else items.hiding(self.kept_BLM[:, :places])

    def _part(self, start: int, stop: int) -> HistoryBatch:
        return HistoryBatch(
            self.items_BL[start:stop],
            self.mask_BK[start:stop],
            kept_BLM=None if self.kept_BLM is None else self.kept_BLM[start:stop],
            own=None if self.own is None else self.own.rows(slice(start, stop)),
            outcomes=None if self.outcomes is None else self.outcomes.part(start, stop),
        )


def ranking_loss(model: RecommenderNetwork, catalogue: Items, batch: HistoryBatch, loss: RankingLoss) -> Tensor:
    """Loss of each user `[B]`, 0 for a user without history."""
    places = batch.mask_BK.shape[1]
    scores_BKL = model.config.temperature * model(batch.items(catalogue), batch.mask_BK, own=batch.own)
    own_BK1 = torch.diagonal(scores_BKL[..., :places], dim1=-2, dim2=-1).unsqueeze(-1)
    surprise_BK = _SURPRISE[loss](own_BK1, scores_BKL[..., places:])
    counted_BK = batch.mask_BK.to(surprise_BK.dtype)
    return (surprise_BK * counted_BK).sum(-1) / counted_BK.sum(-1).clamp(min=1.0)


def _sampled_softmax(own_BK1: Tensor, negatives_BKN: Tensor) -> Tensor:
    return torch.cat([own_BK1, negatives_BKN], dim=-1).logsumexp(-1) - own_BK1.squeeze(-1)


def _bpr(own_BK1: Tensor, negatives_BKN: Tensor) -> Tensor:
    return softplus(negatives_BKN - own_BK1).mean(-1)


def _bce(own_BK1: Tensor, negatives_BKN: Tensor) -> Tensor:
    return softplus(-own_BK1.squeeze(-1)) + softplus(negatives_BKN).mean(-1)


_SURPRISE: dict[RankingLoss, Callable[[Tensor, Tensor], Tensor]] = {
    "sampled_softmax": _sampled_softmax,
    "bpr": _bpr,
    "bce": _bce,
}
