"""Whom the bounds of a release cut, by how active the users are: exact figures for the partner's own eyes alone.

A bound that nobody meets buys noise for nothing; one that cuts the active users unlearns them. Which of the two it is
only the partner can see: the figures go into its diary (`Site.note`) and into no reply. The groups are public and
fixed, by distinct train items of a user; who has none is in no group.

    popularity    users with more items than the cap in force
    pairs         users with more selected items than the plan counts
    train         gradients of users, over the steps of a round, that were longer than the clip
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmrec_model.data.histories import Histories

GROUPS: Final = ("1-2", "3-5", "6-10", "11-20", "21+")
"""Users by distinct train items."""
PRIVATE: Final = "These shares are of your own users and without noise. They are private: do not share them."
_LAST = (2, 5, 10, 20)
_CUT = "cut"

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """How many users each group has, and how many of them the bound cut. Not noised: it must never leave.

    Attributes:
        users: by group, in the order of `GROUPS`; of a training round, users of all its steps.
        cut: those beyond the bound.
    """

    users: tuple[int, ...]
    cut: tuple[int, ...]

    @classmethod
    def of(cls, lengths_U: Ints, cut_U: Flags) -> Cut:
        """Users by the length of their histories, and whether each is beyond the bound."""
        group_U, known_U = np.searchsorted(_LAST, lengths_U), lengths_U > 0
        users, cut = (np.bincount(group_U[kept], minlength=len(GROUPS)) for kept in (known_U, known_U & cut_U))
        return cls(tuple(map(int, users)), tuple(map(int, cut)))

    @classmethod
    def together(cls, parts: Sequence[Cut]) -> Cut:
        """The sum over steps."""
        users, cut = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("users", "cut"))
        return cls(tuple(map(int, users)), tuple(map(int, cut)))

    @property
    def shares(self) -> list[float | None]:
        """Share of each group that is beyond the bound, 0..1; None for a group without users."""
        return [cut / users if users else None for cut, users in zip(self.cut, self.users, strict=True)]

    def to_json(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """What a diary line holds."""
        return {_CUT: asdict(self)}


def cut_items(train: Histories, most: int, counted: npt.NDArray[np.floating] | None = None) -> Cut:
    """The users with more than `most` items.

    Args:
        train: the partner's train histories.
        most: the bound.
        counted: places of the items that count; all by default.
    """
    lengths_U, own_U = np.diff(train.offsets), np.diff(train.offsets)
    if counted is not None:
        owners_R = np.repeat(np.arange(len(train)), lengths_U)
        own_U = np.bincount(owners_R[np.isin(train.items, counted.astype(np.int64))], minlength=len(train))
    return Cut.of(lengths_U, own_U > most)


def latest(diary: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last cut of each release that the diary tells of: run, round, users, cut and shares by group."""
    found: dict[str, dict[str, Any]] = {}
    for entry in diary:
        if _CUT in entry:
            cut = Cut(tuple(entry[_CUT]["users"]), tuple(entry[_CUT]["cut"]))
            place = {"run_id": entry["run_id"], "round": entry["round"]}
            found[str(entry["kind"])] = {**place, **asdict(cut), "shares": cut.shares}
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows for the screen: a header, then one row per group with the share that each release cut, of how many users."""
    rows = [("train items", *(f"{kind}, round {one['round']}" for kind, one in found.items()))]
    for place, group in enumerate(GROUPS):
        rows.append((group, *(_cell(one["shares"][place], one["users"][place]) for one in found.values())))
    return rows


def _cell(share: float | None, users: int) -> str:
    return "-" if share is None else f"{share:.0%} of {users:,}"
