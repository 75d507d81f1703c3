"""The clip of every round: fixed, or following a quantile of the users' gradient norms at no price beyond the plan's.

Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping" (arXiv 1905.03871), Theorem 1 and
Algorithm 1. A step releases two noised sums over the same users: their clipped gradients, and the number within the
clip, where a user within it counts +1/2, one beyond it -1/2, an absent one 0. In units of the noise, one user moves

    the gradients by  1 / z_delta,      the count by  1 / (2 sigma_b),      both together by  1 / z

    with z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2):

one Gaussian mechanism of noise multiplier z, which is what the ledger is charged. The clip of the next round is
computed from releases, so it is post-processing; that it depends on them does not change the price, because every
step is a mechanism of the same z and the same sampling, whatever its clip.

    C <- C exp(-learning rate (share + 1/2 - quantile)),      share = noised count / publicly expected users
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from mmrec_model.config import PrivacyConfig
from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import CLIP

HALF: Final = 0.5
"""What one user can move the centred count by."""


def gradient_noise_multiplier(noise_multiplier: float, count_noise: float | None) -> float:
    """z_delta: noise of the gradients, in units of the clip, so that they and the count cost `noise_multiplier` = z.

    Args:
        noise_multiplier: z, of the joint release.
        count_noise: sigma_b, deviation of the count's noise in users, above z / 2; None where no count is released.
    """
    if count_noise is None:
        return noise_multiplier
    return noise_multiplier / math.sqrt(1.0 - (HALF * noise_multiplier / count_noise) ** 2)


def clip_bounds(privacy: PrivacyConfig) -> tuple[float, float]:
    """Least and largest clip that a round of the plan may use; equal with flat clipping.

    Adaptive clips travel as float32, so the bounds are float32 numbers inside the range of the plan.
    """
    start = privacy.max_grad_norm
    if privacy.clipping == "flat":
        return start, start
    low, high = np.float32(start / privacy.clip_range), np.float32(start * privacy.clip_range)
    if float(low) < start / privacy.clip_range:
        low = np.nextafter(low, np.float32(np.inf))
    if float(high) > start * privacy.clip_range:
        high = np.nextafter(high, np.float32(0.0))
    return float(low), float(high)


def start_clip(privacy: PrivacyConfig) -> npt.NDArray[np.float32] | None:
    """The clip of the first round, float32 [1]; None with flat clipping, where none travels."""
    return None if privacy.clipping == "flat" else np.array([privacy.max_grad_norm], np.float32)


def clip_of(privacy: PrivacyConfig, state: Mapping[str, npt.NDArray[np.float32]]) -> float:
    """The clip of a round, from the global arrays of its request.

    Raises:
        ProtocolError: adaptive clipping without one finite number within the plan's range, or flat clipping with one.
    """
    array = state.get(CLIP)
    if privacy.clipping == "flat":
        if array is not None:
            raise ProtocolError(f"the plan clips flat, the global state has a '{CLIP}'", remedy="Remove it")
        return privacy.max_grad_norm
    if array is None or array.shape != (1,):
        raise ProtocolError(
            f"the global state has no '{CLIP}' of one number, the plan clips adaptively",
            remedy="Upgrade the older side",
        )
    clip, (low, high) = float(array[0]), clip_bounds(privacy)
    if not low <= clip <= high:
        raise ProtocolError(
            f"the clip of the round is {clip:g}, the plan allows {low:g} to {high:g}",
            remedy="Resume the run from the coordinator's own snapshot",
        )
    return clip


def next_clip(privacy: PrivacyConfig, clip_1: npt.NDArray[np.float32], share: float) -> npt.NDArray[np.float32]:
    """The clip after a round of adaptive clipping, float32 [1], never outside the plan's range.

    Args:
        privacy: gives quantile, learning rate and range.
        clip_1: the clip of the round.
        share: the partners' released shares, averaged by their public numbers of users; finite.
    """
    low, high = clip_bounds(privacy)
    moved = math.log(float(clip_1[0])) - privacy.clip_learning_rate * (share + HALF - privacy.clip_quantile)
    found = np.float32(math.exp(min(max(moved, math.log(low)), math.log(high))))
    return np.array([min(max(float(found), low), high)], np.float32)
