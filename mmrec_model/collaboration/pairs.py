"""Which items stand together: one symmetric matrix per user, of length one, and nothing else.

The user u with the last K items i_1 ... i_n (oldest first) contributes the symmetric matrix

    C_u[i_a, i_b] = (1 + |a - b|)^(-1/2) / norm,        norm: L2 norm of its upper triangle with the diagonal,

so that items close in time count more and every user has length exactly 1, however long the history: replacing a user's
data by nothing moves the sum over users by at most `BOUND` in L2. What is released is the upper triangle, row by row
with the diagonal; the sum of several partners' triangles is the triangle of all their users. With equal weights and
without the norm the sum is X^T X of Steck (WWW 2019). Public weights of the items (`collaboration.tail`) multiply the
entries before the norm is taken, and so leave the length.

Shapes: M selected items, T = M (M + 1) / 2 numbers of the triangle, K items of a history.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import ModelError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BOUND = 1.0
"""L2 length of one user's triangle, at most."""


def nearness(distance: npt.NDArray[np.float64]) -> Floats:
    """Weight of two places that lie `distance` apart; of a history when it is scored too.

    Pairs count places among the selected items alone, the scorer counts those of the whole history.
    """
    return np.asarray((1.0 + distance) ** -0.5, dtype=np.float64)


def triangle_size(items: int) -> int:
    """T of M items."""
    return items * (items + 1) // 2


def sum_pairs(
    histories: Iterable[Ints], place_N: Ints, *, items: int, last: int, weight_M: Floats | None = None
) -> Floats:
    """Sum of all users' triangles, before noise, float64 `[T]`.

    Args:
        histories: catalogue items of each user, oldest first, without repetition.
        place_N: place of each catalogue item among the M selected ones; -1 where it is not selected.
        items: M.
        last: K, selected items of a user that count, from the end.
        weight_M: public weight of each selected item, above 0; equal ones by default.
    """
    total_T = np.zeros(triangle_size(items))
    for history in histories:
        places = place_N[history]
        places = places[places >= 0][-last:]
        if places.size:
            where, added = _contribution(places, items, weight_M)
            total_T[where] += added
    return total_T


def unpack(triangle_T: npt.NDArray[np.floating], items: int) -> Floats:
    """The symmetric matrix `[M, M]` of a triangle.

    Raises:
        ModelError: the triangle is not one of `items` items.
    """
    if triangle_T.shape != (triangle_size(items),):
        raise ModelError(f"{triangle_T.shape} numbers for the pairs of {items} items", remedy="Send the whole triangle")
    matrix = np.zeros((items, items))
    matrix[np.triu_indices(items)] = triangle_T
    return matrix + np.triu(matrix, 1).T


def _contribution(places: Ints, items: int, weight_M: Floats | None) -> tuple[Ints, Floats]:
    """Where one user's triangle is not zero, and what it is there.

    The length is that of the numbers that are added, so the bound holds for a history with repetitions too.
    """
    first, second = np.triu_indices(places.size)
    near = nearness((second - first).astype(np.float64))
    if weight_M is not None:
        near = near * weight_M[places[first]] * weight_M[places[second]]
    row, column = np.minimum(places[first], places[second]), np.maximum(places[first], places[second])
    where, pair = np.unique(row * items - row * (row - 1) // 2 + column - row, return_inverse=True)
    weights = np.bincount(pair, near).astype(np.float64)
    return where.astype(np.int64), weights * (BOUND / math.sqrt(float(weights @ weights)))
