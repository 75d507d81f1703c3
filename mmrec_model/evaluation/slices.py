"""Groups of items and users in which a figure is looked at: by popularity, by activity, by taste.

Borders depend on counts alone, so items (or users) with equal counts are always in one group, and a group may be empty.
All counts are of training interactions of the whole federation.

Legend: U users, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mmrec_model.evaluation.task import Flags, Floats, Ints

BANDS: Final = ("head", "mid", "tail", "cold")
"""Items by popularity: three thirds of all interactions, and the items without any."""
QUARTILES: Final = ("least active", "second quartile", "third quartile", "most active")
TASTES: Final = ("niche", "middle", "mainstream")
NOBODY = -1
"""The group of users without history."""


def popularity_band(counts_N: Ints) -> Ints:
    """Index into `BANDS` of every item [N].

    An item is head while the strictly more popular items hold less than a third of all interactions, mid while they
    hold less than two thirds, else tail; without a single interaction it is cold.

    Args:
        counts_N: distinct train users of each item.
    """
    levels, level_N, items = np.unique(counts_N, return_inverse=True, return_counts=True)
    mass = levels * items
    above = mass.sum() - np.cumsum(mass)
    third = np.floor_divide(3 * above, max(int(mass.sum()), 1))
    return np.where(counts_N == 0, BANDS.index("cold"), np.minimum(third, 2)[level_N]).astype(np.int64)


def activity_quartile(lengths_U: Ints) -> Ints:
    """Index into `QUARTILES` of every user by length of the history [U]; `NOBODY` for an empty one."""
    return _parts(lengths_U.astype(np.float64), lengths_U > 0, len(QUARTILES))


def taste(histories: Sequence[Ints], counts_N: Ints) -> Ints:
    """Index into `TASTES` of every user by the mean popularity of the history [U]; `NOBODY` for an empty one.

    Args:
        histories: items of each user.
        counts_N: distinct train users of each item.
    """
    lengths_U = np.asarray([len(items) for items in histories], dtype=np.int64)
    owners = np.repeat(np.arange(len(histories)), lengths_U)
    items = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
    sums_U = np.bincount(owners, weights=counts_N[items], minlength=len(histories))
    return _parts(sums_U / np.maximum(lengths_U, 1), lengths_U > 0, len(TASTES))


def _parts(values_U: Floats, known_U: Flags, parts: int) -> Ints:
    """Part of each value between the quantiles of the known ones; a value on a border is below it."""
    group_U = np.full(values_U.size, NOBODY, dtype=np.int64)
    if known_U.any():
        borders = np.quantile(values_U[known_U], np.arange(1, parts) / parts)
        group_U[known_U] = np.searchsorted(borders, values_U[known_U], side="left")
    return group_U
