"""Shrink noised pairs towards what popularity predicts, as far as the noise says and no further. Post-processing only.

Model. The pairs G, minus what independent choices of popular items would give (E, the outer product of the items'
shares), are one draw of a matrix-variate normal whose rows and columns covary as

    S = D^(1/2) (a I + b K + c L) D^(1/2),        D the items' counts, K the content kernel, L a low-rank kernel,

and independent noise of known deviation on top. In the eigenbasis of S the best linear estimate of every entry is the
noised entry times v / (v + sigma^2), v the product of two eigenvalues: a Wiener filter. a, b, c maximise the marginal
likelihood of the noised pairs themselves (empirical Bayes, Efron & Morris 1973; the noise is known exactly, which is
what makes it work), on the most popular items, for speed. L is the leading part of a first estimate without it.

Without noise nothing is shrunk. Shapes: M items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]

FITTED_ITEMS = 400
"""Most popular items on which the three numbers of the model are fitted."""
RANK = 20
"""Leading directions of the first estimate that make the low-rank kernel."""
_START = (-4.0, -6.0)
_SHIFTS = (-2.0, 0.0, 2.0, 4.0, 6.0)
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Denoised:
    """An estimate of the pairs.

    Attributes:
        pairs_MM: symmetric.
        remaining: spectral size of the error that is left, if the model of the pairs holds; 0 without noise.
        kept: mean share of an entry's deviation from independence that was kept, 0..1.
    """

    pairs_MM: Floats
    remaining: float
    kept: float


def denoise(noised_MM: Floats, content_MM: Floats, *, noise: float) -> Denoised:
    """Estimate the pairs behind their noised sums.

    Args:
        noised_MM: symmetric sums.
        content_MM: what features say of pairs, positive semi-definite; zero where they say nothing.
        noise: standard deviation of the noise in each entry; 0 returns the sums.
    """
    if noise == 0.0:
        return Denoised(noised_MM, 0.0, 1.0)
    counts_M = np.maximum(np.diag(noised_MM), noise)
    kernels = [np.eye(len(noised_MM)), *_scaled(content_MM)]
    first = _Filter(noised_MM, counts_M, kernels, noise)
    logs = first.fit(np.array(_START[: len(kernels)]))
    estimate, *_ = first.apply(logs)
    leading = _leading(estimate - first.independent, counts_M)
    second = _Filter(noised_MM, counts_M, [*kernels, *_scaled(leading)], noise)
    start = np.append(logs, [_START[-1]] * (len(second.kernels) - len(logs)))
    pairs, remaining, kept = second.apply(second.fit(start))
    return Denoised(pairs, remaining, kept)


@dataclass(frozen=True)
class _Filter:
    """The Wiener filter of one choice of kernels."""

    noised_MM: Floats
    counts_M: Floats
    kernels: Sequence[Floats]
    noise: float

    @property
    def independent(self) -> Floats:
        """Pairs if items were chosen independently."""
        outer = np.outer(self.counts_M, self.counts_M)
        return np.asarray(outer * (max(float(self.noised_MM.sum()), 0.0) / float(outer.sum())))

    def apply(self, logs: Floats) -> tuple[Floats, float, float]:
        """The estimate, the spectral size of its error, and the mean share kept."""
        values, vectors, rotated = self._rotate(logs)
        prior = np.outer(values, values)
        share = prior / (prior + self.noise**2)
        # Of a random symmetric matrix with these variances: twice the root of the largest row sum.
        remaining = 2.0 * float(np.sqrt((self.noise**2 * share).sum(axis=1).max()))
        return self.independent + vectors @ (share * rotated) @ vectors.T, remaining, float(share.mean())

    def fit(self, start: Floats) -> Floats:
        """Logarithms of the kernels' weights at the largest marginal likelihood."""
        top = np.argsort(-self.counts_M, kind="stable")[:FITTED_ITEMS]
        block = np.ix_(top, top)
        part = _Filter(self.noised_MM[block], self.counts_M[top], [one[block] for one in self.kernels], self.noise)
        # Where a start predicts far less than the noise, the likelihood is flat: sizes are tried before directions.
        start = min((start + shift for shift in _SHIFTS), key=part._surprise)
        options = {"maxiter": 50, "xatol": 0.1, "fatol": 1.0}
        found = minimize(part._surprise, start, method="Nelder-Mead", options=options)
        return np.asarray(found.x, dtype=np.float64)

    def _surprise(self, logs: Floats) -> float:
        values, _, rotated = self._rotate(logs)
        variance = np.outer(values, values) + self.noise**2
        return 0.25 * float((np.log(variance) + rotated**2 / variance).sum())

    def _rotate(self, logs: Floats) -> tuple[Floats, Floats, Floats]:
        scale = np.sqrt(self.counts_M)
        kernel = sum(np.exp(log) * one for log, one in zip(logs, self.kernels, strict=True))
        values, vectors = np.linalg.eigh(scale[:, None] * kernel * scale)
        return np.maximum(values, _SMALLEST), vectors, vectors.T @ (self.noised_MM - self.independent) @ vectors


def _leading(excess_MM: Floats, counts_M: Floats) -> Floats:
    """The positive leading part of the excess over independence, per unit of popularity."""
    scale = np.sqrt(counts_M)
    values, vectors = np.linalg.eigh(excess_MM / scale[:, None] / scale)
    top = np.argsort(-values)[:RANK]
    return np.asarray((vectors[:, top] * np.maximum(values[top], 0.0)) @ vectors[:, top].T)


def _scaled(kernel_MM: Floats) -> list[Floats]:
    """The kernel with a mean diagonal of 1; none if it is zero."""
    mean = float(np.trace(kernel_MM)) / len(kernel_MM)
    return [kernel_MM / mean] if mean > 0.0 else []
