"""Losses of the heads, one number per user: a mean over the user's own labels, 0 for a user without any.

    ctr        binary cross-entropy of clicks on shown rows
    cvr        conditional: of conversions on clicked rows; esmm: of pCTR * pCVR on shown rows
    rating     cross-entropy of the rating's place on the public scale (fractional logit, Papke & Wooldridge 1996),
               which is least at the conditional mean and whose slope is bounded
    category   cross-entropy of the hidden history item's category against all public categories

Legend: B users, F rows of feedback, K places of the history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from mmrec_model.config import HeadName, ModelConfig
from mmrec_model.errors import ModelError
from mmrec_model.model.history import visible_history
from mmrec_model.model.items import Items

if TYPE_CHECKING:
    from mmrec_model.model.heads.outcomes import Outcomes
    from mmrec_model.model.loss import HistoryBatch
    from mmrec_model.model.recommender import RecommenderNetwork


def head_losses(model: RecommenderNetwork, catalogue: Items, batch: HistoryBatch) -> dict[HeadName, Tensor]:
    """Loss of each user `[B]`, per head of the model and without its weight.

    Args:
        model: with heads.
        catalogue: all items.
        batch: users; what is hidden of an item from a user is hidden from the heads too.

    Raises:
        ModelError: the batch has no labels.
    """
    rows, mask_BK = batch.outcomes, batch.mask_BK
    if rows is None:
        raise ModelError(f"the heads {list(model.config.heads)} have no labels", remedy="Give the batch its outcomes")
    history = batch.history(catalogue)
    losses: dict[HeadName, Tensor] = {}
    if len(model.heads.rows):
        visible_BFK = without_own(batch.items_BL[:, : mask_BK.shape[1]], mask_BK, rows.items_BF)
        pairs = model.pairs(history, visible_BFK, rows.items(catalogue), batch.own)
        logits = model.heads.row_logits(pairs, rows)
        losses |= row_losses(model.config, logits, rows)
    if "category" in model.config.heads:
        visible_BKK = visible_history(mask_BK, leave_one_out=True)
        users_BKH = model.user_vectors(history, visible_BKK, batch.own)
        logits_BKC = model.heads.category(users_BKH, visible_BKK, rows.category_BK)
        losses["category"] = category_loss(logits_BKC, rows.category_BK, mask_BK)
    return losses


def without_own(history_BK: Tensor, mask_BK: Tensor, items_BF: Tensor) -> Tensor:
    """Which places of the history each row may see: all but those of the row's own item, `[B, F, K]`.

    A clicked item is in the history; were it visible, the label would be read off the input.
    """
    return mask_BK.unsqueeze(-2) & (history_BK.unsqueeze(-2) != items_BF.unsqueeze(-1))


def row_losses(config: ModelConfig, logits: dict[HeadName, Tensor], rows: Outcomes) -> dict[HeadName, Tensor]:
    """Loss of each user `[B]` of the heads with one logit per row."""
    losses: dict[HeadName, Tensor] = {}
    if "ctr" in logits:
        losses["ctr"] = user_mean(_cross_entropy(logits["ctr"], rows.clicked_BF), rows.shown_BF)
    if "cvr" in logits and config.cvr_loss == "conditional":
        losses["cvr"] = user_mean(_cross_entropy(logits["cvr"], rows.converted_BF), rows.clicked_BF)
    elif "cvr" in logits:
        both_BF = product_cross_entropy(logits["ctr"], logits["cvr"], rows.converted_BF)
        losses["cvr"] = user_mean(both_BF, rows.shown_BF)
    if "rating" in logits:
        low, high = config.rating_scale
        place_BF = ((rows.ratings_BF - low) / (high - low)).clamp(0.0, 1.0)
        losses["rating"] = user_mean(_cross_entropy(logits["rating"], place_BF), rows.rated_BF)
    return losses


def product_cross_entropy(click: Tensor, conversion: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of the probability sigmoid(click) * sigmoid(conversion), exact for large logits.

    1 - s(a) s(b) = (e^-a + e^-b + e^-(a+b)) s(a) s(b), whose logarithm is a log-sum-exp.
    """
    happens = logsigmoid(click) + logsigmoid(conversion)
    fails = torch.stack([-click, -conversion, -click - conversion]).logsumexp(0) + happens
    return -torch.where(label, happens, fails)


def category_loss(logits_BKC: Tensor, category_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """Loss of each user `[B]` over the places that hold an item with a category."""
    counted_BK = mask_BK & (category_BK >= 0)
    surprise_BK = cross_entropy(logits_BKC.transpose(1, 2), category_BK.clamp(min=0), reduction="none")
    return user_mean(surprise_BK, counted_BK)


def user_mean(values_BF: Tensor, counted_BF: Tensor) -> Tensor:
    """Mean of each user's counted values `[B]`, 0 where nothing counts."""
    kept_BF = torch.where(counted_BF, values_BF, torch.zeros_like(values_BF))
    return kept_BF.sum(-1) / counted_BF.sum(-1).clamp(min=1)


def _cross_entropy(logits_BF: Tensor, label_BF: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits_BF, label_BF.to(logits_BF.dtype), reduction="none")
