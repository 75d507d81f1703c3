"""Which of a user's items are trained on, which validate and which test, by a rule or as the folder pins it.

A user's positive rows are ordered by time, ties by sha1("user_id|item_id"), so that neither file order nor item id
decides what is last. A repeated item counts once, at its first time: asking for an item that the user already has
is no recommendation, and full ranking takes the user's train items out of the candidates. The distinct items are
divided by a `SplitRule`, leave-last-out by default; users with fewer than 3 are all train under the rules that go by
user. Items that the rule holds out on purpose are in none of the parts but `cold_items`.

A split pinned in the column `loo` is taken as it is where no rule is asked for, with one or several items per part;
a rule that is asked for replaces it, and a notice says so. Where it pins a held-out item that an earlier part of the
user also holds, no candidate list can contain it: it is left out, and a notice counts the users.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmrec_model.data.histories import Histories
from mmrec_model.data.interactions import Interactions
from mmrec_model.data.schema import SPLITS
from mmrec_model.data.split_rules import SplitRule, cold_items

_TRAIN, _VAL, _TEST, _COLD = range(len(SPLITS))
_NO_ITEM = -1
_SMALLEST_SPLIT_USER = 3
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Split:
    """Items of U users by part, each in time order and in one part only.

    Attributes:
        train: what is learned from.
        val_items: held out for choosing.
        test_items: held out for the final figure.
        cold_items: of the user's items those that no partner trains on, where the rule holds items out.
        notices: what the reader should know.
        before: Unix seconds from which on nothing is trained; infinite for rules that go by user.
    """

    train: Histories
    val_items: Histories
    test_items: Histories
    cold_items: Histories
    notices: tuple[str, ...] = ()
    before: float = float("inf")

    @property
    def held_out(self) -> tuple[Histories, Histories, Histories]:
        """All parts that are not trained on."""
        return self.val_items, self.test_items, self.cold_items


def split_interactions(rows: Interactions, item_ids: tuple[str, ...], rule: SplitRule | None = None) -> Split:
    """Split the positive rows.

    Args:
        rows: usable rows.
        item_ids: the catalogue.
        rule: how; by default as the file pins, and leave-last-out where it pins nothing.
    """
    order = _time_order(rows, item_ids)
    if rows.splits_R is not None and rule is None:
        return _assembled(rows, order, rows.splits_R[order], ())
    first = order[_first_times(rows.users_R[order], rows.items_R[order])]
    rule = rule or SplitRule()
    parts = np.full(len(first), _COLD, dtype=np.int64)
    warm = ~np.isin(rows.items_R[first], cold_items(item_ids, rule.cold_share, rule.cold_seed))
    parts[warm] = _parts(rows, first[warm], rule)
    notices = () if rows.splits_R is None else (f"{rows.file}: the pinned split is replaced by {rule}, as asked",)
    return _assembled(rows, first, parts, notices, before=rule.moments[0] if rule.moments else float("inf"))


def first_items(histories: Histories) -> NDArray[np.int64]:
    """The earliest item of each user [U], -1 for a user without one."""
    first_U = np.full(len(histories), _NO_ITEM, dtype=np.int64)
    some = np.diff(histories.offsets) > 0
    first_U[some] = histories.items[histories.offsets[:-1][some]]
    return first_U


def part_of_rows(rows: Interactions, split: Split) -> NDArray[np.int64]:
    """The part (index into `schema.SPLITS`) of each row's user and item [R]; -1 for an impression, or in no part."""
    width = int(rows.items_R.max(initial=0)) + 1
    part_R = np.full(len(rows.users_R), _NO_ITEM, dtype=np.int64)
    keys_R = rows.users_R * width + rows.items_R
    for part, histories in enumerate((split.train, *split.held_out)):
        owners = np.repeat(np.arange(len(histories)), np.diff(histories.offsets))
        part_R[np.isin(keys_R, owners * width + histories.items)] = part
    return np.where(rows.positive_R, part_R, _NO_ITEM)


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


def _parts(rows: Interactions, first: NDArray[np.int64], rule: SplitRule) -> NDArray[np.int64]:
    """Part of every distinct item, given by its first row, in the order of user and time."""
    if rule.moments is not None:
        return np.searchsorted(np.asarray(rule.moments), rows.seconds_R[first], side="right").astype(np.int64)
    users = rows.users_R[first]
    counts_U = np.bincount(users, minlength=len(rows.user_ids))
    from_end = np.cumsum(counts_U)[users] - 1 - np.arange(len(users))
    test_U, val_U = np.ones_like(counts_U), np.ones_like(counts_U)
    if rule.name == "user-time":
        val_share, test_share = rule.shares
        test_U = np.clip(np.floor(test_share * counts_U + _ROUNDING).astype(np.int64), 1, np.maximum(counts_U - 2, 1))
        most_U = np.maximum(counts_U - test_U - 1, 1)
        val_U = np.clip(np.floor(val_share * counts_U + _ROUNDING).astype(np.int64), 1, most_U)
    parts = np.where(from_end < (test_U + val_U)[users], _VAL, _TRAIN)
    parts[from_end < test_U[users]] = _TEST
    parts[counts_U[users] < _SMALLEST_SPLIT_USER] = _TRAIN
    return parts


def _assembled(
    rows: Interactions,
    order: NDArray[np.int64],
    parts: NDArray[np.int64],
    notices: tuple[str, ...],
    before: float = float("inf"),
) -> Split:
    """The parts as histories; an item counts in the first part that holds it."""
    n_users, width = len(rows.user_ids), int(rows.items_R.max(initial=0)) + 1
    seen = np.zeros(0, dtype=np.int64)
    histories = []
    for part, name in enumerate(SPLITS):
        chosen = order[parts == part]
        chosen = chosen[_first_times(rows.users_R[chosen], rows.items_R[chosen])]
        keys = rows.users_R[chosen] * width + rows.items_R[chosen]
        lost = np.isin(keys, seen)
        if lost.any():
            users = len(np.unique(rows.users_R[chosen[lost]]))
            told = f"{rows.file}: {users:,} users have a pinned {name} item that an earlier split of theirs also holds"
            notices = (*notices, f"{told}; it cannot be ranked, so it is no {name} item of theirs")
        seen = np.concatenate([seen, keys[~lost]])
        histories.append(Histories.grouped(rows.users_R[chosen[~lost]], rows.items_R[chosen[~lost]], n_users))
    train, val, test, cold = histories
    return Split(train, val, test, cold, notices, before)
