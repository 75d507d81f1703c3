"""How active the users are, in one noised histogram, and the cap that follows from it; no user's data, plain numpy.

A cap above what most users have buys noise for nothing, one far below loses what they say: Amin, Kulesza, Munoz &
Vassilvitskii, "Bounding user contributions: a bias-variance trade-off in differential privacy", ICML 2019.

    buckets     public upper edges of the number of distinct train items, growing by about sqrt(2), up to the plan's
                cap; whoever has more is in the last bucket, whoever has nothing is in none
    a user      is 1 in one bucket: L2 length `BOUND`, whatever the history
    the cap     the smallest edge whose bucket and those below hold the share `activity_quantile` of the noised total

The cap is computed from a release: it costs nothing more, and the noise of the popularity release is in units of the
bound that it sets, so the price of that release does not depend on it.

Shapes: B buckets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from mmrec_model.config import PrivacyConfig
from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import CAP, Arrays

BOUND: Final = 1.0
"""L2 length of one user's histogram, at most."""
GROWTH: Final = math.sqrt(2.0)
ENOUGH: Final = 3.0
"""Deviations of its noise by which the total must stand out, or nothing is learnt of activity."""


def bucket_edges(cap: int) -> tuple[int, ...]:
    """Upper edges of the buckets, ascending, the last one `cap`."""
    edges = [1]
    while edges[-1] < cap:
        edges.append(min(cap, max(edges[-1] + 1, round(edges[-1] * GROWTH))))
    return tuple(edges)


def bucket_users(lengths_U: npt.NDArray[np.int64], cap: int) -> npt.NDArray[np.float64]:
    """Users per bucket `[B]`, before noise.

    Args:
        lengths_U: distinct train items of each user.
        cap: of the plan.
    """
    edges = bucket_edges(cap)
    known = np.minimum(lengths_U[lengths_U > 0], cap)
    return np.bincount(np.searchsorted(edges, known), minlength=len(edges)).astype(np.float64)


def chosen_cap(counts_B: npt.NDArray[np.float64], privacy: PrivacyConfig, *, noise: float) -> int:
    """The cap of the popularity release; that of the plan where the users do not stand out of the noise.

    Args:
        counts_B: noised users per bucket, of all partners together.
        privacy: the plan's cap and quantile.
        noise: standard deviation of the noise in each number.
    """
    edges = bucket_edges(privacy.popularity_cap)
    total = float(counts_B.sum())
    if total <= ENOUGH * noise * math.sqrt(len(edges)):
        return edges[-1]
    below_B = np.clip(isotonic_regression(np.cumsum(counts_B)).x, 0.0, total)
    return edges[int(np.argmax(below_B >= privacy.activity_quantile * total - 1e-9 * total))]


def cap_array(cap: int) -> Arrays:
    """What a POPULARITY request carries in a plan with a quantile."""
    return {CAP: np.array([cap], np.float32)}


def cap_of(privacy: PrivacyConfig, state: Mapping[str, npt.NDArray[np.float32]]) -> int:
    """The cap of the popularity release, from the arrays of its request.

    Raises:
        ProtocolError: a plan with a quantile, and not one whole number from 1 to the plan's cap; a cap in another plan.
    """
    array = state.get(CAP)
    if not privacy.activity_quantile:
        if array is not None:
            raise ProtocolError(f"the plan has no quantile of activity, the request has a '{CAP}'", remedy="Remove it")
        return privacy.popularity_cap
    number = float(array[0]) if array is not None and array.shape == (1,) else math.nan
    if not (1.0 <= number <= privacy.popularity_cap and number.is_integer()):
        raise ProtocolError(
            f"the cap of the popularity release is {number:g}, the plan allows 1 to {privacy.popularity_cap}",
            remedy="Send the cap that the activity release gave",
        )
    return int(number)
