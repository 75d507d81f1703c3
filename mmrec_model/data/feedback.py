"""Feedback: what came of each item that a user was shown, one row per user and item, as one compressed table (CSR).

Of all usable rows of a user and an item one outcome is made: a conversion implies a click and a click that the item
was shown; the last rating counts. A row lies at the time of its first event.

Guarantees, each tested:
1. The train part holds rows up to the time of the user's last train item, and never an item that is held out for
   that user. The later part holds what the user first met after that time. A user without held-out item is all train.
2. `shown` says something about clicks: a user without a single impression in a part has no shown row in it, because
   what that user was shown without clicking is not known.
3. The draw of a user depends on the seed and the user's own rows alone (`mmrec_model.data.batches.draw_places`).

Legend: U users, R rows, B users of a batch, F = `max_feedback`, N items of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mmrec_model.config import HOUR_BUCKETS, WEEKDAYS
from mmrec_model.data.batches import draw_places
from mmrec_model.data.interactions import Interactions
from mmrec_model.data.schema import EVENTS, IMPRESSION
from mmrec_model.data.splits import Split
from mmrec_model.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_CLICK, _CONVERSION = EVENTS.index("click"), EVENTS.index("conversion")
_DAY = 86_400.0
_FIRST_WEEKDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""


@dataclass(frozen=True, eq=False)
class Feedback:
    """Outcomes of U users, R in total; the arrays are made read-only.

    Attributes:
        offsets: [U + 1]; user u owns the rows `offsets[u]:offsets[u + 1]`, in time order.
        items: [R] indices into the catalogue, distinct within a user.
        seconds: [R] Unix time of the first event.
        shown: [R] whether the row says if a shown item was clicked.
        clicked: [R] whether it was clicked or converted.
        converted: [R] whether it was converted.
        ratings: [R] the last rating, NaN if there is none.
    """

    offsets: Ints
    items: Ints
    seconds: Floats
    shown: Flags
    clicked: Flags
    converted: Flags
    ratings: Floats

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, part.name)) for part in fields(self)[1:]}
        if lengths != {int(self.offsets[-1])} or self.offsets[0] != 0 or bool(np.any(np.diff(self.offsets) < 0)):
            raise DataError(
                f"{len(self.offsets)} offsets do not describe columns of {sorted(lengths)} rows",
                remedy="Offsets start at 0, never fall, and end at the number of rows",
            )
        for part in fields(self):
            getattr(self, part.name).setflags(write=False)

    def __len__(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1


@dataclass(frozen=True, eq=False)
class Labels:
    """What heads learn from: a partner's train feedback, and the public class number of every item `[N]`, or -1."""

    feedback: Feedback
    category_N: Ints


@dataclass(frozen=True, eq=False)
class FeedbackBatch:
    """At most F rows of each of B users; padded with zeros behind the real ones.

    Attributes:
        items_BF: catalogue indices.
        mask_BF: True where real.
        shown_BF: as in `Feedback`.
        clicked_BF: as in `Feedback`.
        converted_BF: as in `Feedback`.
        rated_BF: where there is a rating.
        ratings_BF: the rating, 0 where there is none.
        hour_BF: bucket of the time of day (UTC), 0 to `HOUR_BUCKETS` - 1.
        weekday_BF: 0 for Monday to 6.
    """

    items_BF: Ints
    mask_BF: Flags
    shown_BF: Flags
    clicked_BF: Flags
    converted_BF: Flags
    rated_BF: Flags
    ratings_BF: Floats
    hour_BF: Ints
    weekday_BF: Ints


def draw_feedback(feedback: Feedback, users: Ints, *, max_feedback: int, seed: int) -> FeedbackBatch:
    """All rows of each user, or a uniformly random `max_feedback` of them.

    Args:
        feedback: rows of all users.
        users: [B] user indices; may be empty.
        max_feedback: F, at least 1.
        seed: any integer; 64 bits of it count.

    Raises:
        DataError: an argument is outside its range.
    """
    rows_BF, mask_BF = draw_places(feedback.offsets, users, most=max_feedback, seed=seed)
    if not len(feedback.items):
        rows_BF, feedback = np.zeros_like(rows_BF), _one_blank_row()
    ratings_BF = feedback.ratings[rows_BF]
    rated_BF = mask_BF & ~np.isnan(ratings_BF)
    hour_BF, weekday_BF = moments(feedback.seconds[rows_BF])
    return FeedbackBatch(
        items_BF=np.where(mask_BF, feedback.items[rows_BF], 0),
        mask_BF=mask_BF,
        shown_BF=mask_BF & feedback.shown[rows_BF],
        clicked_BF=mask_BF & feedback.clicked[rows_BF],
        converted_BF=mask_BF & feedback.converted[rows_BF],
        rated_BF=rated_BF,
        ratings_BF=np.where(rated_BF, ratings_BF, 0.0),
        hour_BF=np.where(mask_BF, hour_BF, 0),
        weekday_BF=np.where(mask_BF, weekday_BF, 0),
    )


def moments(seconds: Floats) -> tuple[Ints, Ints]:
    """Public buckets of Unix times of any shape: part of the day (UTC), and day of the week with 0 for Monday."""
    hour = ((seconds % _DAY) * (HOUR_BUCKETS / _DAY)).astype(np.int64)
    weekday = (seconds // _DAY).astype(np.int64) + _FIRST_WEEKDAY
    return np.minimum(hour, HOUR_BUCKETS - 1), weekday % WEEKDAYS


def split_feedback(rows: Interactions, split: Split, n_items: int) -> tuple[Feedback, Feedback]:
    """The train part and the later part; what is in neither is an item that was shown early and is held out.

    Args:
        rows: usable rows.
        split: train items and held-out items of the same rows.
        n_items: size of the catalogue.
    """
    pairs = _Pairs.of(rows, n_items)
    cutoff_U = _cutoffs(pairs, split, n_items)
    held_out = np.isin(pairs.users * n_items + pairs.items, _held_out_keys(split, n_items))
    early = pairs.seconds <= cutoff_U[pairs.users]
    n_users = len(rows.user_ids)
    return pairs.table(pairs.telling & early & ~held_out, n_users), pairs.table(pairs.telling & ~early, n_users)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Every pair of a user and an item, sorted by user, then time; `telling` is False for pairs without any outcome."""

    users: Ints
    items: Ints
    seconds: Floats
    positive_seconds: Floats
    impression: Flags
    clicked: Flags
    converted: Flags
    ratings: Floats

    @classmethod
    def of(cls, rows: Interactions, n_items: int) -> _Pairs:
        keys, pair_R = np.unique(rows.users_R * n_items + rows.items_R, return_inverse=True)
        users, items = keys // n_items, keys % n_items
        seconds, positive_seconds = np.full(len(keys), np.inf), np.full(len(keys), np.inf)
        np.minimum.at(seconds, pair_R, rows.seconds_R)
        np.minimum.at(positive_seconds, pair_R[rows.positive_R], rows.seconds_R[rows.positive_R])
        impression, clicked, converted = np.zeros((3, len(keys)), dtype=np.bool_)
        impression[pair_R[rows.events_R == IMPRESSION]] = True
        clicked[pair_R[(rows.events_R == _CLICK) | (rows.events_R == _CONVERSION)]] = True
        converted[pair_R[rows.events_R == _CONVERSION]] = True
        ratings = np.full(len(keys), np.nan)
        rated = np.flatnonzero(~np.isnan(rows.ratings_R))
        rated = rated[np.lexsort((rows.ratings_R[rated], rows.seconds_R[rated]))]
        ratings[pair_R[rated]] = rows.ratings_R[rated]  # of repeated places the last stays
        order = np.lexsort((items, seconds, users))
        return cls(
            users=users[order],
            items=items[order],
            seconds=seconds[order],
            positive_seconds=positive_seconds[order],
            impression=impression[order],
            clicked=clicked[order],
            converted=converted[order],
            ratings=ratings[order],
        )

    @property
    def telling(self) -> Flags:
        return self.impression | self.clicked | ~np.isnan(self.ratings)

    def table(self, kept: Flags, n_users: int) -> Feedback:
        users = self.users[kept]
        informed_U = np.zeros(n_users, dtype=np.bool_)
        informed_U[users[self.impression[kept]]] = True
        offsets = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=offsets[1:])
        return Feedback(
            offsets=offsets,
            items=self.items[kept],
            seconds=self.seconds[kept],
            shown=(self.impression | self.clicked)[kept] & informed_U[users],
            clicked=self.clicked[kept],
            converted=self.converted[kept],
            ratings=self.ratings[kept],
        )


def _cutoffs(pairs: _Pairs, split: Split, n_items: int) -> Floats:
    """Time of each user's last train item [U]; infinite for users who have no held-out item."""
    owners = np.repeat(np.arange(len(split.train)), np.diff(split.train.offsets))
    keys = pairs.users * n_items + pairs.items
    order = np.argsort(keys)
    places = order[np.searchsorted(keys, owners * n_items + split.train.items, sorter=order)]
    cutoff_U = np.full(len(split.train), -np.inf)
    np.maximum.at(cutoff_U, owners, pairs.positive_seconds[places])
    none_held_out = sum(np.diff(part.offsets) for part in split.held_out) == 0
    return np.where(
        none_held_out, np.nextafter(split.before, -np.inf) if np.isfinite(split.before) else np.inf, cutoff_U
    )


def _held_out_keys(split: Split, n_items: int) -> Ints:
    """`user * n_items + item` of every held-out item."""
    return np.concatenate(
        [np.repeat(np.arange(len(part)), np.diff(part.offsets)) * n_items + part.items for part in split.held_out]
    )


def _one_blank_row() -> Feedback:
    none = np.zeros(1, dtype=np.bool_)
    zero = np.zeros(1, dtype=np.int64)
    return Feedback(np.array([0, 1]), zero, np.zeros(1), none, none, none, np.full(1, np.nan))
