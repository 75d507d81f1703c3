"""Items that show the same: equal media bytes, and nearly equal vectors. Found and named, never removed.

Promises:
1. Items keep their ids and their vectors: interactions refer to them, and which of two twins to sell is the owner's
   decision.
2. An item counts once, by the first earlier item that it repeats, and as near only if it is no exact copy.
3. Near means a cosine of at least `threshold` between the encoder's vectors, as unit rows minus their mean over the
   catalogue: networks put all vectors into one narrow cone, where the plain cosine calls everything alike.

Comparing all pairs takes time quadratic in the items and memory of one tile. Shapes: N items, D raw width, n rows of a
tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrec_model.encoders.interface import Mask, Vectors
from mmrec_model.features.store import content_digest
from mmrec_model.features.transform import unit_rows

_TILE = 2048

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """Per item the position of the first earlier item that it repeats, or -1.

    Attributes:
        exact_N: by the bytes of the medium.
        near_N: by the vectors, for items that are no exact copy.
    """

    exact_N: Whole
    near_N: Whole


def find_duplicates(
    inputs: Sequence[str | Path | None], raw_ND: Vectors, present_N: Mask, threshold: float
) -> Duplicates:
    """Compare the items of one modality with each other.

    Args:
        inputs: texts or paths, None where the item has nothing.
        raw_ND: the encoder's vectors.
        present_N: items that have a vector; the others repeat nothing.
        threshold: least cosine of a near duplicate, above 0 and at most 1.
    """
    exact_N = _exact(inputs, present_N)
    near_N = np.full(len(inputs), -1, dtype=np.int64)
    if present_N.any():
        near_N[present_N] = _near(raw_ND[present_N], np.flatnonzero(present_N), threshold)
    near_N[exact_N >= 0] = -1
    return Duplicates(exact_N, near_N)


def _exact(inputs: Sequence[str | Path | None], present_N: Mask) -> Whole:
    first: dict[str, int] = {}
    earlier_N = np.full(len(inputs), -1, dtype=np.int64)
    for position in np.flatnonzero(present_N).tolist():
        medium = inputs[position]
        content = None if medium is None else content_digest(medium)
        if content is not None and first.setdefault(content, position) != position:
            earlier_N[position] = first[content]
    return earlier_N


def _near(raw_ND: Vectors, position_N: npt.NDArray[np.intp], threshold: float) -> Whole:
    unit_ND = unit_rows(raw_ND)
    centred_ND = unit_rows(unit_ND - unit_ND.mean(axis=0)).astype(np.float32)
    earlier_N = np.full(len(raw_ND), -1, dtype=np.int64)
    starts = range(0, len(raw_ND), _TILE)
    for top in starts:
        rows = slice(top, top + _TILE)
        for left in starts[: top // _TILE + 1]:
            alike_nn = centred_ND[rows] @ centred_ND[left : left + _TILE].T >= threshold
            if left == top:
                alike_nn = np.tril(alike_nn, k=-1)
            found_n = alike_nn.any(axis=1) & (earlier_N[rows] < 0)
            earlier_N[rows][found_n] = position_N[left + alike_nn[found_n].argmax(axis=1)]
    return earlier_N
