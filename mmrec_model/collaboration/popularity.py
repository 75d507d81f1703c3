"""From counts of users per item to the popularity prior of a model: of released counts, or of a partner's own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FLAT = 1e-12


def popularity_prior(counts_N: npt.NDArray[np.float64], *, noise_sd: float) -> npt.NDArray[np.float32]:
    """Standardised log popularity from summed, noised counts; post-processing only.

    Counts below one noise deviation cannot be told from nothing: they all count as that floor, so that the logarithm
    does not spread noise over the tail of the catalogue.

    Args:
        counts_N: noised number of users per item, summed over partners; may be negative.
        noise_sd: standard deviation of the noise in one entry of `counts_N`, from public numbers; 0 without noise.

    Returns:
        float32 [N] with mean 0 and standard deviation 1; all 0 where the counts do not differ.
    """
    log_N = np.log1p(np.maximum(counts_N, noise_sd))
    spread = float(log_N.std())
    if not spread > _FLAT:
        return np.zeros(log_N.shape, np.float32)
    return np.asarray((log_N - log_N.mean()) / spread, np.float32)
