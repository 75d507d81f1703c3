"""The public feature space of `feature_pairs`: the catalogue's vectors of all modalities in D whitened dimensions.

    x = M^T v,      v: the item's vectors of all modalities in the order of the plan, zeros where one is missing,
                    M = V_D Lambda_D^(-1/2) of the eigenvectors of the catalogue's mean of v v^T.

The map is linear and made of public vectors alone. It is made once, by the coordinator, and travels: eigenvectors are
not the same to the last bit on two machines. Nothing private depends on it, and a user's length is one whatever it is.

Shapes: N items, F width of all modalities together, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Vectors = Mapping[str, npt.NDArray[np.floating]]

_FLAT = 1e-6
"""Share of the largest variance below which a direction says nothing; it maps to zero."""


def make_map(vectors: Vectors, dims: int) -> npt.NDArray[np.float32]:
    """The map M `[F, D]`; directions the catalogue does not have are zero.

    Args:
        vectors: public features of all items by modality, in the plan's order.
        dims: D, at most F.
    """
    wide_NF = _joined(vectors)
    values_F, axes_FF = np.linalg.eigh(wide_NF.T @ wide_NF / max(1, len(wide_NF)))
    values_D, axes_FD = values_F[::-1][:dims], axes_FF[:, ::-1][:, :dims]
    known_D = values_D > _FLAT * max(float(values_F[-1]), np.finfo(float).tiny)
    scale_D = np.where(known_D, 1.0 / np.sqrt(np.where(known_D, values_D, 1.0)), 0.0)
    return np.asarray(axes_FD * scale_D, dtype=np.float32)


def features_of(vectors: Vectors, map_FD: npt.NDArray[np.floating]) -> Floats:
    """The items in the space `[N, D]`; zero rows for items without features or with values that are not finite."""
    return np.asarray(_joined(vectors) @ map_FD.astype(np.float64))


def _joined(vectors: Vectors) -> Floats:
    wide_NF = np.concatenate([np.asarray(rows, dtype=np.float64) for rows in vectors.values()], axis=1)
    return np.where(np.isfinite(wide_NF).all(axis=1, keepdims=True), wide_NF, 0.0)
