"""From raw vectors to the vectors a run uses: unit rows, centre, PCA, optional whitening, unit rows again.

Where the configuration selects dimensions (`features.selection`), all of this sees the selected ones alone.

Promises:
1. Statistics come from the catalogue's items alone; no interaction of any user can move them.
2. Before the last step, kept coordinates have mean 0 over the items and no correlation; whitened ones have variance
   1, except those below the floor, which stay smaller. The floor is `SAMPLE_FLOOR` times the mean variance of the K
   axes times K / N, and at least `WHITEN_FLOOR` of the strongest: N items whitened along all of their N - 1 axes
   would all be equally far from each other, with nothing left to recommend by.
3. Signs are fixed: the entry of largest magnitude of every axis is positive.

Whitening matters for mean-of-history profiles because transformer vectors share one dominant direction (Mu &
Viswanath 2018, "All-but-the-top"). Shapes: N rows, D raw width, K kept axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from mmrec_model.config import TransformConfig
from mmrec_model.encoders.interface import Mask, Vectors
from mmrec_model.errors import FeatureError

WHITEN_FLOOR = 1e-4
SAMPLE_FLOOR = 0.5
RANK_FLOOR = 1e-10
_ROUNDING_VARIANCE = 1e-12
_CHUNK_ROWS = 16_384

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CatalogueTransform:
    """A fitted map from raw to unit vectors; also what a new item or a query picture goes through.

    Attributes:
        mean_D: of the unit raw vectors.
        axes_DK: principal axes, each divided by its standard deviation when whitening.
        explained: share of the variance that the K axes hold, in [0, 1].
        kept_W: which D of the W raw numbers are read; None for all.
    """

    mean_D: Doubles
    axes_DK: Doubles
    explained: float
    kept_W: Mask | None = None

    @property
    def dims(self) -> int:
        """K, the width of a transformed vector."""
        return int(self.axes_DK.shape[1])

    @property
    def width(self) -> int:
        """Width of the raw vectors that it takes."""
        return len(self.mean_D if self.kept_W is None else self.kept_W)

    def apply(self, raw_ND: Vectors) -> Vectors:
        """Raw vectors to float32 [N, K] unit rows; a row without any content of its own stays zero.

        Raises:
            FeatureError: the raw width is not the fitted one.
        """
        if raw_ND.shape[1] != self.width:
            raise FeatureError(
                f"the vectors have width {raw_ND.shape[1]}, the transform was fitted on {self.width}",
                remedy="Use the encoder that the bundle's manifest names",
            )
        raw_ND = raw_ND if self.kept_W is None else raw_ND[:, self.kept_W]
        result_NK = np.empty((len(raw_ND), self.dims), dtype=np.float32)
        for rows in _chunks(len(raw_ND)):
            result_NK[rows] = unit_rows((unit_rows(raw_ND[rows]) - self.mean_D) @ self.axes_DK)
        return result_NK


def fit_transform(raw_ND: Vectors, config: TransformConfig, kept_W: Mask | None = None) -> CatalogueTransform:
    """Fit on the present items' raw vectors, N >= 1.

    Fewer axes than `config.dims` are kept where the items span fewer. Items that are all alike span none: they then
    share one axis on which every one of them is 1, so that present stays distinguishable from missing.

    Raises:
        FeatureError: no row, or a value that is not finite.
    """
    if not len(raw_ND) or not np.isfinite(raw_ND).all():
        raise FeatureError(
            f"{len(raw_ND)} vectors, finite: {bool(np.isfinite(raw_ND).all())}",
            remedy="Fit on at least one item with finite vectors",
        )
    mean_D, covariance_DD = _moments(raw_ND if kept_W is None else raw_ND[:, kept_W])
    width = len(mean_D)
    kept = min(config.dims, width)
    ascending_K, vectors_DK = scipy.linalg.eigh(covariance_DD, subset_by_index=[width - kept, width - 1])
    variance_K, axes_DK = ascending_K[::-1], _fix_signs(vectors_DK[:, ::-1])
    rank = int(np.count_nonzero(variance_K > max(RANK_FLOOR * variance_K[0], _ROUNDING_VARIANCE)))
    if rank == 0:
        return CatalogueTransform(np.zeros(width), mean_D[:, None], 1.0, kept_W)
    variance_K, axes_DK = variance_K[:rank], axes_DK[:, :rank]
    explained = min(1.0, float(variance_K.sum() / np.trace(covariance_DD)))
    if config.whiten:
        axes_DK = axes_DK / np.sqrt(np.maximum(variance_K, _whitening_floor(variance_K, len(raw_ND))))
    return CatalogueTransform(mean_D, np.ascontiguousarray(axes_DK), explained, kept_W)


def unit_rows(rows_ND: npt.NDArray[np.floating]) -> Doubles:
    """Rows of L2 norm 1 in float64; a row below 1e-9 becomes zero."""
    wide_ND = rows_ND.astype(np.float64)
    norm_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    scaled_ND: Doubles = np.divide(wide_ND, norm_N1, out=np.zeros_like(wide_ND), where=norm_N1 > 1e-9)
    return scaled_ND


def _moments(raw_ND: Vectors) -> tuple[Doubles, Doubles]:
    """Mean and covariance (divisor N) of the unit rows, in two passes over chunks."""
    count, width = raw_ND.shape
    mean_D = np.zeros(width)
    for rows in _chunks(count):
        mean_D += unit_rows(raw_ND[rows]).sum(axis=0) / count
    covariance_DD = np.zeros((width, width))
    for rows in _chunks(count):
        centred_nD = unit_rows(raw_ND[rows]) - mean_D
        covariance_DD += centred_nD.T @ centred_nD / count
    return mean_D, covariance_DD


def _whitening_floor(variance_K: Doubles, items: int) -> float:
    return max(WHITEN_FLOOR * float(variance_K[0]), SAMPLE_FLOOR * float(variance_K.sum()) / items)


def _fix_signs(axes_DK: Doubles) -> Doubles:
    strongest_K = np.abs(axes_DK).argmax(axis=0)
    sign_K = np.sign(axes_DK[strongest_K, np.arange(axes_DK.shape[1])])
    signed_DK: Doubles = axes_DK * sign_K
    return signed_DK


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK_ROWS) for start in range(0, count, _CHUNK_ROWS))
