"""Ranking metrics of users with several relevant items, and what chance gives of each.

For a user with n relevant items at the 0-based places r_1 < ... < r_n of C candidates, h of them below k:

    recall_at_k     h / n
    precision_at_k  h / k
    hit_at_k        1 if h > 0
    ndcg_at_k       sum over hits of 1 / log2(r + 2), divided by the same sum over the places 0..min(k, n)-1
                    (Järvelin & Kekäläinen, TOIS 2002)
    map_at_k        sum over hits of (hits up to and with this one) / (r + 1), divided by min(k, n)
    mrr             1 / (r_1 + 1), over the whole list

With n = 1 recall is the hit rate, and ndcg and recall are those of one held-out item. Chance is exact: all C!/(C-n)!n!
sets of places are equally likely.

Legend: U users, T relevant items of all users.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from mmrec_model.errors import DataError
from mmrec_model.evaluation.task import Floats, Ints, Ranks

KINDS = ("recall", "precision", "hit", "ndcg", "map")
_METRIC = re.compile(rf"({'|'.join(KINDS)})_at_([1-9][0-9]*)")


class Metric(NamedTuple):
    """A metric's name, read; k is 0 for `mrr`."""

    kind: str
    k: int


def parse_metric(name: str) -> Metric:
    """`ndcg_at_10` as kind and k.

    Raises:
        DataError: no such metric.
    """
    if name == "mrr":
        return Metric("mrr", 0)
    parts = _METRIC.fullmatch(name)
    if parts is None:
        raise DataError(f"there is no metric {name!r}", remedy=f"Use mrr, or {', '.join(KINDS)} with _at_<k>")
    return Metric(parts[1], int(parts[2]))


def user_values(found: Ranks, metric: Metric) -> Floats:
    """One metric of each user [U], in 0..1."""
    if metric.kind == "mrr":
        return np.asarray(1.0 / (found.rank_U + 1.0))
    users, k = found.rank_U.size, metric.k
    relevant_U = np.bincount(found.owners, minlength=users)
    order = np.lexsort((found.places, found.owners))
    owner_T, place_T = found.owners[order], found.places[order]
    hit_T = place_T < k
    hits_U = np.bincount(owner_T[hit_T], minlength=users).astype(np.float64)
    if metric.kind == "recall":
        return hits_U / relevant_U
    if metric.kind == "precision":
        return hits_U / k
    if metric.kind == "hit":
        return (hits_U > 0).astype(np.float64)
    if metric.kind == "ndcg":
        gain_T = np.where(hit_T, 1.0 / np.log2(place_T + 2.0), 0.0)
        return np.bincount(owner_T, weights=gain_T, minlength=users) / _ideal(relevant_U, k)
    first_U = np.cumsum(relevant_U) - relevant_U
    nth_T = np.arange(place_T.size) - first_U[owner_T] + 1
    precision_T = np.where(hit_T, nth_T / (place_T + 1.0), 0.0)
    return np.bincount(owner_T, weights=precision_T, minlength=users) / np.minimum(relevant_U, k)


def expected(candidates: int, relevant: int, metric: Metric) -> float:
    """The mean of a metric over all sets of places of `relevant` items among `candidates`."""
    places = np.arange(candidates, dtype=np.float64)
    density = relevant / candidates
    if metric.kind == "mrr":
        first = _none_before(candidates, relevant, places) - _none_before(candidates, relevant, places + 1.0)
        return float((first / (places + 1.0)).sum())
    top = places[: metric.k]
    if metric.kind == "recall":
        return len(top) / candidates
    if metric.kind == "precision":
        return density * len(top) / metric.k
    if metric.kind == "hit":
        return float(1.0 - _none_before(candidates, relevant, np.asarray([float(len(top))]))[0])
    if metric.kind == "ndcg":
        ideal = float(_ideal(np.asarray([relevant]), metric.k)[0])
        return float(density * (1.0 / np.log2(top + 2.0)).sum() / ideal)
    before = top * (relevant - 1) / max(candidates - 1, 1)
    return float((density * (1.0 + before) / (top + 1.0)).sum() / min(relevant, metric.k))


def _none_before(candidates: int, relevant: int, places: Floats) -> Floats:
    """Probability that the first so many places hold no relevant item: C(C - r, n) / C(C, n)."""
    left = candidates - places
    possible = left >= relevant
    left = np.where(possible, left, relevant)
    logarithm = (
        gammaln(left + 1) - gammaln(left - relevant + 1) - gammaln(candidates + 1) + gammaln(candidates - relevant + 1)
    )
    return np.where(possible, np.exp(logarithm), 0.0)


def _ideal(relevant_U: Ints, k: int) -> Floats:
    """DCG of a list that begins with all relevant items [U]."""
    most = int(min(k, relevant_U.max(initial=1)))
    sums = np.cumsum(1.0 / np.log2(np.arange(most) + 2.0))
    return np.asarray(sums[np.minimum(relevant_U, most) - 1])
