"""From released feature pairs to a metric W: what goes with what beyond popularity, as far as the noise lets one see.

    1. E = s q q^T is what independent choices would give: q the mean vector of a chosen item, s by least squares. Of
       the released prior only a standardised logarithm is known, so popularity is p ~ exp(g prior), with the g that
       explains most of the release.
    2. In the eigenbasis of S = sum_i p_i x_i x_i^T, with values l, the excess F - E is taken for a draw of a matrix
       normal with covariance S on both sides around b S S, which is what a plain similarity of features would give;
       b >= 0 by least squares. Each entry keeps the share v / (v + noise^2) of its deviation, v = t l_a l_b: a Wiener
       filter whose t maximises the marginal likelihood of the release (empirical Bayes, as in `denoising`).
    3. W = S^(-1/2) (estimate) S^(-1/2), so that a direction counts for what was chosen along it and not for how wide it
       is, scaled so that the scores x_i^T W x_j of one item's neighbours deviate by 1 on average.

Post-processing of releases that are paid for, and public features. Under huge noise the plain similarity is left.
Shapes: N items, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec_model.collaboration.feature_pairs import symmetric

Floats = npt.NDArray[np.float64]

_POWERS = np.arange(0.0, 2.75, 0.25)
"""Powers g that are tried."""
_LOGS = np.arange(-20.0, 20.5, 0.5)
"""Logarithms of t, in units of the noise, that are tried."""
_FLAT = 1e-3
"""Share of the largest value of S below which a direction counts as wide as this."""
_NOTHING = 1e-12
"""Width of a space in which no item has features; those of a whitened catalogue are about 1."""


@dataclass(frozen=True)
class Metric:
    """A metric and what was found on the way.

    Attributes:
        weights_DD: W, float32, symmetric.
        kept: mean share of the excess's deviation from plain similarity that was kept, 0..1.
        similarity: b, the weight of plain similarity of features, at least 0.
    """

    weights_DD: npt.NDArray[np.float32]
    kept: float
    similarity: float


def estimate_metric(
    triangle_T: npt.NDArray[np.floating], features_ND: Floats, prior_N: npt.NDArray[np.floating], *, noise: float
) -> Metric:
    """The metric of a release.

    Args:
        triangle_T: noised sum of the users' triangles.
        features_ND: all items in the feature space, zero rows without features.
        prior_N: standardised log popularity, as released.
        noise: standard deviation of the noise in each number of the triangle.

    Raises:
        ModelError: the triangle is not one of D dimensions.
    """
    noised_DD = symmetric(triangle_T, features_ND.shape[1])
    excess_DD, share_N = _beyond_popularity(noised_DD, features_ND, prior_N.astype(np.float64))
    values_D, axes_DD = np.linalg.eigh(features_ND.T @ (share_N[:, None] * features_ND))
    values_D = np.maximum(values_D, max(_FLAT * float(values_D[-1]), _NOTHING))
    found_DD = axes_DD.T @ excess_DD @ axes_DD
    similarity = max(0.0, float(np.diag(found_DD) @ values_D**2) / float(np.sum(values_D**4)))
    plain_DD = np.diag(similarity * values_D**2)
    share_DD = _kept_share(found_DD - plain_DD, np.outer(values_D, values_D), noise)
    estimate_DD = (plain_DD + share_DD * (found_DD - plain_DD)) / np.sqrt(np.outer(values_D, values_D))
    weights_DD = _standardised(axes_DD @ estimate_DD @ axes_DD.T, features_ND, share_N)
    return Metric(weights_DD.astype(np.float32), float(share_DD.mean()), similarity)


def _beyond_popularity(noised_DD: Floats, features_ND: Floats, prior_N: Floats) -> tuple[Floats, Floats]:
    """The release minus what independent choices would give, and the items' shares of all choices `[N]`."""
    found: list[tuple[float, Floats, Floats]] = []
    for power in _POWERS:
        share_N = np.exp(power * (prior_N - prior_N.max(initial=0.0)))
        share_N /= share_N.sum()
        chosen_D = features_ND.T @ share_N
        length = max(float(chosen_D @ chosen_D), np.finfo(float).tiny)
        explained = max(0.0, float(chosen_D @ noised_DD @ chosen_D) / length)
        found.append((explained, np.outer(chosen_D, chosen_D) * (explained / length), share_N))
    _, independent_DD, share_N = max(found, key=lambda one: one[0])
    return noised_DD - independent_DD, share_N


def _kept_share(deviation_DD: Floats, widths_DD: Floats, noise: float) -> Floats:
    """The Wiener filter `[D, D]`; all ones without noise."""
    if noise == 0.0:
        return np.ones_like(deviation_DD)
    upper = np.triu_indices(len(deviation_DD))
    noise_DD = noise**2 * np.where(np.eye(len(deviation_DD), dtype=bool), 1.0, 0.5)
    squares_T, noise_T, widths_DD = deviation_DD[upper] ** 2, noise_DD[upper], widths_DD / widths_DD.mean()

    def surprise(log: float) -> float:
        variance_T = noise**2 * np.exp(log) * widths_DD[upper] + noise_T
        return float((np.log(variance_T) + squares_T / variance_T).sum())

    prior_DD = noise**2 * np.exp(min(_LOGS, key=surprise)) * widths_DD
    return np.asarray(prior_DD / (prior_DD + noise_DD))


def _standardised(weights_DD: Floats, features_ND: Floats, share_N: Floats) -> Floats:
    """Weights at which the scores of one item's neighbours deviate by 1 on average, popular items counting more."""
    rows_ND = features_ND @ weights_DD
    spread_DD = np.cov(features_ND, rowvar=False, bias=True).reshape(weights_DD.shape)
    spread_N = np.sqrt(np.maximum(np.einsum("nd,de,ne->n", rows_ND, spread_DD, rows_ND), 0.0))
    typical = float(share_N @ spread_N)
    return weights_DD / typical if typical > 0.0 else np.zeros_like(weights_DD)
