"""Full-catalogue ranking of held-out items: no sampled candidates, ties broken by chance, never by id.

Promises, each a test:

1. Every item of the catalogue is a candidate except the user's excluded ones (training items, and at test time the
   validation item). Sampled candidates can show a score of .53 on pure noise where chance is .10.
2. Items with the target's score are ordered at random. The draw depends on the seed and the user's row alone, not on
   the chunk size, so a constant scorer stands at chance and a run can be repeated. `luck_rows_U` names the rows.
   Several targets of a user never share a place.
3. A score that is not a number is refused: it would compare false with everything and put its target first.

Metrics of one relevant item at the 0-based rank r: recall@k = [r < k], which is also the hit rate;
ndcg@k = [r < k] / log2(r + 2) (Järvelin & Kekäläinen, TOIS 2002); mrr = 1 / (r + 1) over the whole list. Of several
relevant items, and precision, hit rate and map: `mmrec_model.evaluation.relevance`.

Legend: U users, B users of a chunk, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError, ModelError
from mmrec_model.evaluation.relevance import expected, parse_metric, user_values
from mmrec_model.evaluation.task import Excluded, Flags, Floats, Ints, RankingTask, Ranks

__all__ = [
    "DEFAULT_KS", "Difference", "Excluded", "Floats", "Ints", "Progress", "RankingTask", "Ranks", "Scorer",
    "chance_level", "chance_of", "checked_scores", "paired_difference", "per_user", "place_targets", "ranking_metrics",
    "ranks", "ranks_of", "standard_errors",
]  # fmt: skip
Scorer: TypeAlias = Callable[[Ints], npt.NDArray[np.float32]]
"""Rows of the task [B] -> scores [B, N]; larger is better, infinities are allowed."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (users done, users in all) after every chunk."""

DEFAULT_KS = (10, 20)


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
    rank_T = np.zeros(task.flat_targets.size, dtype=np.int64)
    for start in range(0, task.users, chunk):
        stop = min(start + chunk, task.users)
        scores_BN = checked_scores(scores(np.arange(start, stop, dtype=np.int64)), (stop - start, task.n_items))
        place_targets(scores_BN, task, start, rank_T, luck_U=luck_U, seed=seed)
        if progress is not None:
            progress(stop, task.users)
    return ranks_of(task, rank_T)


def place_targets(
    scores_BN: npt.NDArray[np.float32], task: RankingTask, start: int, rank_T: Ints, *, luck_U: Floats, seed: int
) -> None:
    """Write the places of the targets of the users start..start+B-1 into `rank_T`.

    Args:
        scores_BN: checked scores of these users.
        task: what is ranked.
        start: the first user.
        rank_T: one place per target of the task, written in part.
        luck_U: `task.luck(seed)`.
        seed: of the draws that break ties.
    """
    stop = start + len(scores_BN)
    rows, items = task.excluded.flat(start, stop)
    excluded = scores_BN[rows, items]
    if task.offsets is None:
        above_B, level_B = _compared(scores_BN, task.targets_U[start:stop], rows, excluded)
        rank_T[start:stop] = above_B + np.floor(luck_U[start:stop] * level_B).astype(np.int64)
        return
    for nth in range(int(np.diff(task.offsets[start : stop + 1]).max())):
        places = task.offsets[start:stop] + nth
        here_B = places < task.offsets[start + 1 : stop + 1]
        of_B = np.flatnonzero(here_B)
        new_row = np.cumsum(here_B) - 1
        kept = here_B[rows]
        above_B, level_B = _compared(
            scores_BN[of_B], task.flat_targets[places[of_B]], new_row[rows[kept]], excluded[kept]
        )
        rank_T[places[of_B]] = above_B
        alone = level_B == 1
        for row, above, level in zip(of_B[~alone], above_B[~alone], level_B[~alone], strict=True):
            user = start + int(row)
            luck = luck_U[user] if nth == 0 else task.further_luck(seed, user)[nth]
            taken = rank_T[task.offsets[user] : task.offsets[user] + nth]
            rank_T[task.offsets[user] + nth] = _free_place(int(above), int(level), float(luck), taken)


def ranks_of(task: RankingTask, rank_T: Ints) -> Ranks:
    """The ranks of a task from the place of every target."""
    candidates_U = task.n_items - np.diff(task.excluded.offsets)
    if task.offsets is None:
        return Ranks(rank_U=rank_T, candidates_U=candidates_U)
    best_U = np.minimum.reduceat(rank_T, task.offsets[:-1]) if task.users else rank_T
    return Ranks(best_U, candidates_U, task.offsets, rank_T)


def _compared(
    scores_BN: npt.NDArray[np.float32], targets_B: Ints, rows: Ints, excluded: npt.NDArray[np.float32]
) -> tuple[Ints, Ints]:
    """Candidates above and level with each target [B]; rows and scores of excluded items are taken out."""
    users = len(scores_BN)
    goal_B = scores_BN[np.arange(users), targets_B]
    above_B = (scores_BN > goal_B[:, None]).sum(axis=1) - _per_row(rows, excluded > goal_B[rows], users)
    level_B = (scores_BN == goal_B[:, None]).sum(axis=1) - _per_row(rows, excluded == goal_B[rows], users)
    return above_B, level_B


def _free_place(above: int, level: int, luck: float, taken: Ints) -> int:
    """A place among `level` equal ones that no earlier target of the user has, each as likely."""
    mine = np.sort(taken[(taken >= above) & (taken < above + level)])
    place = above + int(luck * (level - mine.size))
    for other in mine:
        place += int(other <= place)
    return place


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
    if found.offsets is not None:
        return {name: chance_of(found, name) for name in names}
    sizes, users = np.unique(found.candidates_U, return_counts=True)
    totals = dict.fromkeys(names, 0.0)
    for size, count in zip(sizes, users, strict=True):
        every = Ranks(rank_U=np.arange(size), candidates_U=np.full(size, size))
        for name in names:
            totals[name] += float(per_user(every, name).mean()) * float(count)
    return {name: total / found.rank_U.size for name, total in totals.items()}


def chance_of(found: Ranks, metric: str) -> float:
    """Exact expectation of one metric's mean when every order of each user's candidates is equally likely.

    Raises:
        DataError: there are no users, or no such metric.
    """
    _refuse_nobody(found)
    asked = parse_metric(metric)
    relevant_U = np.bincount(found.owners, minlength=found.rank_U.size)
    cases, users = np.unique(np.stack([found.candidates_U, relevant_U], 1), axis=0, return_counts=True)
    values = [expected(int(size), int(relevant), asked) for size, relevant in cases]
    return float(np.average(values, weights=users))


def per_user(found: Ranks, metric: str) -> Floats:
    """One metric of each user [U], in 0..1.

    Args:
        found: the ranks.
        metric: `mrr`, or one of `relevance.KINDS` with `_at_<k>`.

    Raises:
        DataError: no such metric.
    """
    asked = parse_metric(metric)
    if found.offsets is not None or asked.kind not in {"recall", "ndcg", "mrr"}:
        return user_values(found, asked)
    gain_U = found.rank_U.astype(np.float64)
    if asked.kind == "mrr":
        return np.asarray(1.0 / (gain_U + 1.0))
    hit_U = found.rank_U < asked.k
    return np.where(hit_U, 1.0 if asked.kind == "recall" else 1.0 / np.log2(gain_U + 2.0), 0.0)


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
    paired = np.array_equal(a.candidates_U, b.candidates_U) and np.array_equal(a.owners, b.owners)
    if not paired or a.rank_U.size == 0:
        raise DataError(
            f"{a.rank_U.size} and {b.rank_U.size} users with differing candidates cannot be paired",
            remedy="Rank both on one RankingTask",
        )
    gap_U = per_user(a, metric) - per_user(b, metric)
    generator = np.random.default_rng(seed)
    means = [gap_U[generator.integers(gap_U.size, size=gap_U.size)].mean() for _ in range(draws)]
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(mean=float(gap_U.mean()), low=float(low), high=float(high))


def _per_row(rows: Ints, flags: Flags, n_rows: int) -> Ints:
    return np.bincount(rows[flags], minlength=n_rows)


def _names(found: Ranks, ks: Sequence[int]) -> list[str]:
    _refuse_nobody(found)
    return [f"{kind}_at_{k}" for kind in ("recall", "ndcg") for k in ks] + ["mrr"]


def _refuse_nobody(found: Ranks) -> None:
    if found.rank_U.size == 0:
        raise DataError("there are no users to evaluate", remedy="Hold out one interaction of at least one user")
