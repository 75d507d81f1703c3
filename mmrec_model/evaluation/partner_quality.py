"""Quality by partner: how evenly it is spread, what joining brought each of them, what each brought the rest.

Pure functions of ranks and of each user's partner; the sets of ranks are of one panel, so differences are paired by
user. Figures of real partners are private to them. Legend: U users, P partners.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Floats, Ints, Ranks, per_user

BOTTOM = 0.1


@dataclass(frozen=True)
class Spread:
    """Mean, worst, mean of the worst tenth (at least one partner), and Gini index (0 alike) over partners."""

    mean: float
    worst: float
    bottom: float
    gini: float


@dataclass(frozen=True)
class Gain:
    """A mean difference over a partner's users with its standard error over them; 0 for a single user."""

    mean: float
    error: float
    users: int


def partner_means(values_U: Floats, partner_U: Ints, partners: int) -> Floats:
    """Mean over each partner's users [P]; NaN for a partner without any."""
    users_P = np.bincount(partner_U, minlength=partners)
    sums_P = np.bincount(partner_U, weights=values_U, minlength=partners)
    return np.where(users_P > 0, sums_P / np.maximum(users_P, 1), np.nan)


def spread(values_P: Floats) -> Spread:
    """How evenly a figure lies over partners, each partner counting once; partners without users (NaN) are left out.

    Raises:
        DataError: no partner has a value.
    """
    values = np.sort(values_P[~np.isnan(values_P)])
    if values.size == 0:
        raise DataError("no partner has a user to evaluate", remedy="Hold out an interaction of a partner's users")
    worst = values[: max(1, math.ceil(BOTTOM * values.size))]
    places = 2 * np.arange(1, values.size + 1) - values.size - 1
    total = values.size * values.sum()
    return Spread(
        mean=float(values.mean()),
        worst=float(values[0]),
        bottom=float(worst.mean()),
        gini=float((places * values).sum() / total) if total > 0 else 0.0,
    )


def gains(found: Ranks, other: Ranks, partner_U: Ints, metric: str) -> dict[int, Gain]:
    """What one system gives each partner's users over another, such as the model that the partner trained alone.

    Args:
        found: ranks of the federation's model.
        other: ranks of what each user would have otherwise, on the same panel.
        partner_U: each user's partner.
        metric: as in `per_user`.

    Raises:
        DataError: the ranks are not of one panel.
    """
    difference_U = _paired(found, other, partner_U, metric)
    return {int(partner): _gain(difference_U[partner_U == partner]) for partner in np.unique(partner_U)}


def contributions(found: Ranks, without: Mapping[int, Ranks], partner_U: Ints, metric: str) -> dict[int, Gain]:
    """What each partner's taking part gives to the users of all others (leave one partner out).

    Args:
        found: ranks of the model of all partners.
        without: by partner, ranks of a model trained without it, on the whole panel.
        partner_U: each user's partner.
        metric: as in `per_user`.

    Raises:
        DataError: the ranks are not of one panel, or a partner has all its users.
    """
    return {
        partner: _gain(_paired(found, ranks, partner_U, metric)[partner_U != partner])
        for partner, ranks in without.items()
    }


def _paired(found: Ranks, other: Ranks, partner_U: Ints, metric: str) -> Floats:
    same = np.array_equal(found.candidates_U, other.candidates_U) and found.rank_U.size == partner_U.size
    if not same or found.places.size != other.places.size:
        raise DataError(
            f"{found.rank_U.size} and {other.rank_U.size} users of {partner_U.size} cannot be paired",
            remedy="Rank both on one panel",
        )
    return per_user(found, metric) - per_user(other, metric)


def _gain(difference: Floats) -> Gain:
    if difference.size == 0:
        raise DataError("there are no users to compare", remedy="Leave this partner out of the comparison")
    error = difference.std(ddof=1) / math.sqrt(difference.size) if difference.size > 1 else 0.0
    return Gain(float(difference.mean()), float(error), int(difference.size))
