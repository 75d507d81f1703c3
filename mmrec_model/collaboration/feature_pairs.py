"""Which features stand together: one symmetric matrix per user in a public feature space, of length one at most.

The user u with the last K items i_1 ... i_n that have features (oldest first) contributes the symmetric matrix

    F_u = sum over a != b of (1 + |a - b|)^(-1/2) x_a x_b^T / norm,

x the public vectors of the items (`feature_map`). What is released is its upper triangle, row by row with the diagonal,
each number off the diagonal times sqrt(2): its L2 length is the Frobenius norm of the matrix, and noise on it is the
same in every direction of the space. `norm` is that length, so **every user has length exactly 1**, or 0 without two
such items, however long the history and whatever is repeated in it. Sums add up over partners.

Unlike pairs of items (`pairs`) these say something of every item with features, of one that nobody met too, and their
number does not grow with the catalogue.

Shapes: N items of the catalogue, D dimensions of the feature space, T = D (D + 1) / 2 numbers of the triangle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mmrec_model.collaboration.pairs import BOUND, nearness, triangle_size, unpack

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_SMALLEST = 1e-9
"""Length below which a user's matrix is taken for rounding errors, and for none."""


def sum_feature_pairs(histories: Iterable[Ints], features_ND: Floats, *, last: int) -> Floats:
    """Sum of all users' triangles, before noise, float64 `[T]`.

    Args:
        histories: catalogue items of each user, oldest first.
        features_ND: as `feature_map.features_of` makes them: finite, zero rows for items without features.
        last: K, items with features of a user that count, from the end.
    """
    total_T = np.zeros(triangle_size(features_ND.shape[1]))
    for history in histories:
        total_T += feature_triangle(history, features_ND, last=last)
    return total_T


def feature_triangle(history: Ints, features_ND: Floats, *, last: int) -> Floats:
    """One user's triangle `[T]`, of L2 length `BOUND` or 0; arguments as of `sum_feature_pairs`."""
    rows_nD = features_ND[history]
    rows_nD = rows_nD[rows_nD.any(axis=1)][-last:]
    place_n = np.arange(len(rows_nD), dtype=np.float64)
    near_nn = nearness(np.abs(place_n[:, None] - place_n))
    np.fill_diagonal(near_nn, 0.0)
    triangle_T = isometric(rows_nD.T @ near_nn @ rows_nD)
    length = math.sqrt(float(triangle_T @ triangle_T))
    return triangle_T * (BOUND / length) if length > _SMALLEST else np.zeros_like(triangle_T)


def isometric(matrix_DD: Floats) -> Floats:
    """The triangle `[T]` of a symmetric matrix whose length is the matrix's Frobenius norm."""
    return np.asarray((matrix_DD * _scale(len(matrix_DD)))[np.triu_indices(len(matrix_DD))])


def symmetric(triangle_T: npt.NDArray[np.floating], dims: int) -> Floats:
    """The symmetric matrix `[D, D]` of a triangle; noise of deviation s on it is s on the diagonal, s / sqrt(2) off it.

    Raises:
        ModelError: the triangle is not one of `dims` dimensions.
    """
    return unpack(triangle_T, dims) / _scale(dims)


def _scale(dims: int) -> Floats:
    return np.where(np.eye(dims, dtype=bool), 1.0, math.sqrt(2.0))
