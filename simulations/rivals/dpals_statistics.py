"""What leaves the users in one iteration of DPALS, and by how much one user moves it.

Statistics over users u with vectors clipped to radius c, weights w_uj on the user's items and sum_j w_uj^2 <= k:

    G    = sum_u u u^T                 one for the catalogue (the unobserved cells)
    A_j  = sum_u w_uj u u^T            per item
    b_j  = sum_u w_uj u                per item

All of them are one vector, and one Gaussian release. Symmetric matrices travel as their upper triangle with the part
off the diagonal times sqrt(2), so that the length of the triangle is the Frobenius norm c^2 of u u^T. The parts are
scaled to have the squared shares s_G + s_A + s_b = 1 of the sensitivity:

    G sqrt(s_G) / c^2        A_j sqrt(s_A / k) / c^2        b_j sqrt(s_b / k) / c

Guarantee: one user's data replaced by nothing moves this vector by at most 1 in L2 norm, with equality for a vector of
length c and weights of squared sum k: s_G + sum_j w_uj^2 (s_A + s_b) / k <= 1. A statistic with share 0 stays.

Legend: A users, N items, D width of a vector, T = D (D + 1) / 2 numbers of a triangle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import ConfigError
from mmrec_model.evaluation.baselines import Csr
from mmrec_model.privacy.noise import GaussianNoise

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shares:
    """Parts of the squared sensitivity; they are scaled to the sum 1.

    Attributes:
        gram: of G, above 0.
        outer: of the A_j; 0 to do without them.
        moment: of the b_j, above 0.

    Raises:
        ConfigError: a share is out of range.
    """

    gram: float = 0.05
    outer: float = 0.35
    moment: float = 0.6

    def __post_init__(self) -> None:
        if not (self.gram > 0.0 and self.outer >= 0.0 and self.moment > 0.0):
            raise ConfigError(
                f"shares {self.gram}, {self.outer} and {self.moment} of a release",
                remedy="Give G and b more than 0, and the A_j at least 0",
            )

    @property
    def total(self) -> float:
        """Their sum."""
        return self.gram + self.outer + self.moment


@dataclass(frozen=True)
class Bounds:
    """What limits one user.

    Attributes:
        radius: c, the greatest length of a user vector.
        cap: k, the greatest squared sum of a user's weights.
        shares: of the squared sensitivity.
    """

    radius: float
    cap: int
    shares: Shares

    @property
    def units(self) -> tuple[float, float, float]:
        """What one unit of the scaled vector is in G, in an A_j (infinite without a share) and in a b_j."""
        total = self.shares.total
        gram, outer, moment = self.shares.gram / total, self.shares.outer / total, self.shares.moment / total
        outer_unit = self.radius**2 * math.sqrt(self.cap / outer) if outer else math.inf
        return self.radius**2 / math.sqrt(gram), outer_unit, self.radius * math.sqrt(self.cap / moment)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the item side is solved from.

    Attributes:
        gram_DD: G.
        outer_NT: triangles of the A_j; None where they have no share.
        moment_ND: the b_j.
    """

    gram_DD: Floats
    outer_NT: Floats | None
    moment_ND: Floats


def clip(users_AD: Floats, radius: float) -> Floats:
    """Vectors of at most this length."""
    length_A = np.linalg.norm(users_AD, axis=1, keepdims=True)
    return np.asarray(users_AD * np.minimum(1.0, radius / np.maximum(length_A, np.finfo(np.float64).tiny)))


def contributions(users_AD: Floats, weights_AN: Csr, bounds: Bounds) -> Floats:
    """Scaled sum over users as one vector: G, then the A_j where they have a share, then the b_j.

    Args:
        users_AD: vectors, clipped here.
        weights_AN: sparse weights; the squares of a row sum to at most the cap.
        bounds: of one user.
    """
    gram_unit, outer_unit, moment_unit = bounds.units
    clipped_AD = clip(users_AD, bounds.radius)
    parts = [triangle(clipped_AD.T @ clipped_AD) / gram_unit]
    if bounds.shares.outer:
        parts.append(np.asarray(weights_AN.T @ outer_triangles(clipped_AD)).ravel() / outer_unit)
    parts.append(np.asarray(weights_AN.T @ clipped_AD).ravel() / moment_unit)
    return np.concatenate(parts)


def release(
    users_AD: Floats, weights_AN: Csr, bounds: Bounds, noise_multiplier: float, noise: GaussianNoise
) -> Statistics:
    """Noised statistics in their own units; G is made positive semidefinite.

    Args:
        users_AD: vectors, clipped here.
        weights_AN: as in `contributions`.
        bounds: of one user.
        noise_multiplier: deviation of the noise on every number of the scaled vector; 0 for none.
        noise: its source.
    """
    n_items, dims = weights_AN.shape[1], users_AD.shape[1]
    vector = contributions(users_AD, weights_AN, bounds)
    if noise_multiplier:
        vector += noise.draw(vector.size, noise_multiplier)
    gram_unit, outer_unit, moment_unit = bounds.units
    corner = dims * (dims + 1) // 2
    gram_T, outer, moment = np.split(vector, [corner, vector.size - n_items * dims])
    return Statistics(
        gram_DD=positive(square(gram_T * gram_unit, dims)),
        outer_NT=outer.reshape(n_items, corner) * outer_unit if bounds.shares.outer else None,
        moment_ND=moment.reshape(n_items, dims) * moment_unit,
    )


def outer_triangles(vectors_LD: Floats) -> Floats:
    """`triangle` of the product of each vector with itself `[L, T]`."""
    rows, columns = np.triu_indices(vectors_LD.shape[1])
    scale_T = np.where(rows == columns, 1.0, math.sqrt(2.0))
    return np.asarray(vectors_LD[:, rows] * vectors_LD[:, columns] * scale_T)


def triangle(symmetric: Floats) -> Floats:
    """Upper triangles `[..., T]` of symmetric matrices `[..., D, D]`, of the same L2 norm."""
    rows, columns = np.triu_indices(symmetric.shape[-1])
    return np.asarray(symmetric[..., rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0)))


def square(triangles: Floats, dims: int) -> Floats:
    """The symmetric matrices `[..., D, D]` of `triangle`."""
    rows, columns = np.triu_indices(dims)
    full = np.zeros((*triangles.shape[:-1], dims, dims))
    full[..., rows, columns] = full[..., columns, rows] = triangles / np.where(rows == columns, 1.0, math.sqrt(2.0))
    return full


def positive(symmetric: Floats) -> Floats:
    """The nearest positive semidefinite matrices in Frobenius norm: negative eigenvalues become 0."""
    values, vectors = np.linalg.eigh(symmetric)
    return np.asarray((vectors * np.maximum(values, 0.0)[..., None, :]) @ np.swapaxes(vectors, -1, -2))
