"""Scores of every item of a catalogue for users given by their histories; no gradient, no randomness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.model.items import Items
from mmrec_model.model.recommender import MultimodalRecommender


def padded(histories: Sequence[npt.NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories of any lengths as indices `[B, K]`, 0 where padded, and a mask; K is the longest, at least 1."""
    longest = max(1, *(len(items) for items in histories)) if histories else 1
    history_BK = np.zeros((len(histories), longest), dtype=np.int64)
    mask_BK = np.zeros((len(histories), longest), dtype=np.bool_)
    for row, items in enumerate(histories):
        history_BK[row, : len(items)] = items
        mask_BK[row, : len(items)] = True
    return torch.from_numpy(history_BK), torch.from_numpy(mask_BK)


def score_catalogue(
    model: MultimodalRecommender, catalogue: Items, histories: Sequence[npt.NDArray[np.int64]]
) -> npt.NDArray[np.float32]:
    """Scores `[B, N]`, larger is better; items of the history are scored like all others.

    Args:
        model: in any mode; it is evaluated without dropout or gradient.
        catalogue: all N items.
        histories: item indices of each of the B users; may be empty.
    """
    everything = torch.arange(len(catalogue.prior)).unsqueeze(0)
    history_BK, mask_BK = padded(histories)
    model.eval()
    with torch.inference_mode():
        scores_B1N: torch.Tensor = model(catalogue.take(history_BK), mask_BK, catalogue.take(everything))
    return np.asarray(scores_B1N.squeeze(1).numpy(), dtype=np.float32)
