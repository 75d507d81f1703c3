"""The popularity release: in how many histories each item occurs, noised once.

Each user counts for at most `cap` distinct items, chosen at random where there are more, so one user moves the counts
by sqrt(cap) in L2 norm. The cap is the plan's, or a smaller one that activity gave (`mmrec_model.activity`):
the noise is in units of the bound in force, so the price is the same. The popularity prior of the model is computed
from the sum over partners.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mmrec_model.config import PrivacyConfig
from mmrec_model.data.batches import draw_batch
from mmrec_model.data.histories import Histories
from mmrec_model.privacy.noise import GaussianNoise


def sensitivity(cap: int) -> float:
    """L2 bound of one user's contribution to the counts, of which `cap` distinct items count."""
    return math.sqrt(cap)


def count_items(
    histories: Histories, n_items: int, privacy: PrivacyConfig, noise: GaussianNoise, *, cap: int
) -> npt.NDArray[np.float32]:
    """Noised number of users per item `[N]`.

    Args:
        histories: the partner's train histories.
        n_items: items of the catalogue.
        privacy: the plan's noise, in units of the bound.
        noise: source of the noise.
        cap: distinct items of a user that count.
    """
    everyone = np.arange(len(histories), dtype=np.int64)
    batch = draw_batch(
        histories,
        everyone,
        n_items=n_items,
        max_history=cap,
        negatives=0,
        seed=noise.integer(),
    )
    counts_N = np.bincount(batch.history_BK[batch.mask_BK], minlength=n_items).astype(np.float64)
    if privacy.mechanism == "gaussian":
        counts_N += noise.draw(n_items, privacy.popularity_noise_multiplier * sensitivity(cap))
    return counts_N.astype(np.float32)
