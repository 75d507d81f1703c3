"""How sure a difference is: p-values of paired differences, many comparisons at once, users and seeds together.

sign_flip_p    two-sided randomisation test (Fisher 1935): under "no difference" each user's difference is as likely
               with the other sign; all 2^n sign vectors for few users, else random ones with (hits + 1) / (draws + 1)
bootstrap_p    two-sided, from the paired user bootstrap: twice the smaller share of resampled means beyond zero
holm           Holm (1979): adjusted p-values that keep the chance of any false claim below the level
over_seeds     mean of a figure over seeds and users, with a standard error clustered by user and by seed (Cameron,
               Gelbach & Miller 2011): users that are the same in every seed are not counted as new ones

Legend: U users, S seeds, R rows (one per seed and user).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Ranks, paired_difference, per_user
from mmrec_model.evaluation.task import Floats, Ints

EXACT_USERS = 16
"""Up to so many users with a difference all sign vectors are counted: 65,536 of them."""
_LEVEL = 1e-12
_CELLS = 2_000_000


class Comparison(NamedTuple):
    """A mean difference with its 95 % interval, its p-value, and the p-value adjusted for all that were compared."""

    mean: float
    low: float
    high: float
    p: float
    p_holm: float


class SeedMean(NamedTuple):
    """A mean over seeds and users, its standard error, and the part that the seeds alone would give."""

    mean: float
    error: float
    seed_error: float
    seeds: int
    users: int


def sign_flip_p(difference_U: Floats, *, seed: int, draws: int = 10_000) -> float:
    """Two-sided p-value of "the differences are symmetric around 0", in 0..1.

    Args:
        difference_U: paired differences, one per user.
        seed: of the random sign vectors, where they are random.
        draws: how many of them.

    Raises:
        DataError: there are no users, or a difference is not finite.
    """
    sizes = np.abs(_checked(difference_U))
    observed = abs(float(difference_U.sum())) * (1.0 - _LEVEL)
    sizes, counts = np.unique(sizes[sizes > 0.0], return_counts=True)
    if sizes.size == 0:
        return 1.0
    if counts.sum() <= EXACT_USERS:
        flipped = np.repeat(sizes, counts)
        signs = 1 - 2 * ((np.arange(2**flipped.size)[:, None] >> np.arange(flipped.size)) & 1)
        return float((np.abs(signs @ flipped) >= observed).mean())
    generator = np.random.default_rng(seed)
    hits, done = 0, 0
    while done < draws:
        some = min(draws - done, max(1, _CELLS // sizes.size))
        sums = (2 * generator.binomial(counts, 0.5, size=(some, sizes.size)) - counts) @ sizes
        hits += int((np.abs(sums) >= observed).sum())
        done += some
    return (hits + 1) / (draws + 1)


def bootstrap_p(difference_U: Floats, *, seed: int, draws: int = 10_000) -> float:
    """Two-sided p-value of "the mean is 0" from resampling users with replacement, in 0..1.

    Args:
        difference_U: paired differences, one per user.
        seed: of the resampling.
        draws: resamplings.

    Raises:
        DataError: there are no users, or a difference is not finite.
    """
    values, counts = np.unique(_checked(difference_U), return_counts=True)
    generator = np.random.default_rng(seed)
    below, above, done = 0, 0, 0
    while done < draws:
        some = min(draws - done, max(1, _CELLS // values.size))
        sums = generator.multinomial(counts.sum(), counts / counts.sum(), size=some) @ values
        below += int((sums <= 0.0).sum())
        above += int((sums >= 0.0).sum())
        done += some
    return min(1.0, 2.0 * (min(below, above) + 1) / (draws + 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values by name: the i-th smallest times (n - i), never below an earlier one, at most 1."""
    adjusted, largest = {}, 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def compare(
    found: Ranks, others: Mapping[str, Ranks], metric: str, *, seed: int, draws: int = 10_000
) -> dict[str, Comparison]:
    """One system minus each of several others on the same users: interval by bootstrap, p by sign flips, Holm over all.

    Raises:
        DataError: the ranks are not of one task.
    """
    intervals = {name: paired_difference(found, other, metric, seed=seed) for name, other in others.items()}
    own_U = per_user(found, metric)
    p = {name: sign_flip_p(own_U - per_user(other, metric), seed=seed, draws=draws) for name, other in others.items()}
    adjusted = holm(p)
    return {name: Comparison(*interval, p[name], adjusted[name]) for name, interval in intervals.items()}


def over_seeds(values: Sequence[Floats], users: Sequence[npt.NDArray[np.int64]] | None = None) -> SeedMean:
    """Mean of a per-user figure (or of a per-user difference) over several runs.

    The variance is V_user + V_seed - V_row with small-sample factors, at least the larger of the first two. With one
    seed it is the variance over users.

    Args:
        values: of each seed, one value per user.
        users: of each seed, who these users are; by default the same users in the same order in every seed.

    Raises:
        DataError: no seed or no user, or lengths that differ where users are not named.
    """
    if not values or any(len(one) == 0 for one in values):
        raise DataError("a figure over seeds needs a user in every seed", remedy="Leave empty runs out")
    if users is None and len({len(one) for one in values}) > 1:
        raise DataError(
            f"seeds with {sorted({len(one) for one in values})} users each", remedy="Name the users of every seed"
        )
    named = [np.arange(len(one)) for one in values] if users is None else users
    values_R = np.concatenate(values)
    user_R = np.unique(np.concatenate(named), return_inverse=True)[1]
    seed_R = np.repeat(np.arange(len(values)), [len(one) for one in values])
    residual_R = values_R - values_R.mean()
    by_user, by_seed = _clustered(residual_R, user_R), _clustered(residual_R, seed_R)
    both = by_user + by_seed - _clustered(residual_R, np.arange(len(values_R)))
    variance = by_user if len(values) == 1 else max(both, by_user, by_seed)
    return SeedMean(
        mean=float(values_R.mean()),
        error=math.sqrt(variance),
        seed_error=math.sqrt(by_seed),
        seeds=len(values),
        users=int(user_R.max()) + 1,
    )


def _clustered(residual_R: Floats, cluster_R: Ints) -> float:
    """Variance of the mean when rows of one cluster may depend on each other; 0 for a single cluster."""
    sums = np.bincount(cluster_R, weights=residual_R)
    if sums.size == 1:
        return 0.0
    return float(np.square(sums).sum() / residual_R.size**2 * sums.size / (sums.size - 1))


def _checked(difference_U: Floats) -> Floats:
    if difference_U.size == 0 or not np.isfinite(difference_U).all():
        raise DataError(
            f"{difference_U.size} differences, {int((~np.isfinite(difference_U)).sum())} of them not finite",
            remedy="Compare two systems on at least one user",
        )
    return difference_U
