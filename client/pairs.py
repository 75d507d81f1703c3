"""The pairs release: which items stand together in histories, noised once (`mmrec_model.collaboration.pairs`).

Each user's whole data is one triangle of L2 length 1 at most, however long the history, so the noise multiplier of the
plan is the standard deviation of the noise on every number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmrec_model.collaboration.pairs import sum_pairs, triangle_size
from mmrec_model.collaboration.tail import tail_weights_of
from mmrec_model.config import RunConfig
from mmrec_model.data.histories import Histories
from mmrec_model.errors import ProtocolError
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import SELECTED, Arrays


def count_pairs(
    config: RunConfig, histories: Histories, state: Arrays, noise: GaussianNoise
) -> npt.NDArray[np.float32]:
    """Noised sum of the users' triangles `[T]`.

    Args:
        config: the approved run.
        histories: the partner's train histories.
        state: holds `selected`, the places of the items whose pairs count, and `tail` in a plan that weights them.
        noise: source of the noise.

    Raises:
        ProtocolError: `selected` is not ascending places of the catalogue, as many as the plan says, or `tail` not
            their weights.
    """
    asked, items = config.collaboration, config.features.items
    place_N = _places(state, items, asked.items)
    everyone = (histories.of(user) for user in range(len(histories)))
    weight_M = tail_weights_of(asked, state)
    total_T = sum_pairs(everyone, place_N, items=asked.items, last=asked.history, weight_M=weight_M)
    if config.privacy.mechanism == "gaussian":
        total_T += noise.draw(triangle_size(asked.items), asked.noise_multiplier)
    return total_T.astype(np.float32)


def check_pairs(config: RunConfig, state: Arrays) -> None:
    """Refuse, before anything is charged, a request that `count_pairs` would refuse.

    Raises:
        ProtocolError: as `count_pairs`.
    """
    _places(state, config.features.items, config.collaboration.items)
    tail_weights_of(config.collaboration, state)


def _places(state: Arrays, items: int, expected: int) -> npt.NDArray[np.int64]:
    """Place of each catalogue item among the selected ones, -1 where it is none."""
    selected = state.get(SELECTED)
    given = np.zeros(0) if selected is None else selected.astype(np.float64)
    whole = given.shape == (expected,) and bool((given == np.floor(given)).all())
    if not (whole and given[0] >= 0 and given[-1] < items and bool((np.diff(given) > 0).all())):
        raise ProtocolError(
            f"the request selects {given.size} items, the plan says {expected} ascending places below {items}",
            remedy="Send the items that the plan's popularity release selects",
        )
    place_N = np.full(items, -1, dtype=np.int64)
    place_N[given.astype(np.int64)] = np.arange(expected)
    return place_N
