"""What single lists are like: how different their items, how much long tail they hold, how true to the user's tastes.

intra_list_distance   mean of 1 - cosine over the pairs of a list whose two items have the modality (ILD; Ziegler et
                      al., WWW 2005)
tail_share            share of the list that is long tail; its mean is APLT (Abdollahpouri et al., FLAIRS 2019)
category_divergence   KL divergence of the list's categories from the history's (Steck, "Calibrated recommendations",
                      RecSys 2018): 0 for a list with the same mixture

Each gives one value per user [U], NaN where it is not defined, so that errors over users can be computed.

Legend: U users, N items, K places of a list, D width of a modality, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError
from mmrec_model.evaluation.beyond_accuracy import EMPTY
from mmrec_model.evaluation.task import Flags, Floats, Ints

SMOOTHING = 0.01
"""Share of the history's mixture in the list's, so that a category missing from a list is not infinitely wrong."""
LONG_TAIL = 0.8
"""Share of the catalogue that is long tail: all but the most popular fifth."""


def intra_list_distance(lists_UK: Ints, vectors_ND: npt.NDArray[Any], present_N: Flags) -> Floats:
    """Mean distance of the pairs of each list [U], 0..2; NaN where fewer than two items have the modality.

    Args:
        lists_UK: item numbers, `EMPTY` where a list is shorter.
        vectors_ND: one modality; any length, zero only where it is missing.
        present_N: whether an item has it.
    """
    wide_ND = np.asarray(vectors_ND, dtype=np.float64)
    norm_N = np.sqrt(np.square(wide_ND).sum(axis=1))
    unit_ND = wide_ND / np.where(norm_N > 0, norm_N, 1.0)[:, None]
    real_UK = (lists_UK != EMPTY) & np.asarray(present_N, dtype=np.bool_)[lists_UK]
    n_U = real_UK.sum(axis=1)
    sum_UD = np.zeros((len(lists_UK), wide_ND.shape[1]))
    own_U = np.zeros(len(lists_UK))
    for items_U, real_U in zip(lists_UK.T, real_UK.T, strict=True):
        place_UD = unit_ND[items_U] * real_U[:, None]
        sum_UD += place_UD
        own_U += np.square(place_UD).sum(axis=1)
    pairs_U = n_U * (n_U - 1.0)
    alike_U = np.square(sum_UD).sum(axis=1) - own_U
    return np.where(pairs_U > 0, 1.0 - alike_U / np.maximum(pairs_U, 1.0), np.nan)


def long_tail(counts_N: Ints, share: float = LONG_TAIL) -> Flags:
    """The items outside the most popular 1 - share of the catalogue; items level with the last of those are not tail.

    Args:
        counts_N: distinct train users of each item.
        share: of the catalogue, 0 to 1.
    """
    head = round(counts_N.size * (1.0 - share))
    if head < 1:
        return np.ones(counts_N.size, dtype=np.bool_)
    return np.asarray(counts_N < np.sort(counts_N)[-head])


def tail_share(lists_UK: Ints, tail_N: Flags) -> Floats:
    """Share of each list that is long tail [U], 0..1; NaN for an empty list."""
    real_UK = lists_UK != EMPTY
    n_U = real_UK.sum(axis=1)
    tail_U = (tail_N[lists_UK] & real_UK).sum(axis=1)
    return np.where(n_U > 0, tail_U / np.maximum(n_U, 1), np.nan)


def category_divergence(lists_UK: Ints, histories: Sequence[Ints], category_N: Ints) -> Floats:
    """KL(history || list) over categories [U], in nats, from 0 up; NaN where either has no item of a known category.

    The list's mixture q counts as (1 - SMOOTHING) q + SMOOTHING p with the history's mixture p.

    Args:
        lists_UK: item numbers, `EMPTY` where a list is shorter.
        histories: item numbers of each user.
        category_N: category of each item from 0, -1 where unknown.

    Raises:
        DataError: there is not one history per list.
    """
    if len(histories) != len(lists_UK):
        raise DataError(f"{len(histories)} histories for {len(lists_UK)} lists", remedy="Give one history per list")
    classes = max(1, int(category_N.max(initial=-1)) + 1)
    owners = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    past_UC = _mixture(owners, np.concatenate([np.zeros(0, dtype=np.int64), *histories]), category_N, classes, lists_UK)
    rows, places = np.nonzero(lists_UK != EMPTY)
    list_UC = _mixture(rows, lists_UK[rows, places], category_N, classes, lists_UK)
    smooth_UC = (1.0 - SMOOTHING) * list_UC + SMOOTHING * past_UC
    ratio_UC = np.divide(past_UC, smooth_UC, out=np.ones_like(past_UC), where=past_UC > 0)
    known_U = ~np.isnan(past_UC).any(axis=1) & ~np.isnan(list_UC).any(axis=1)
    divergence_U: Floats = np.where(known_U, (past_UC * np.log(ratio_UC)).sum(axis=1), np.nan)
    return divergence_U


def _mixture(owners: Ints, items: Ints, category_N: Ints, classes: int, lists_UK: Ints) -> Floats:
    """Shares of categories of each user [U, C]; NaN rows where no category is known."""
    known = category_N[items] >= 0
    cells = owners[known] * classes + category_N[items[known]]
    counts_UC = np.bincount(cells, minlength=len(lists_UK) * classes).reshape(len(lists_UK), classes)
    total_U1 = counts_UC.sum(axis=1, keepdims=True)
    mixture_UC: Floats = np.where(total_U1 > 0, counts_UC / np.maximum(total_U1, 1), np.nan)
    return mixture_UC
