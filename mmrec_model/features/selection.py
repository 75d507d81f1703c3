"""Which numbers of an encoder's vectors are worth keeping, judged on the catalogue before the PCA; epsilon 0.

Promises:
1. Nothing but the items' vectors and the catalogue's public category is read, never an interaction.
2. The choice is the same every time on one machine; it is stored in the transform's file, so new items lose the same
   numbers as the catalogue's.

`variance` keeps the numbers that differ most between items. `importance` keeps those that extremely randomised trees
(Geurts, Ernst & Wehenkel 2006) use to tell the categories apart. `l1` keeps those with weight in sparse logistic
regressions, one category against the rest (Tibshirani 1996), under the strongest penalty that leaves enough of them.

Shapes: N items, W raw width, n items with a category.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mmrec_model.config import TransformConfig
from mmrec_model.encoders.interface import Mask, Vectors
from mmrec_model.errors import FeatureError
from mmrec_model.features.transform import Doubles, unit_rows

FEWEST_OF_A_CATEGORY = 2
LEARNING_ITEMS = 20_000
"""Most items that trees and regressions learn from, drawn with a fixed seed."""
STRENGTHS: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse penalties of `l1`, strongest penalty first."""
TREES = 200

Labels = npt.NDArray[np.str_]


def select(raw_NW: Vectors, config: TransformConfig, categories: Sequence[str]) -> Mask | None:
    """Bool [W], at most `config.select_dims` of them true; None where the configuration selects nothing.

    Args:
        raw_NW: finite vectors of the items that have the modality.
        config: how to select.
        categories: of the same items, "" where missing; read by `importance` and `l1` alone.

    Raises:
        FeatureError: fewer than 2 categories have `FEWEST_OF_A_CATEGORY` of the items.
    """
    if config.select == "none":
        return None
    unit_NW = unit_rows(raw_NW)
    if config.select == "variance":
        worth_W = unit_NW.var(axis=0)
    else:
        worth_W = _MEASURES[config.select](*_labelled(unit_NW, categories), config.select_dims)
        if not worth_W.any():
            raise FeatureError(
                f"none of the {len(worth_W)} numbers of a vector tells the categories apart",
                remedy="Select by variance, or fill the category column with what the media show",
            )
    kept_W = np.zeros(raw_NW.shape[1], dtype=bool)
    kept_W[np.argsort(-worth_W, kind="stable")[: config.select_dims]] = True
    return kept_W if config.select == "variance" else kept_W & (worth_W > 0.0)


def _labelled(unit_NW: Doubles, categories: Sequence[str]) -> tuple[Doubles, Labels]:
    """Standardised vectors and labels of the items whose category occurs often enough."""
    labels_N = np.array([category.strip() for category in categories], dtype=np.str_)
    names, counts = np.unique(labels_N, return_counts=True)
    known = names[(counts >= FEWEST_OF_A_CATEGORY) & (names != "")]
    if len(known) < 2:
        raise FeatureError(
            f"{len(known)} categories have {FEWEST_OF_A_CATEGORY} of the {len(labels_N)} items or more, 2 are needed",
            remedy="Fill the category column of the items, or select by variance",
        )
    rows = np.flatnonzero(np.isin(labels_N, known))
    if len(rows) > LEARNING_ITEMS:
        rows = np.sort(np.random.default_rng(0).choice(rows, LEARNING_ITEMS, replace=False))
    chosen_nW = unit_NW[rows] - unit_NW[rows].mean(axis=0)
    return chosen_nW / np.maximum(chosen_nW.std(axis=0), 1e-9), labels_N[rows]


def _by_trees(scaled_nW: Doubles, labels_n: Labels, _wanted: int) -> Doubles:
    from sklearn.ensemble import ExtraTreesClassifier  # noqa: PLC0415 - most bundles select nothing

    forest = ExtraTreesClassifier(TREES, min_samples_leaf=2, class_weight="balanced", random_state=0)
    return np.asarray(forest.fit(scaled_nW, labels_n).feature_importances_, dtype=np.float64)


def _by_regression(scaled_nW: Doubles, labels_n: Labels, wanted: int) -> Doubles:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.multiclass import OneVsRestClassifier  # noqa: PLC0415

    worth_W = np.zeros(scaled_nW.shape[1])
    for strength in STRENGTHS:
        sparse = LogisticRegression(l1_ratio=1.0, C=strength, solver="liblinear", random_state=0)
        fitted = OneVsRestClassifier(sparse).fit(scaled_nW, labels_n)
        worth_W = np.sum([np.abs(one.coef_[0]) for one in fitted.estimators_], axis=0)
        if np.count_nonzero(worth_W) >= wanted:
            break
    return np.asarray(worth_W, dtype=np.float64)


_MEASURES: dict[str, Callable[[Doubles, Labels, int], Doubles]] = {"importance": _by_trees, "l1": _by_regression}
