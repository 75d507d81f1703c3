"""What lists of recommendations do to the catalogue: how much of it they show, how unevenly, how surprisingly.

Sources: coverage and Gini index as in Ge, Delgado-Battenfeld & Jannach (RecSys 2010) and Fleder & Hosanagar (2009);
novelty is the mean self-information, popularity complement and free discovery the EPC and EFD of Vargas & Castells
(RecSys 2011), all three without discount by place and without regard to relevance. What single lists are like is in
`mmrec_model.evaluation.diversity`. All count items of public lists: on real users these numbers are statistics of
private data and leave a partner only through a priced release.

Legend: U users, B users of a chunk, N items, K places of a list.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Excluded, Ints, Scorer, checked_scores

EMPTY = -1
"""Fills the places of a list whose user has fewer than K candidates."""


def top_k(scores: Scorer, excluded: Excluded, *, n_items: int, k: int, seed: int, chunk: int = 1024) -> Ints:
    """The K best candidates of every user, best first [U, K]; ties by chance, missing places `EMPTY`.

    Args:
        scores: as in `ranking.ranks`.
        excluded: items that are no candidates.
        n_items: size of the catalogue.
        k: length of the lists, at least 1.
        seed: of the draws that break ties; the result does not depend on `chunk`.
        chunk: users per call.

    Raises:
        DataError: k is below 1.
        ModelError: the scorer's answer has another shape or holds a NaN.
    """
    if k < 1:
        raise DataError(f"lists of {k} places", remedy="Ask for at least 1")
    generator = np.random.default_rng(seed)
    lists_UK = np.full((excluded.users, k), EMPTY, dtype=np.int64)
    for start in range(0, excluded.users, chunk):
        stop = min(start + chunk, excluded.users)
        scores_BN = checked_scores(scores(np.arange(start, stop, dtype=np.int64)), (stop - start, n_items))
        list_best(scores_BN, excluded, start, lists_UK, generator)
    return lists_UK


def list_best(
    scores_BN: npt.NDArray[np.float32],
    excluded: Excluded,
    start: int,
    lists_UK: Ints,
    generator: np.random.Generator,
) -> None:
    """Write the lists of the users start..start+B-1 into `lists_UK`.

    Args:
        scores_BN: checked scores of these users.
        excluded: items that are no candidates, of all users.
        start: the first user.
        lists_UK: filled with `EMPTY`, written in part.
        generator: draws that break ties; users in order make the result independent of B.
    """
    k = lists_UK.shape[1]
    allowed_BN = np.ones(scores_BN.shape, dtype=np.bool_)
    allowed_BN[excluded.flat(start, start + len(scores_BN))] = False
    for row, scores_N in enumerate(scores_BN):
        items = np.flatnonzero(allowed_BN[row])
        values = scores_N[items]
        if items.size > k:
            kept = values >= np.partition(values, items.size - k)[items.size - k]
            items, values = items[kept], values[kept]
        order = np.lexsort((generator.random(items.size), -values))[:k]
        lists_UK[start + row, : order.size] = items[order]


def coverage(lists_UK: Ints, *, n_items: int) -> float:
    """Share of the catalogue that stands in at least one list, 0..1."""
    return float((_shown(lists_UK, n_items) > 0).mean())


def gini(lists_UK: Ints, *, n_items: int) -> float:
    """Inequality of how often each item of the catalogue is shown: 0 all alike, towards 1 a single item."""
    shown_N = np.sort(_shown(_listed(lists_UK), n_items))
    place_N = np.arange(1, n_items + 1)
    return float(((2 * place_N - n_items - 1) * shown_N).sum() / (n_items * shown_N.sum()))


def novelty(lists_UK: Ints, interactions_N: Ints, *, users: int) -> float:
    """Mean over the recommended items of -log2 of the share of users who know the item, in bits.

    Args:
        lists_UK: the lists.
        interactions_N: distinct users of each item in the training data.
        users: users of the training data.

    The share is (count + 1) / (users + 1), so that an item nobody knows is surprising, not infinitely so.

    Raises:
        DataError: the lists are empty.
    """
    known_N = (interactions_N + 1.0) / (users + 1.0)
    return float(-np.log2(known_N[_listed(lists_UK)]).mean())


def popularity_complement(lists_UK: Ints, interactions_N: Ints, *, users: int) -> float:
    """Mean over the recommended items of the share of users who do not know the item (EPC), 0..1.

    Args:
        lists_UK: the lists.
        interactions_N: distinct users of each item in the training data.
        users: users of the training data, at least one.

    Raises:
        DataError: the lists are empty.
    """
    return float((1.0 - interactions_N[_listed(lists_UK)] / users).mean())


def free_discovery(lists_UK: Ints, interactions_N: Ints) -> float:
    """Mean over the recommended items of -log2 of the item's share of all interactions (EFD), in bits.

    The share is (count + 1) / (sum of counts + items), so that an item nobody knows is not infinitely surprising.

    Raises:
        DataError: the lists are empty.
    """
    share_N = (interactions_N + 1.0) / (interactions_N.sum() + interactions_N.size)
    return float(-np.log2(share_N[_listed(lists_UK)]).mean())


def entropy(lists_UK: Ints, *, n_items: int) -> float:
    """Shannon entropy of what is shown, in bits: 0 for a single item, log2(n_items) if all are shown alike.

    Raises:
        DataError: the lists are empty.
    """
    shown_N = _shown(_listed(lists_UK), n_items)
    share_N = shown_N[shown_N > 0] / shown_N.sum()
    return float(-(share_N * np.log2(share_N)).sum())


def _listed(lists_UK: Ints) -> Ints:
    items: Ints = lists_UK[lists_UK != EMPTY]
    if items.size == 0:
        raise DataError("the lists are empty", remedy="Recommend at least one item")
    return items


def _shown(lists_UK: Ints, n_items: int) -> Ints:
    return np.bincount(lists_UK[lists_UK != EMPTY], minlength=n_items)
