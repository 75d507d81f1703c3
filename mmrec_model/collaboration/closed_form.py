"""From pairs to a scorer: EASE's closed form (Steck, WWW 2019), shrunk towards what content says instead of nothing.

    min_B  tr((I - B)^T G (I - B)) + lambda ||B - B_0||^2,   diag(B) = 0,
    B = T - P diag(g),    P = (G + lambda I)^-1,   T = I - lambda P (I - B_0),   g = diag(T) / diag(P).

B_0 = 0 is EASE. With B_0 from the features (`kernels.mixed`) a pair that was hardly ever seen keeps the score of its
content, and as the noise grows, and lambda with it, the scorer turns into the content scorer. lambda is the mean count
of an item plus a multiple of the size of the noise that is left: what noise asks for is known, not searched.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import linalg

Floats = npt.NDArray[np.float64]

DISCOUNT: Final = 0.15
"""Of popular items, where nothing is noised. Chosen on validation items of X-Wines: ndcg@10 .1176 -> .1200 without
noise, .1104 -> .1110 and .1123 -> .1127 in two draws at epsilon 8."""


def ridge_penalty(pairs_MM: Floats, *, remaining: float, noise_penalty: float) -> float:
    """lambda, above 0.

    Args:
        pairs_MM: estimated pairs.
        remaining: spectral size of the error in them.
        noise_penalty: multiple of it that is added.
    """
    mean_count = float(np.trace(pairs_MM)) / len(pairs_MM)
    return max(mean_count, np.finfo(float).tiny) + noise_penalty * remaining


def item_weights(pairs_MM: Floats, content_MM: Floats, *, penalty: float) -> Floats:
    """B `[M, M]` with a zero diagonal; a history is a row vector x, its scores are x B.

    Args:
        pairs_MM: estimated pairs, symmetric.
        content_MM: B_0.
        penalty: lambda.
    """
    items = len(pairs_MM)
    inverse = np.asarray(linalg.inv(pairs_MM + penalty * np.eye(items), check_finite=False), dtype=np.float64)
    target = np.eye(items) - penalty * (inverse - inverse @ content_MM)
    weights = target - inverse * (np.diag(target) / np.diag(inverse))
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights, dtype=np.float64)


def discounted(weights_MM: Floats, counts_M: Floats, *, remaining: float, kept: float) -> Floats:
    """Weights whose columns are divided by (count + remaining + 1)^e, e = `DISCOUNT` x kept; 1 is one user's length.

    As in a cosine, an item that stands beside everything says less by it. How much of that can be told from noise is
    the share of the pairs that was kept.

    Args:
        weights_MM: B.
        counts_M: the items' own counts in the estimated pairs.
        remaining: spectral size of the error in them.
        kept: share of the pairs' deviation from independence that denoising kept, 0..1.
    """
    size_M = np.maximum(counts_M, 0.0) + remaining + 1.0
    return np.asarray(weights_MM * size_M ** (-DISCOUNT * kept), dtype=np.float64)


def standardised(weights_MM: Floats, counts_M: Floats) -> Floats:
    """Weights at which the scores of one item's neighbours deviate by 1 on average, popular items counting more."""
    spread_M = weights_MM.std(axis=1)
    typical = float(np.average(spread_M, weights=np.maximum(counts_M, np.finfo(float).tiny)))
    return weights_MM / typical if typical > 0.0 else np.zeros_like(weights_MM)
