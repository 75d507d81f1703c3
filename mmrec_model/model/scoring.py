"""Scores of every item of a catalogue for users given by their histories; no gradient, no randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork

_CHUNK: Final = 256
"""Items whose texts are encoded at once."""


def padded(histories: Sequence[npt.NDArray[np.int64]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Histories of any lengths as indices `[B, K]`, 0 where padded, and a mask; K is the longest, at least 1."""
    longest = max(1, *(len(items) for items in histories)) if histories else 1
    history_BK = np.zeros((len(histories), longest), dtype=np.int64)
    mask_BK = np.zeros((len(histories), longest), dtype=np.bool_)
    for row, items in enumerate(histories):
        history_BK[row, : len(items)] = items
        mask_BK[row, : len(items)] = True
    return torch.from_numpy(history_BK), torch.from_numpy(mask_BK)


def encode_catalogue(model: RecommenderNetwork, catalogue: Items) -> Items:
    """All N items with the text vectors that the model uses; once, before many users are scored.

    Raises:
        ModelError: the model has a text encoder and the catalogue has no token ids.
    """
    if model.encoder is None or catalogue.encoded:
        return catalogue
    items = len(catalogue.prior)
    model.eval()
    with torch.inference_mode():
        parts = [
            model.read(catalogue.take(torch.arange(start, min(items, start + _CHUNK)).unsqueeze(0))).vectors["text"][0]
            for start in range(0, items, _CHUNK)
        ]
    return replace(catalogue, vectors={**catalogue.vectors, "text": torch.cat(parts)}, encoded=True)


def score_catalogue(
    model: RecommenderNetwork,
    catalogue: Items,
    histories: Sequence[npt.NDArray[np.int64]],
    own: Items | None = None,
) -> npt.NDArray[np.float32]:
    """Scores `[B, N]`, larger is better; items of the history are scored like all others.

    Args:
        model: in any mode; it is evaluated without dropout or gradient.
        catalogue: all N items; of `encode_catalogue` where a model with a text encoder is asked more than once.
        histories: item indices of each of the B users; may be empty.
        own: the users' own media `[B, 1]`, for a model that reads them.
    """
    catalogue = encode_catalogue(model, catalogue)
    everything = torch.arange(len(catalogue.prior)).unsqueeze(0)
    history_BK, mask_BK = padded(histories)
    model.eval()
    with torch.inference_mode():
        scores_B1N: torch.Tensor = model(catalogue.take(history_BK), mask_BK, catalogue.take(everything), own)
    return np.asarray(scores_B1N.squeeze(1).numpy(), dtype=np.float32)
