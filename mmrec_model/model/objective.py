"""What training minimises: the ranking loss of each user, plus the user's weighted losses of the heads.

Without heads it is the ranking loss, unchanged. Every term is a mean over rows of one user (`model.loss`,
`model.heads.losses`), so clipping a sample is clipping a user.
"""

from __future__ import annotations

from torch import Tensor

from mmrec_model.config import RankingLoss
from mmrec_model.model.heads.losses import head_losses
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch, ranking_loss
from mmrec_model.model.recommender import RecommenderNetwork


def user_losses(model: RecommenderNetwork, catalogue: Items, batch: HistoryBatch, loss: RankingLoss) -> Tensor:
    """Loss of each user `[B]`.

    Args:
        model: the recommender.
        catalogue: all items.
        batch: users; with `outcomes` where the model has heads.
        loss: how the ranking is learned.

    Raises:
        ModelError: the model has heads and the batch no outcomes.
    """
    total_B = ranking_loss(model, catalogue, batch, loss)
    if model.config.heads:
        parts = head_losses(model, catalogue, batch)
        for name, weight in model.config.heads.items():
            total_B = total_B + weight * parts[name]
    return total_B
