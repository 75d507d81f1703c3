"""Which rows are imported: by time, by rating, by k-core, and by a public draw of users; every lost row is counted.

Order: repeated rows, rows before `since`, the rating threshold, the k-core, the draw, the k-core again. A k-core is
the largest set in which every user has at least k distinct positive items and every item k distinct users (Seidman
1983, for the bipartite graph); it is reached by taking away what is too small until nothing is.

Guarantees, each tested:
1. Rows in = rows kept + rows lost, by reason.
2. The order of the rows does not change which users are drawn, nor the k-core.
3. A draw depends on the seed and the ids alone: user u is among `max_users` if few enough users have a smaller
   SHA-256 of "seed|u".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmrec_model.data.importers.intake import Rows
from mmrec_model.data.interactions import Column, repeated_rows
from mmrec_model.data.schema import EVENTS, IMPRESSION
from mmrec_model.errors import UsageError

_CLICK = EVENTS.index("click")


@dataclass(frozen=True)
class Selection:
    """What is asked for.

    Attributes:
        since: Unix seconds of the earliest row, or None.
        min_rating: a row counts as positive from this rating on; None: every row does.
        below: what becomes of other rated rows: left out, or kept as impressions, beside clicks.
        k_core: k, or 0 for no k-core.
        max_users: how many users at most, or None.
        seed: of the draw of users.
    """

    since: float | None = None
    min_rating: float | None = None
    below: Literal["drop", "impression"] = "drop"
    k_core: int = 0
    max_users: int | None = None
    seed: int = 0


def select(rows: Rows, wanted: Selection) -> tuple[Rows, dict[str, int]]:
    """The chosen rows, and how many were lost for which reason.

    Raises:
        UsageError: a rating threshold for rows without ratings.
    """
    lost: dict[str, int] = {}
    rows = _keep(rows, ~_repeated(rows), "repeated", lost)
    if wanted.since is not None:
        rows = _keep(rows, rows.seconds_R >= wanted.since, "before_since", lost)
    if wanted.min_rating is not None:
        rows = _threshold(rows, wanted.min_rating, wanted.below, lost)
    rows = _core(rows, wanted.k_core, lost)
    if wanted.max_users is not None:
        drawn_U = _drawn(rows, wanted.max_users, wanted.seed)
        rows = _keep(rows, drawn_U[rows.users_R], "user_not_drawn", lost)
        rows = _core(rows, wanted.k_core, lost)
    return rows, lost


def k_core(users_R: NDArray[np.int32], items_R: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """Rows [R] whose user has at least k distinct items and whose item k distinct users, counting such rows alone."""
    n_users, n_items = int(users_R.max(initial=-1)) + 1, int(items_R.max(initial=-1)) + 1
    pairs = np.unique(users_R.astype(np.int64) * n_items + items_R)
    users, items = pairs // max(n_items, 1), pairs % max(n_items, 1)
    while True:
        user_fits_U = np.bincount(users, minlength=n_users) >= k
        item_fits_N = np.bincount(items, minlength=n_items) >= k
        stays = user_fits_U[users] & item_fits_N[items]
        if stays.all():
            return user_fits_U[users_R] & item_fits_N[items_R]
        users, items = users[stays], items[stays]


def _keep(rows: Rows, kept_R: NDArray[np.bool_], reason: str, lost: dict[str, int]) -> Rows:
    gone = len(kept_R) - int(kept_R.sum())
    if not gone:
        return rows
    lost[reason] = lost.get(reason, 0) + gone
    return rows.where(kept_R)


def _repeated(rows: Rows) -> NDArray[np.bool_]:
    columns: list[Column] = [rows.users_R, rows.items_R, rows.seconds_R]
    columns += [column for column in (rows.ratings_R, rows.events_R) if column is not None]
    return repeated_rows(columns, np.ones(len(rows), dtype=np.bool_))


def _threshold(rows: Rows, least: float, below: Literal["drop", "impression"], lost: dict[str, int]) -> Rows:
    if rows.ratings_R is None:
        raise UsageError(
            f"--min-rating {least:g} is given, and no row has a rating", remedy="Leave the option out for this set"
        )
    rows = _keep(rows, np.isfinite(rows.ratings_R), "no_rating", lost)
    liked_R = rows.ratings_R >= least if rows.ratings_R is not None else np.ones(len(rows), dtype=np.bool_)
    if below == "drop":
        return _keep(rows, liked_R, "below_min_rating", lost)
    return replace(rows, events_R=np.where(liked_R, _CLICK, IMPRESSION).astype(np.int8))


def _core(rows: Rows, k: int, lost: dict[str, int]) -> Rows:
    """The k-core of the positives, with the impressions between its users and items."""
    if k <= 0 or not len(rows):
        return rows
    positive_R = rows.positive_mask()
    core = rows.where(positive_R)
    core = core.where(k_core(core.users_R, core.items_R, k))
    user_stays_U = np.zeros(len(rows.user_ids), dtype=np.bool_)
    item_stays_N = np.zeros(len(rows.item_ids), dtype=np.bool_)
    user_stays_U[core.users_R] = True
    item_stays_N[core.items_R] = True
    return _keep(rows, user_stays_U[rows.users_R] & item_stays_N[rows.items_R], "outside_k_core", lost)


def _drawn(rows: Rows, most: int, seed: int) -> NDArray[np.bool_]:
    """Which of the users [U] are drawn; all of those with rows if they are few enough."""
    present = np.unique(rows.users_R)
    drawn_U = np.zeros(len(rows.user_ids), dtype=np.bool_)
    ids = rows.user_ids.take(present).to_pylist()
    keys = [hashlib.sha256(f"{seed}|{user}".encode()).digest() for user in ids]
    drawn_U[present[sorted(range(len(keys)), key=keys.__getitem__)[:most]]] = True
    return drawn_U
