"""What the public features of the items say about pairs, and how far the released pairs bear it out.

Each modality gives a kernel K_m of positive cosines between items. Their weights beta >= 0 are those of the linear
scorer B = sum_m beta_m K_m that best rebuilds histories from themselves,

    min_beta  tr((I - B)^T G (I - B)),        G the released pairs,

a least-squares problem whose coefficients are linear in G: noise of mean zero leaves them unbiased, and a handful of
numbers is fitted to a million sums. So the pairs themselves say which modality explains behaviour, at no further price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Floats = npt.NDArray[np.float64]


def content_kernel(vectors_MD: npt.NDArray[np.floating]) -> Floats:
    """Positive cosines `[M, M]` with a zero diagonal; unit rows in, zero rows where an item lacks the modality."""
    wide = np.asarray(vectors_MD, dtype=np.float64)
    kernel = np.maximum(wide @ wide.T, 0.0)
    np.fill_diagonal(kernel, 0.0)
    return kernel


def route(pairs_MM: Floats, kernels: Mapping[str, Floats]) -> dict[str, float]:
    """Weight of each kernel in the best linear scorer that is made of kernels alone; 0 where it explains nothing.

    Args:
        pairs_MM: the released pairs, symmetric, noised.
        kernels: symmetric, with zero diagonals.
    """
    names = list(kernels)
    if not names:
        return {}
    seen = [pairs_MM @ kernels[name] for name in names]
    normal = np.array([[np.sum(kernels[a] * product) for product in seen] for a in names])
    target = np.array([np.sum(kernels[name] * pairs_MM) for name in names])
    return dict(zip(names, map(float, _non_negative(normal, target)), strict=True))


def mixed(kernels: Mapping[str, Floats], weights: Mapping[str, float], items: int) -> Floats:
    """sum_m beta_m K_m, `[M, M]`; zero without kernels."""
    total = np.zeros((items, items))
    for name, kernel in kernels.items():
        total += weights[name] * kernel
    return total


def _non_negative(normal: Floats, target: Floats) -> Sequence[float]:
    """The non-negative minimiser of b^T A b - 2 b^T t; noise may have left A with negative directions, which go."""
    values, vectors = np.linalg.eigh((normal + normal.T) / 2.0)
    kept = values > 1e-9 * max(float(np.abs(values).max()), np.finfo(float).tiny)
    root = np.sqrt(values[kept])
    if not kept.any():
        return [0.0] * len(target)
    solution, _ = nnls(root[:, None] * vectors[:, kept].T, (vectors[:, kept].T @ target) / root)
    return [float(value) for value in solution]
