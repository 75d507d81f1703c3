"""What is ranked and what came of it: held-out items of every user against the whole catalogue, and their places.

One held-out item per user is the plain case, and its figures do not depend on the other one having been added. Several
per user are held as rows `[offsets[u], offsets[u + 1])` of one flat axis T, in the order in which they were given.

Legend: U users, N items, T held-out items of all users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]


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
    """Held-out items of each user, ranked against the whole catalogue.

    Attributes:
        targets_U: the held-out item of each user, 0..n_items-1; the first one where there are several.
        excluded: the items of each user that are no candidates; never a target.
        n_items: size of the catalogue.
        luck_rows_U: the number from 0 on that a user's draws depend on, so that they do not depend on which other users
            have a held-out item; None for the user's row in this task.
        offsets: [U + 1], user u owns the targets `offsets[u]:offsets[u + 1]` of `items_T`; None for one target each.
        items_T: all targets, the first of each user being that of `targets_U`; distinct within a user.

    Raises:
        DataError: lengths differ, an item is outside the catalogue, or a target is excluded or repeated.
    """

    targets_U: Ints
    excluded: Excluded
    n_items: int
    luck_rows_U: Ints | None = None
    offsets: Ints | None = None
    items_T: Ints | None = None

    def __post_init__(self) -> None:
        if self.excluded.users != self.users:
            raise DataError(
                f"{self.users} targets but {self.excluded.users} rows of excluded items",
                remedy="Give one row per user, empty if need be",
            )
        self._check_several()
        for name, items in (("target", self.flat_targets), ("excluded item", self.excluded.items)):
            if items.size and (items.min() < 0 or items.max() >= self.n_items):
                raise DataError(
                    f"{name} numbers span {items.min()}..{items.max()}, the catalogue has 0..{self.n_items - 1}",
                    remedy="Number items by their row in the catalogue",
                )
        rows, items = self.excluded.flat(0, self.users)
        keys_T = self.owners * self.n_items + self.flat_targets
        clash = np.flatnonzero(np.isin(rows * self.n_items + items, keys_T))
        if clash.size:
            raise DataError(
                f"{clash.size} targets are excluded themselves, the first in row {rows[clash[0]]}",
                remedy="Keep one interaction per user and item before splitting",
            )
        if np.unique(keys_T).size != keys_T.size:
            raise DataError("a user has one target twice", remedy="Keep one interaction per user and item")

    @classmethod
    def from_histories(
        cls,
        histories: Sequence[Ints],
        targets_U: Ints | Sequence[Ints],
        *,
        n_items: int,
        luck_rows_U: Ints | None = None,
    ) -> RankingTask:
        """A task in which the items of a user's history are no candidates.

        Args:
            histories: items of each user.
            targets_U: the held-out item of each user, or an array of them for each, none empty.
            n_items: size of the catalogue.
            luck_rows_U: as above.

        Raises:
            DataError: as above.
        """
        lengths = np.asarray([len(items) for items in histories], dtype=np.int64)
        users = np.repeat(np.arange(len(histories)), lengths)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
        excluded = Excluded.from_pairs(users, items, n_users=len(histories))
        if isinstance(targets_U, np.ndarray):
            return cls(targets_U, excluded, n_items, luck_rows_U)
        if any(len(row) == 0 for row in targets_U):
            raise DataError("a user has no target", remedy="Leave users without a held-out item out of the task")
        first_U = np.asarray([row[0] for row in targets_U], dtype=np.int64)
        if all(len(row) == 1 for row in targets_U):
            return cls(first_U, excluded, n_items, luck_rows_U)
        offsets = np.cumsum([0, *(len(row) for row in targets_U)]).astype(np.int64)
        return cls(first_U, excluded, n_items, luck_rows_U, offsets, np.concatenate(targets_U).astype(np.int64))

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.targets_U.size)

    @property
    def flat_targets(self) -> Ints:
        """All targets, by user."""
        return self.targets_U if self.items_T is None else self.items_T

    @cached_property
    def owners(self) -> Ints:
        """The user of every target."""
        return _owners(self.offsets, self.users)

    def take(self, rows: Ints) -> RankingTask:
        """The task of some users."""
        _, items = self.excluded.flat(0, self.users)
        return RankingTask.from_histories(
            [items[self.excluded.offsets[row] : self.excluded.offsets[row + 1]] for row in rows],
            self.targets_U[rows] if self.offsets is None else [self.of(int(row)) for row in rows],
            n_items=self.n_items,
            luck_rows_U=None if self.luck_rows_U is None else self.luck_rows_U[rows],
        )

    def of(self, user: int) -> Ints:
        """The targets of one user."""
        if self.offsets is None:
            return self.targets_U[user : user + 1]
        return self.flat_targets[self.offsets[user] : self.offsets[user + 1]]

    def luck(self, seed: int) -> Floats:
        """One draw in [0, 1) per user [U], which puts the target among the items with its score."""
        rows_U = np.arange(self.users) if self.luck_rows_U is None else self.luck_rows_U
        return np.random.default_rng(seed).random(int(rows_U.max(initial=-1)) + 1)[rows_U]

    def further_luck(self, seed: int, user: int) -> Floats:
        """One draw per target of a user; the first is that of `luck`, the others depend on the user's row alone."""
        row = user if self.luck_rows_U is None else int(self.luck_rows_U[user])
        return np.random.default_rng([seed, row]).random(len(self.of(user)))

    def _check_several(self) -> None:
        if (self.offsets is None) != (self.items_T is None):
            raise DataError("several targets need offsets and items", remedy="Use RankingTask.from_histories")
        if self.offsets is None or self.items_T is None:
            return
        fits = self.offsets.size == self.users + 1 and self.offsets[0] == 0 and self.offsets[-1] == self.items_T.size
        if not fits or (np.diff(self.offsets) < 1).any() or (self.items_T[self.offsets[:-1]] != self.targets_U).any():
            raise DataError(
                f"{self.offsets.size} offsets do not divide {self.items_T.size} targets among {self.users} users",
                remedy="Use RankingTask.from_histories",
            )


@dataclass(frozen=True)
class Ranks:
    """Where each user's targets stand.

    Attributes:
        rank_U: 0 is best, candidates - 1 is worst; of several targets the best one's.
        candidates_U: number of items that competed, the targets included.
        offsets: as in the task; None for one target each.
        rank_T: the place of every target, distinct within a user.
    """

    rank_U: Ints
    candidates_U: Ints
    offsets: Ints | None = None
    rank_T: Ints | None = None

    @property
    def places(self) -> Ints:
        """The place of every target, by user."""
        return self.rank_U if self.rank_T is None else self.rank_T

    @cached_property
    def owners(self) -> Ints:
        """The user of every target."""
        return _owners(self.offsets, int(self.rank_U.size))

    def take(self, rows: Ints | Flags) -> Ranks:
        """The ranks of some users: their numbers, or a flag for each."""
        rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, dtype=np.int64)
        if self.offsets is None or self.rank_T is None:
            return Ranks(self.rank_U[rows], self.candidates_U[rows])
        places = [self.rank_T[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        offsets = np.cumsum([0, *(len(each) for each in places)]).astype(np.int64)
        flat = np.concatenate([np.zeros(0, dtype=np.int64), *places])
        return Ranks(self.rank_U[rows], self.candidates_U[rows], offsets, flat)

    def only(self, kept_T: Flags) -> tuple[Ranks, Ints]:
        """The ranks of some targets, and the users [rows] that have one of them."""
        if self.offsets is None:
            users = np.flatnonzero(kept_T)
            return Ranks(self.rank_U[users], self.candidates_U[users]), users
        users, counts = np.unique(self.owners[kept_T], return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = self.places[kept_T]
        best = np.minimum.reduceat(places, offsets[:-1]) if users.size else places
        return Ranks(best, self.candidates_U[users], offsets, places), users


def _owners(offsets: Ints | None, users: int) -> Ints:
    return np.arange(users) if offsets is None else np.repeat(np.arange(users), np.diff(offsets))
