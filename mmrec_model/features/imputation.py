"""Missing item vectors, estimated from the modalities that an item has: ridge regression on the catalogue alone.

Promises:
1. Nothing but the items' own vectors is read, so an estimate costs no epsilon.
2. For every missing modality and every set of others there is one regression, fitted on the items that have all of
   them. The vector of an item is estimated from all that it has, or left missing where fewer than `FEWEST` items could
   teach it; an item with nothing stays without anything.
3. The penalty is the one of `PENALTIES` with the least generalised cross-validation error (Golub, Heath & Wahba 1979),
   so that it needs no setting and looks at nothing private.

Shapes: N items, M modalities, n items that a regression is fitted on, D input width, K output width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import scipy.linalg

from mmrec_model.config import MODALITIES, Modality
from mmrec_model.encoders.interface import Mask, Vectors
from mmrec_model.features.transform import Doubles, unit_rows

FEWEST = 8
PENALTIES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties per item, where the row of each source has length 1."""


@dataclass(frozen=True)
class Imputation:
    """Fitted regressions.

    Attributes:
        maps: float32 [D, K] by name: the estimated modality, "<", and what it is estimated from, joined by "+".
    """

    maps: dict[str, Vectors]

    def fill(
        self, vectors: Mapping[Modality, Vectors], present_NM: npt.NDArray[np.bool_]
    ) -> tuple[dict[Modality, Vectors], npt.NDArray[np.bool_]]:
        """Estimate what is missing where a regression allows it.

        Args:
            vectors: final vectors [N, K] per modality, zeros where missing.
            present_NM: over the modalities of `vectors`, in their order.

        Returns:
            The vectors with unit rows in the places of the estimates, and which places these are.
        """
        names = list(vectors)
        filled = {name: np.array(rows) for name, rows in vectors.items()}
        estimated_NM = np.zeros_like(present_NM)
        for column, target in enumerate(names):
            for sources in _sets(name for name in names if name != target):
                weights_DK = self.maps.get(_key(target, sources))
                rows_N = _has_exactly(present_NM, names, sources)
                if weights_DK is None or not rows_N.any():
                    continue
                filled[target][rows_N] = unit_rows(joined(vectors, sources, rows_N) @ weights_DK)
                estimated_NM[rows_N, column] = True
        return filled, estimated_NM


def fit_imputation(vectors: Mapping[Modality, Vectors], present_NM: npt.NDArray[np.bool_]) -> Imputation:
    """Fit every regression for which at least `FEWEST` items have all that it needs.

    Args:
        vectors: final vectors [N, K] per modality, zeros where missing.
        present_NM: over the modalities of `vectors`, in their order.
    """
    names = list(vectors)
    maps = {}
    for column, target in enumerate(names):
        for sources in _sets(name for name in names if name != target):
            places = [names.index(name) for name in sources]
            rows_N = present_NM[:, column] & present_NM[:, places].all(axis=1)
            if rows_N.sum() >= FEWEST:
                inputs_nD = joined(vectors, sources, rows_N)
                maps[_key(target, sources)] = ridge(inputs_nD, vectors[target][rows_N].astype(np.float64))
    return Imputation(maps)


def ridge(inputs_nD: Doubles, outputs_nK: Doubles) -> Vectors:
    """Weights float32 [D, K] that predict `outputs_nK`, under the penalty of least generalised validation error."""
    count = len(inputs_nD)
    left_nr, strength_r, right_rD = scipy.linalg.svd(inputs_nD, full_matrices=False)
    seen_rK = left_nr.T @ outputs_nK
    total = float(np.square(outputs_nK).sum())
    best = min(PENALTIES, key=lambda penalty: _validation_error(strength_r, seen_rK, total, count, penalty))
    factor_r = strength_r / (strength_r**2 + best * count)
    weights_DK: Vectors = (right_rD.T @ (factor_r[:, None] * seen_rK)).astype(np.float32)
    return weights_DK


def _validation_error(strength_r: Doubles, seen_rK: Doubles, total: float, count: int, penalty: float) -> float:
    """Residual sum of squares over the squared degrees of freedom that are left."""
    kept_r = strength_r**2 / (strength_r**2 + penalty * count)
    explained = float(((2.0 * kept_r - kept_r**2)[:, None] * seen_rK**2).sum())
    return (total - explained) / (count - float(kept_r.sum())) ** 2


def joined(vectors: Mapping[Modality, Vectors], sources: Sequence[Modality], rows_N: Mask) -> Doubles:
    """Rows `rows_N` of the sources side by side, float64 [n, D]."""
    return np.concatenate([vectors[name][rows_N].astype(np.float64) for name in sources], axis=1)


def _has_exactly(present_NM: npt.NDArray[np.bool_], names: Sequence[Modality], sources: Sequence[Modality]) -> Mask:
    wanted_M = np.array([name in sources for name in names])
    matches: Mask = (present_NM == wanted_M).all(axis=1)
    return matches


def _sets(names: Iterable[Modality]) -> list[tuple[Modality, ...]]:
    """Every non-empty set, in the order of `MODALITIES`."""
    ordered = sorted(names, key=MODALITIES.index)
    return [chosen for size in range(1, len(ordered) + 1) for chosen in combinations(ordered, size)]


def _key(target: Modality, sources: Sequence[Modality]) -> str:
    return f"{target}<{'+'.join(sources)}"
