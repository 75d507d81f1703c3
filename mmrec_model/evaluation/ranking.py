"""Full-catalogue ranking of one held-out item per user: no sampled candidates, ties broken by chance, never by id.

Promises, each a test:

1. Every item of the catalogue is a candidate except the user's excluded ones (training items, and at test time the
   validation item). Sampled candidates can show a score of .53 on pure noise where chance is .10.
2. Items with the target's score are ordered at random. The draw depends on the seed and the user's row alone, not on
   the chunk size, so a constant scorer stands at chance and a run can be repeated. `luck_rows_U` names the rows.
3. A score that is not a number is refused: it would compare false with everything and put its target first.

Metrics (one relevant item, 0-based rank r): recall@k = [r < k], which is also the hit rate;
ndcg@k = [r < k] / log2(r + 2) (Järvelin & Kekäläinen, TOIS 2002); mrr = 1 / (r + 1) over the whole list.

Legend: U users, B users of a chunk, N items.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError, ModelError

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Scorer: TypeAlias = Callable[[Ints], npt.NDArray[np.float32]]
"""Rows of the task [B] -> scores [B, N]; larger is better, infinities are allowed."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (users done, users in all) after every chunk."""

DEFAULT_KS = (10, 20)


@dataclass(frozen=True)
class Excluded:
    """Per user, the items that are no candidates: row u owns `items[offsets[u]:offsets[u + 1]]`, strictly ascending.

    Raises:
        DataError: offsets do not describe the items, or a row is not strictly ascending.
    """

    offsets: Ints
    items: Ints

    def __post_init__(self) -> None:
        steps = np.diff(self.offsets)
        if self.offsets.size == 0 or self.offsets[0] != 0 or self.offsets[-1] != self.items.size or (steps < 0).any():
            raise DataError(
                f"{self.offsets.size} offsets do not divide {self.items.size} excluded items into rows",
                remedy="Build it with Excluded.from_pairs",
            )
        rows = np.repeat(np.arange(self.users), steps)
        if ((np.diff(self.items) <= 0) & (np.diff(rows) == 0)).any():
            raise DataError(
                "a row of excluded items is not strictly ascending", remedy="Build it with Excluded.from_pairs"
            )

    @property
    def users(self) -> int:
        """Number of rows."""
        return self.offsets.size - 1

    @classmethod
    def from_pairs(cls, users: Ints, items: Ints, *, n_users: int) -> Excluded:
        """From (row, item) pairs in any order; repeated pairs count once. Rows lie in 0..n_users-1."""
        pairs = np.unique(np.stack([users, items], axis=1).astype(np.int64), axis=0).reshape(-1, 2)
        if pairs.size and (pairs.min() < 0 or pairs[-1, 0] >= n_users):
            raise DataError(
                f"excluded pairs name rows {pairs[0, 0]}..{pairs[-1, 0]} and items from {pairs[:, 1].min()}, "
                f"allowed are rows 0..{n_users - 1} and items from 0",
                remedy="Number the users of the task from 0",
            )
        counts = np.bincount(pairs[:, 0], minlength=n_users)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(offsets=offsets, items=pairs[:, 1].copy())

    def flat(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Rows relative to `start` and items of the excluded cells of rows start..stop-1, both [cells]."""
        counts = np.diff(self.offsets[start : stop + 1])
        return np.repeat(np.arange(stop - start), counts), self.items[self.offsets[start] : self.offsets[stop]]


@dataclass(frozen=True)
class RankingTask:
    """One held-out item per user, ranked against the whole catalogue.

    Attributes:
        targets_U: the held-out item of each user, 0..n_items-1.
        excluded: the items of each user that are no candidates; never the target.
        n_items: size of the catalogue.
        luck_rows_U: the number from 0 on that a user's draws depend on, so that they do not depend on which other users
            have a held-out item; None for the user's row in this task.

    Raises:
        DataError: lengths differ, an item is outside the catalogue, or a target is excluded.
    """

    targets_U: Ints
    excluded: Excluded
    n_items: int
    luck_rows_U: Ints | None = None

    def __post_init__(self) -> None:
        if self.excluded.users != self.users:
            raise DataError(
                f"{self.users} targets but {self.excluded.users} rows of excluded items",
                remedy="Give one row per user, empty if need be",
            )
        for name, items in (("target", self.targets_U), ("excluded item", self.excluded.items)):
            if items.size and (items.min() < 0 or items.max() >= self.n_items):
                raise DataError(
                    f"{name} numbers span {items.min()}..{items.max()}, the catalogue has 0..{self.n_items - 1}",
                    remedy="Number items by their row in the catalogue",
                )
        rows, items = self.excluded.flat(0, self.users)
        clash = np.flatnonzero(items == self.targets_U[rows])
        if clash.size:
            raise DataError(
                f"{clash.size} targets are excluded themselves, the first in row {rows[clash[0]]}",
                remedy="Keep one interaction per user and item before splitting",
            )

    @classmethod
    def from_histories(
        cls, histories: Sequence[Ints], targets_U: Ints, *, n_items: int, luck_rows_U: Ints | None = None
    ) -> RankingTask:
        """A task in which the items of a user's history are no candidates.

        Raises:
            DataError: as above.
        """
        lengths = np.asarray([len(items) for items in histories], dtype=np.int64)
        users = np.repeat(np.arange(len(histories)), lengths)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
        return cls(targets_U, Excluded.from_pairs(users, items, n_users=len(histories)), n_items, luck_rows_U)

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.targets_U.size)

    def luck(self, seed: int) -> Floats:
        """One draw in [0, 1) per user [U], which puts the target among the items with its score."""
        rows_U = np.arange(self.users) if self.luck_rows_U is None else self.luck_rows_U
        return np.random.default_rng(seed).random(int(rows_U.max(initial=-1)) + 1)[rows_U]


@dataclass(frozen=True)
class Ranks:
    """Where each user's target stands.

    Attributes:
        rank_U: 0 is best, candidates - 1 is worst.
        candidates_U: number of items that competed, the target included.
    """

    rank_U: Ints
    candidates_U: Ints


class Difference(NamedTuple):
    """A mean difference with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def ranks(
    scores: Scorer, task: RankingTask, *, seed: int, chunk: int = 1024, progress: Progress | None = None
) -> Ranks:
    """Rank every target among its candidates.

    Args:
        scores: called with consecutive rows of the task; its answer is not changed.
        task: what to rank.
        seed: of the draws that break ties.
        chunk: users per call, at least 1.
        progress: told after every chunk.

    Raises:
        ModelError: an answer has another shape than [B, N] or holds a NaN.
    """
    luck_U = task.luck(seed)
    rank_U = np.zeros(task.users, dtype=np.int64)
    for start in range(0, task.users, chunk):
        stop = min(start + chunk, task.users)
        scores_BN = checked_scores(scores(np.arange(start, stop, dtype=np.int64)), (stop - start, task.n_items))
        goal_B = scores_BN[np.arange(stop - start), task.targets_U[start:stop]]
        rows, items = task.excluded.flat(start, stop)
        excluded = scores_BN[rows, items]
        above_B = (scores_BN > goal_B[:, None]).sum(axis=1) - _per_row(rows, excluded > goal_B[rows], stop - start)
        level_B = (scores_BN == goal_B[:, None]).sum(axis=1) - _per_row(rows, excluded == goal_B[rows], stop - start)
        rank_U[start:stop] = above_B + np.floor(luck_U[start:stop] * level_B).astype(np.int64)
        if progress is not None:
            progress(stop, task.users)
    return Ranks(rank_U=rank_U, candidates_U=task.n_items - np.diff(task.excluded.offsets))


def checked_scores(scores_BN: npt.NDArray[np.float32], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Pass on a scorer's answer, refusing another shape or a NaN.

    Raises:
        ModelError: as said.
    """
    if scores_BN.shape != shape:
        raise ModelError(
            f"the scorer answered with shape {scores_BN.shape}, expected {shape}",
            remedy="Return one row per asked user and one column per item of the catalogue",
        )
    bad = int(np.isnan(scores_BN).sum())
    if bad:
        raise ModelError(
            f"{bad} of {scores_BN.size} scores are not a number", remedy="Check the model's weights and features"
        )
    return scores_BN


def ranking_metrics(found: Ranks, ks: Sequence[int] = DEFAULT_KS) -> dict[str, float]:
    """Mean over users of recall_at_k and ndcg_at_k for every k, and mrr; each in 0..1.

    Raises:
        DataError: there are no users.
    """
    return {name: float(per_user(found, name).mean()) for name in _names(found, ks)}


def standard_errors(found: Ranks, ks: Sequence[int] = DEFAULT_KS) -> dict[str, float]:
    """Standard error of each mean of `ranking_metrics`: sqrt(variance / U), for recall sqrt(p (1 - p) / U).

    Raises:
        DataError: there are no users.
    """
    return {name: float(per_user(found, name).std() / np.sqrt(found.rank_U.size)) for name in _names(found, ks)}


def chance_level(found: Ranks, ks: Sequence[int] = DEFAULT_KS) -> dict[str, float]:
    """Exact expectation of `ranking_metrics` when every order of each user's candidates is equally likely.

    Raises:
        DataError: there are no users.
    """
    names = _names(found, ks)
    sizes, users = np.unique(found.candidates_U, return_counts=True)
    totals = dict.fromkeys(names, 0.0)
    for size, count in zip(sizes, users, strict=True):
        every = Ranks(rank_U=np.arange(size), candidates_U=np.full(size, size))
        for name in names:
            totals[name] += float(per_user(every, name).mean()) * float(count)
    return {name: total / found.rank_U.size for name, total in totals.items()}


def per_user(found: Ranks, metric: str) -> Floats:
    """One metric of each user [U], in 0..1.

    Args:
        found: the ranks.
        metric: `recall_at_<k>`, `ndcg_at_<k>` or `mrr`.

    Raises:
        DataError: no such metric.
    """
    gain_U = found.rank_U.astype(np.float64)
    if metric == "mrr":
        return np.asarray(1.0 / (gain_U + 1.0))
    parts = re.fullmatch(r"(recall|ndcg)_at_([1-9][0-9]*)", metric)
    if parts is None:
        raise DataError(f"there is no metric {metric!r}", remedy="Use recall_at_<k>, ndcg_at_<k> or mrr")
    hit_U = found.rank_U < int(parts[2])
    return np.where(hit_U, 1.0 if parts[1] == "recall" else 1.0 / np.log2(gain_U + 2.0), 0.0)


def paired_difference(a: Ranks, b: Ranks, metric: str, *, seed: int, draws: int = 1000) -> Difference:
    """Mean of `a` minus `b` over the same users, with the 95 % interval of a paired user bootstrap (percentiles).

    Args:
        a: ranks of one system.
        b: ranks of another on the same task.
        metric: as in `per_user`.
        seed: of the resampling.
        draws: resamplings of all users, with replacement.

    Raises:
        DataError: the two were not measured on the same users, or there are none.
    """
    if not np.array_equal(a.candidates_U, b.candidates_U) or a.rank_U.size == 0:
        raise DataError(
            f"{a.rank_U.size} and {b.rank_U.size} users with differing candidates cannot be paired",
            remedy="Rank both on one RankingTask",
        )
    gap_U = per_user(a, metric) - per_user(b, metric)
    generator = np.random.default_rng(seed)
    means = [gap_U[generator.integers(gap_U.size, size=gap_U.size)].mean() for _ in range(draws)]
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(mean=float(gap_U.mean()), low=float(low), high=float(high))


def _per_row(rows: Ints, flags: npt.NDArray[np.bool_], n_rows: int) -> Ints:
    return np.bincount(rows[flags], minlength=n_rows)


def _names(found: Ranks, ks: Sequence[int]) -> list[str]:
    if found.rank_U.size == 0:
        raise DataError("there are no users to evaluate", remedy="Hold out one interaction of at least one user")
    return [f"{kind}_at_{k}" for kind in ("recall", "ndcg") for k in ks] + ["mrr"]
