"""Public weights by which a user's one unit of length goes to the less popular of his items rather than to the others.

Krichene et al., "Multi-task differential privacy under distribution skew" (ICML 2023): under one bound per user, tasks
that few users have drown in the noise unless each user's budget goes to them. Here the tasks are items and

    w_i = exp(-tail_weight p_i / 2),       p_i the released prior of item i, the log popularity in standard deviations,

so that where log counts deviate by 1, w_i is count^(-tail_weight / 2). The weights travel with the PAIRS request. A
user's pair of items a and b is multiplied by w_a w_b before the user is brought to length 1: the bound is untouched,
whatever the weights. Noise is equal in every number of the weighted sum, so the pairs are denoised and the scorer B_w
is found there; it is mapped back as B = W B_w W^-1, because x W B_w = x W means x B = x.

Shapes: M selected items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import ProtocolError
from mmrec_model.protocol import TAIL

Floats = npt.NDArray[np.float64]

MOST_RATIO: Final = 100.0
"""Largest weight over the smallest, at most."""
_FURTHEST: Final = 4.0
"""Standard deviations of log popularity beyond which an item is weighted no further; e^4 is below `MOST_RATIO`."""


def tail_weights(prior_M: npt.NDArray[np.floating], tail_weight: float) -> npt.NDArray[np.float32]:
    """Weight of each selected item, float32 `[M]`; all 1 for a `tail_weight` of 0.

    Args:
        prior_M: their released prior.
        tail_weight: 0 to 1.
    """
    near_M = np.clip(prior_M.astype(np.float64), -_FURTHEST, _FURTHEST)
    return np.exp(-0.5 * tail_weight * near_M).astype(np.float32)


def tail_weights_of(asked: CollaborationConfig, state: Mapping[str, npt.NDArray[np.float32]]) -> Floats | None:
    """The weights of a PAIRS request, None in a plan with equal ones.

    Raises:
        ProtocolError: a plan with a `tail_weight`, and not one finite number above 0 per item, none more than
            `MOST_RATIO` times another; weights in another plan.
    """
    given = state.get(TAIL)
    if not asked.tail_weight:
        if given is not None:
            raise ProtocolError(f"the plan weights all items alike, the request has '{TAIL}'", remedy="Remove it")
        return None
    weight_M = np.zeros(0) if given is None else given.astype(np.float64)
    fits = weight_M.shape == (asked.items,) and bool(np.isfinite(weight_M).all()) and bool(weight_M.min() > 0.0)
    if not fits or float(weight_M.max() / weight_M.min()) > MOST_RATIO:
        raise ProtocolError(
            f"the request weights {weight_M.size} items, the plan says {asked.items} numbers above 0 that differ by "
            f"{MOST_RATIO:g} times at most",
            remedy="Send the weights that follow from the plan's popularity release",
        )
    return weight_M
