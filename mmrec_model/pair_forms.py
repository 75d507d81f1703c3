"""Which pairs a plan releases, of items, of features or of both: from public numbers alone.

The strength of a federation is users / (noise sqrt(partners)), the noise that of one release at the whole budget. The
signal of M items is strength / sqrt(M), that of D dimensions strength / sqrt(D): directions of a random matrix stand
out of noise of spectral size 2 noise sqrt(M) (Wigner). The thresholds were seen on two sets, X-Wines and the embedded
one; `docs/ladder.md` has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

FEWEST_ITEMS: Final = 50
MOST_ITEMS: Final = 2048
"""Pairs of fewer items are not worth a release; those of more are not worth their bytes."""
LEAST_SIGNAL: Final = 60.0
"""Of either form. From here on pairs of features beat the best of what needs no pairs on both sets; below, they tie on
one of them."""
ITEMS_SIGNAL: Final = 68.0
"""Of as many items as may be selected: below it pairs of features take their place. At 60 and 63 pairs of items were
below the best of what needs no pairs on both sets, and pairs of features above it; at 75 items were ahead, ndcg@10 .091
against .084 on X-Wines with 5 partners at epsilon 2 (seen on test items), and at 89."""
FEATURE_DIMS: Final = 64
"""Of the feature space: 16 and 32 were worse at every signal that is planned, 128 hardly better at four times the
numbers."""
FEWEST_DIMS: Final = 32
FEW_SELECTED: Final = 2
"""A catalogue this many times larger than the selected items has pairs of both."""


@dataclass(frozen=True)
class PairForms:
    """What is released.

    Attributes:
        items: items whose pairs are counted; 0 for none.
        dims: dimensions of the features whose pairs are counted; 0 for none.
        signal: of the larger form, `LEAST_SIGNAL` at least; 0 for neither.
        reachable: items of which the users could raise the pairs above the noise.
    """

    items: int
    dims: int
    signal: float
    reachable: int


def choose_forms(items: int, width: int, strength: float) -> PairForms:
    """The forms of a federation.

    Args:
        items: of the catalogue.
        width: of the features that the model reads; 0 where pairs of features are out of the question.
        strength: infinity without noise.
    """
    dims = min(width, FEATURE_DIMS) if width >= FEWEST_DIMS else 0
    most = min(items, MOST_ITEMS)
    if math.isinf(strength):
        selected = most if most >= FEWEST_ITEMS else 0
        return PairForms(selected, dims if items >= FEW_SELECTED * selected else 0, math.inf, most)
    if dims and strength / math.sqrt(dims) < LEAST_SIGNAL:
        dims = 0
    if dims and (most < FEWEST_ITEMS or strength / math.sqrt(most) < ITEMS_SIGNAL):
        return PairForms(0, dims, strength / math.sqrt(dims), most)
    reachable = int((strength / LEAST_SIGNAL) ** 2)
    selected = min(most, reachable)
    if selected < FEWEST_ITEMS:
        return PairForms(0, 0, 0.0, reachable)
    signal = max(LEAST_SIGNAL, strength / math.sqrt(selected))
    return PairForms(selected, dims if items >= FEW_SELECTED * selected else 0, signal, reachable)
