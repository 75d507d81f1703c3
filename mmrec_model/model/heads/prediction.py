"""What the heads say for users given by their histories; no gradient, no randomness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.config import HeadName
from mmrec_model.data.feedback import FeedbackBatch
from mmrec_model.model.heads.losses import without_own
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.history import visible_history
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.scoring import padded

Ints = npt.NDArray[np.int64]


def predict_rows(
    model: RecommenderNetwork,
    catalogue: Items,
    histories: Sequence[Ints],
    rows: FeedbackBatch,
    category_N: Ints,
    *,
    own: Items | None = None,
) -> dict[HeadName, npt.NDArray[np.float64]]:
    """Probabilities and expected ratings `[B, F]` of the heads that judge rows; meaningless where padded.

    Args:
        model: in any mode; it is evaluated without dropout or gradient.
        catalogue: all items.
        histories: item indices of each of the B users; may be empty.
        rows: what to judge; labels in it are not read, and a row's own item is hidden from the history.
        category_N: public class number of every item.
        own: the users' own media `[B, 1]`, for a model that reads them.
    """
    history_BK, mask_BK = padded(histories)
    outcomes = Outcomes.from_rows(rows, history_BK.numpy(), category_N)
    model.eval()
    with torch.inference_mode():
        visible_BFK = without_own(history_BK, mask_BK, outcomes.items_BF)
        pairs = model.pairs(catalogue.take(history_BK), visible_BFK, outcomes.items(catalogue), own)
        found = model.heads.row_predictions(pairs, outcomes)
    return {name: values.double().numpy() for name, values in found.items()}


def predict_categories(
    model: RecommenderNetwork,
    catalogue: Items,
    histories: Sequence[Ints],
    category_N: Ints,
    *,
    own: Items | None = None,
) -> npt.NDArray[np.float64]:
    """Probability of each public category `[B, C]` to be taken next; arguments as of `predict_rows`."""
    history_BK, mask_BK = padded(histories)
    model.eval()
    with torch.inference_mode():
        visible_B1K = visible_history(mask_BK, leave_one_out=False)
        users_B1H = model.user_vectors(catalogue.take(history_BK), visible_B1K, own)
        logits_B1C = model.heads.category(users_B1H, visible_B1K, torch.from_numpy(category_N)[history_BK])
    return np.asarray(logits_B1C.squeeze(1).double().softmax(-1).numpy())
