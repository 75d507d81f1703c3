"""Places of a list for items that nobody can have met yet.

What is learned from behaviour, the popularity prior above all, buries an item without any: it is nobody's neighbour,
and unpopular. Its content is known all the same. So every n-th place of a list is kept for the new item that suits the
user's content profile best, and the other places stay in the order of the model. Which items are new is a public fact
of the catalogue; without new items nothing changes. Source: Schein et al., SIGIR 2002, for what content can know of
such items and behaviour cannot.

Shapes: B users, N items of the catalogue.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import ModelError

EVERY: Final = 10
"""One place in so many, unless asked otherwise."""

Floats = npt.NDArray[np.float32]


def reserve_places(
    scores_BN: Floats,
    content_BN: Floats,
    histories: Sequence[npt.NDArray[np.int64]],
    new_N: npt.NDArray[np.bool_],
    *,
    every: int = EVERY,
) -> Floats:
    """Scores `[B, N]` of the merged lists: minus the place.

    Equal scores are put in an order that is drawn for the user's history: the same one each time, and not that of the
    items.

    Args:
        scores_BN: of the model; they order the items that are not new.
        content_BN: of the free content profile; they order the new ones.
        histories: items of each user, which come last.
        new_N: which items are new.
        every: each place `every`, 2 `every`, ... of a list is for a new item, as long as there are any; at least 2.

    Raises:
        ModelError: `every` is below 2, or the shapes differ.
    """
    if every < 2 or scores_BN.shape != content_BN.shape or new_N.shape != scores_BN.shape[1:]:
        raise ModelError(
            f"one place in {every} for {new_N.shape} items with scores of {scores_BN.shape} and {content_BN.shape}",
            remedy="Keep one place in 2 or more, for the catalogue that is scored",
        )
    places_BN = np.zeros(scores_BN.shape, dtype=np.float32)
    known_BW = _order(scores_BN, histories, ~new_N)
    fresh_BF = _order(content_BN, histories, new_N)
    places_BN[:, ~new_N] = known_BW + np.minimum(known_BW // (every - 1), fresh_BF.shape[1])
    places_BN[:, new_N] = np.minimum(every * (fresh_BF + 1) - 1, known_BW.shape[1] + fresh_BF)
    return -places_BN


def _order(
    scores_BN: Floats, histories: Sequence[npt.NDArray[np.int64]], chosen_N: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Place from 0 of the chosen items among themselves; what a user has comes last."""
    chosen = np.flatnonzero(chosen_N)
    places_BC = np.empty((len(scores_BN), len(chosen)), dtype=np.int64)
    for row, history in enumerate(histories):
        wanted_N = scores_BN[row].astype(np.float64)
        wanted_N[history] = -np.inf
        luck_C = np.random.default_rng(zlib.crc32(history.tobytes())).random(len(chosen))
        places_BC[row, np.lexsort((luck_C, -wanted_N[chosen]))] = np.arange(len(chosen))
    return places_BC
