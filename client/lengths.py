"""The activity release: how many users have histories of which length, noised once (`mmrec_model.activity`).

Each user is in one bucket at most, so the noise multiplier of the plan is the standard deviation of the noise on every
number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmrec_model.activity import BOUND, bucket_edges, bucket_users
from mmrec_model.config import PrivacyConfig
from mmrec_model.data.histories import Histories
from mmrec_model.privacy.noise import GaussianNoise


def count_users(histories: Histories, privacy: PrivacyConfig, noise: GaussianNoise) -> npt.NDArray[np.float32]:
    """Noised number of users per bucket of activity `[B]`.

    Args:
        histories: the partner's train histories.
        privacy: the plan's cap, which sets the buckets, and noise.
        noise: source of the noise.
    """
    cap = privacy.popularity_cap
    counts_B = bucket_users(np.diff(histories.offsets), cap)
    if privacy.mechanism == "gaussian":
        counts_B += noise.draw(len(bucket_edges(cap)), privacy.activity_noise_multiplier * BOUND)
    return counts_B.astype(np.float32)
