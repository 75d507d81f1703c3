"""Leave-last-out: which of a user's items are trained on, which one validates and which one tests.

A user's positive rows are ordered by time, ties by sha1("user_id|item_id"), so that neither file order nor item id
decides what is last. A repeated item counts once, at its first time: asking for an item that the user already has
is no recommendation, and full ranking takes the user's train items out of the candidates. Of these distinct items
the last is test, the second last validation, the rest train; users with fewer than 3 are all train.

A split pinned in the column `loo` is taken as it is. Where it pins a held-out item that the user's train rows also
hold, no candidate list can contain it: that user has no held-out item for this split (-1), and a notice counts it.
The same holds for a test item that is also the validation item.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmrec_model.data.histories import Histories
from mmrec_model.data.interactions import Interactions
from mmrec_model.data.schema import SPLITS
from mmrec_model.errors import DataError

_TRAIN, _VAL, _TEST = range(len(SPLITS))
_NO_ITEM = -1
_SMALLEST_SPLIT_USER = 3


@dataclass(frozen=True)
class Split:
    """Train histories of U users, and the held-out item of each [U], -1 where there is none."""

    train: Histories
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    notices: tuple[str, ...]


def split_interactions(rows: Interactions, item_ids: tuple[str, ...]) -> Split:
    """Split the positive rows: pinned where the file pins, leave-last-out elsewhere.

    Raises:
        DataError: the pinned split holds out more than one row of a user.
    """
    order = _time_order(rows, item_ids)
    if rows.splits_R is None:
        return _leave_last_out(rows.users_R[order], rows.items_R[order], len(rows.user_ids))
    return _pinned(rows, rows.splits_R, order)


def _time_order(rows: Interactions, item_ids: tuple[str, ...]) -> NDArray[np.int64]:
    """Positions of the positive rows by user, time, and sha1 where the time is the same."""
    positives = np.flatnonzero(rows.positive_R)
    users, seconds = rows.users_R[positives], rows.seconds_R[positives]
    order = np.lexsort((seconds, users))
    tied = (users[order][1:] == users[order][:-1]) & (seconds[order][1:] == seconds[order][:-1])
    if not tied.any():
        return positives[order]
    places = order[np.append(tied, [False]) | np.append([False], tied)]
    digests = [
        hashlib.sha1(f"{rows.user_ids[rows.users_R[row]]}|{item_ids[rows.items_R[row]]}".encode()).digest()  # noqa: S324
        for row in positives[places]
    ]
    rank = np.zeros(len(positives), dtype=np.int64)
    rank[places[sorted(range(len(places)), key=digests.__getitem__)]] = np.arange(len(places))
    return positives[np.lexsort((rank, seconds, users))]


def _first_times(users_R: NDArray[np.int64], items_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the first row of each (user, item), in the given order."""
    width = int(items_R.max(initial=0)) + 1
    return np.sort(np.unique(users_R * width + items_R, return_index=True)[1])


def _leave_last_out(users_R: NDArray[np.int64], items_R: NDArray[np.int64], n_users: int) -> Split:
    first = _first_times(users_R, items_R)
    users_R, items_R = users_R[first], items_R[first]
    counts = np.bincount(users_R, minlength=n_users)
    ends = np.cumsum(counts)
    from_end_R = ends[users_R] - 1 - np.arange(len(users_R))
    long_R = counts[users_R] >= _SMALLEST_SPLIT_USER
    held_out = []
    for place in (1, 0):
        chosen = long_R & (from_end_R == place)
        item = np.full(n_users, _NO_ITEM, dtype=np.int64)
        item[users_R[chosen]] = items_R[chosen]
        held_out.append(item)
    train = ~long_R | (from_end_R > 1)
    return Split(Histories.grouped(users_R[train], items_R[train], n_users), held_out[0], held_out[1], ())


def _pinned(rows: Interactions, splits_R: NDArray[np.int64], order: NDArray[np.int64]) -> Split:
    n_users = len(rows.user_ids)
    trained = order[splits_R[order] == _TRAIN]
    trained = trained[_first_times(rows.users_R[trained], rows.items_R[trained])]
    train = Histories.grouped(rows.users_R[trained], rows.items_R[trained], n_users)
    held_out = [_held_out(rows, order[splits_R[order] == split], SPLITS[split]) for split in (_VAL, _TEST)]
    val, test = held_out
    notices = []
    test_is_val = (test == val) & (test != _NO_ITEM)
    for name, item, lost in (("val", val, _in_train(val, train)), ("test", test, _in_train(test, train) | test_is_val)):
        if lost.any():
            item[lost] = _NO_ITEM
            notices.append(
                f"{rows.file}: {int(lost.sum()):,} users have a pinned {name} item that an earlier split of theirs "
                f"also holds; it cannot be ranked, so they have no {name} item"
            )
    return Split(train, val, test, tuple(notices))


def _held_out(rows: Interactions, chosen: NDArray[np.int64], split: str) -> NDArray[np.int64]:
    counts = np.bincount(rows.users_R[chosen], minlength=len(rows.user_ids))
    if counts.max(initial=0) > 1:
        user = int(np.flatnonzero(counts > 1)[0])
        places = ", ".join(str(row) for row in np.sort(rows.rows_R[chosen[rows.users_R[chosen] == user]])[:5])
        raise DataError(
            f"{rows.file}, column 'loo': user {rows.user_ids[user]!r} has {counts[user]} {split} rows "
            f"(rows {places}), and 1 is the limit",
            remedy="Pin one row per user, or leave the column out and let the split be computed",
        )
    item = np.full(len(rows.user_ids), _NO_ITEM, dtype=np.int64)
    item[rows.users_R[chosen]] = rows.items_R[chosen]
    return item


def _in_train(held_out: NDArray[np.int64], train: Histories) -> NDArray[np.bool_]:
    owners_R = np.repeat(np.arange(len(train)), np.diff(train.offsets))
    hit = np.zeros(len(train), dtype=np.bool_)
    hit[owners_R[train.items == held_out[owners_R]]] = True
    return hit
