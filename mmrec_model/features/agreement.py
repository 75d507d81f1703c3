"""Do an item's picture, sound and film fit the rest of it? Judged on the catalogue alone, epsilon 0.

Promises:
1. Nothing but the items' final vectors is read. The regression that predicts a vector was fitted on other items (in
   `FOLDS` parts), so no item vouches for itself.
2. A score is the similarity of the predicted and the real vector, in standard deviations above its mean over
   `PARTNERS` shuffled partners: the same prediction beside the real vectors of other items.
3. At most the share `rate` of the vectors that can be judged is flagged, so no more good ones than that.
4. Where media tell nothing of each other nothing is flagged: a source is heard, and a group of items judged, only if
   a shuffled partner falls below the threshold at least `EVIDENCE` times as often as the real one.

Text is never flagged: it is what the other media illustrate. Two media that contradict each other are both flagged
unless a third one tells them apart. Shapes: N items, M modalities, n items of one group, R shuffled partners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmrec_model.config import Modality
from mmrec_model.encoders.interface import Mask, Vectors
from mmrec_model.features.imputation import FEWEST, joined, ridge
from mmrec_model.features.transform import Doubles, unit_rows

FOLDS = 5
PARTNERS = 64
EVIDENCE = 4.0
STRANGER = 0.95
"""A vector is flagged only if its score is one that shuffled partners stay below with this probability."""


@dataclass(frozen=True)
class Agreement:
    """What one modality's vectors say of their items.

    Attributes:
        sources: the modalities that can tell a real vector of this one from another item's; empty where none can.
        score_N: float64, standard deviations; NaN where the item was not judged.
        flagged_N: the items whose vector disagrees.
        caught: share of shuffled partners that would have been flagged among the judged, in [0, 1].
    """

    sources: tuple[Modality, ...]
    score_N: Doubles
    flagged_N: Mask
    caught: float

    @property
    def judged(self) -> int:
        """Number of items that have a score."""
        return int(np.isfinite(self.score_N).sum())


@dataclass(frozen=True)
class _Scores:
    """Scores of the real vectors and of shuffled partners."""

    real_n: Doubles
    shuffled_nR: Doubles

    def threshold(self, rate: float) -> float:
        """The score at or below which a vector disagrees: -inf where the shuffled ones do not give themselves away."""
        allowed = int(rate * len(self.real_n))
        if not allowed:
            return -np.inf
        lowest = float(np.partition(self.real_n, allowed - 1)[allowed - 1])
        threshold = min(lowest, float(np.quantile(self.shuffled_nR, STRANGER)))
        return threshold if self.caught(threshold) >= EVIDENCE * rate else -np.inf

    def caught(self, threshold: float) -> float:
        """Share of the shuffled partners at or below `threshold`."""
        return float(np.count_nonzero(self.shuffled_nR <= threshold) / max(1, self.shuffled_nR.size))


def judge(
    vectors: Mapping[Modality, Vectors], present_NM: npt.NDArray[np.bool_], rate: float
) -> dict[Modality, Agreement]:
    """Score and flag the vectors of every modality but text.

    Args:
        vectors: final vectors [N, K] per modality, zeros where missing.
        present_NM: over the modalities of `vectors`, in their order.
        rate: largest share of a group's vectors that may be flagged, above 0 and below 1 / `EVIDENCE`.
    """
    present = {name: present_NM[:, column] for column, name in enumerate(vectors)}
    return {name: _judge(name, vectors, present, rate) for name in vectors if name != "text"}


def _judge(
    target: Modality, vectors: Mapping[Modality, Vectors], present: Mapping[Modality, Mask], rate: float
) -> Agreement:
    count = len(vectors[target])
    heard = tuple(
        source
        for source in vectors
        if source != target and np.isfinite(_group(target, (source,), vectors, present, None)[1].threshold(rate))
    )
    score_N, flagged_N = np.full(count, np.nan), np.zeros(count, dtype=bool)
    caught = 0.0
    for sources in _patterns(heard, present):
        rows_n, scores = _group(target, sources, vectors, present, heard)
        threshold = scores.threshold(rate)
        score_N[rows_n] = scores.real_n
        flagged_N[rows_n] = scores.real_n <= threshold
        caught += len(rows_n) * scores.caught(threshold)
    judged = int(np.isfinite(score_N).sum())
    return Agreement(heard, score_N, flagged_N, caught / judged if judged else 0.0)


def _patterns(heard: Sequence[Modality], present: Mapping[Modality, Mask]) -> list[tuple[Modality, ...]]:
    """The combinations of `heard` that items have, without the empty one."""
    if not heard:
        return []
    rows = np.unique(np.stack([present[name] for name in heard], axis=1), axis=0)
    return [tuple(name for name, here in zip(heard, row, strict=True) if here) for row in rows if row.any()]


def _group(
    target: Modality,
    sources: tuple[Modality, ...],
    vectors: Mapping[Modality, Vectors],
    present: Mapping[Modality, Mask],
    heard: Sequence[Modality] | None,
) -> tuple[npt.NDArray[np.intp], _Scores]:
    """Positions and scores of the items that have `target` and of `heard` exactly `sources` (None: at least these)."""
    able_N = present[target] & np.logical_and.reduce([present[name] for name in sources])
    rivals = [present[name] for name in heard or () if name not in sources]
    asked_N = able_N & ~np.logical_or.reduce(rivals) if rivals else able_N
    able_n = np.flatnonzero(able_N)
    if len(able_n) < FOLDS * FEWEST:
        return np.empty(0, dtype=np.intp), _Scores(np.empty(0), np.empty((0, PARTNERS)))
    predicted_nK = _predict(joined(vectors, sources, able_N), unit_rows(vectors[target][able_N]))
    chosen_n = asked_N[able_n]
    return able_n[chosen_n], _score(predicted_nK, unit_rows(vectors[target][able_N]), chosen_n)


def _predict(inputs_nD: Doubles, outputs_nK: Doubles) -> Doubles:
    """Every row predicted by a regression on the rows of the other folds."""
    fold_n = np.random.default_rng(0).permutation(len(inputs_nD)) % FOLDS
    predicted_nK = np.empty_like(outputs_nK)
    for fold in range(FOLDS):
        held_n = fold_n == fold
        predicted_nK[held_n] = inputs_nD[held_n] @ ridge(inputs_nD[~held_n], outputs_nK[~held_n])
    return unit_rows(predicted_nK)


def _score(predicted_nK: Doubles, real_nK: Doubles, chosen_n: Mask) -> _Scores:
    """Scores of the chosen rows; partners come from all rows, each row once per shuffle, never the row itself."""
    count = len(real_nK)
    order_n = np.random.default_rng(1).permutation(count)
    place_n = np.argsort(order_n)
    steps = np.unique(np.linspace(1, count - 1, PARTNERS).astype(int))
    similar_nR = np.stack(
        [np.einsum("nk,nk->n", predicted_nK, real_nK[order_n[(place_n + step) % count]]) for step in steps], axis=1
    )
    mean_n1, spread_n1 = similar_nR.mean(axis=1, keepdims=True), similar_nR.std(axis=1, keepdims=True)
    scale_n1 = np.maximum(spread_n1, 1e-9)
    real_n = (np.einsum("nk,nk->n", predicted_nK, real_nK) - mean_n1[:, 0]) / scale_n1[:, 0]
    return _Scores(real_n[chosen_n], ((similar_nR - mean_n1) / scale_n1)[chosen_n])
