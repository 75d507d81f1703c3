"""The popularity release: in how many histories each item occurs, noised once.

Each user counts for at most `popularity_cap` distinct items, chosen at random where there are more, so one user moves
the counts by sqrt(cap) in L2 norm. The popularity prior of the model is computed from the sum over partners.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mmrec_model.config import PrivacyConfig
from mmrec_model.data.batches import draw_batch
from mmrec_model.data.histories import Histories
from mmrec_model.privacy.noise import GaussianNoise


def sensitivity(privacy: PrivacyConfig) -> float:
    """L2 bound of one user's contribution to the counts."""
    return math.sqrt(privacy.popularity_cap)


def count_items(
    histories: Histories, n_items: int, privacy: PrivacyConfig, noise: GaussianNoise
) -> npt.NDArray[np.float32]:
    """Noised number of users per item `[N]`.

    Args:
        histories: the partner's train histories.
        n_items: items of the catalogue.
        privacy: the plan's cap and noise.
        noise: source of the noise.
    """
    everyone = np.arange(len(histories), dtype=np.int64)
    batch = draw_batch(
        histories,
        everyone,
        n_items=n_items,
        max_history=privacy.popularity_cap,
        negatives=0,
        seed=noise.integer(),
    )
    counts_N = np.bincount(batch.history_BK[batch.mask_BK], minlength=n_items).astype(np.float64)
    if privacy.mechanism == "gaussian":
        counts_N += noise.draw(n_items, privacy.popularity_noise_multiplier * sensitivity(privacy))
    return counts_N.astype(np.float32)
