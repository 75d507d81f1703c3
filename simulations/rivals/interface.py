"""One way in for every rival: what it may learn from, whom it is asked about, how it answers.

Promises:
1. Every rival gets the same inputs: train rows of all users of the federation, the number of each user's partner, item
   features where it reads them, a seed and somebody to tell how far it is. Which of them it uses is its own matter.
2. Every rival is asked in the same way: the history rows of the users of a panel, who may be unknown to it.
3. A rival is a frozen dataclass of its settings, so that a grid is a list of rivals and a record can name them.

Legend: A all users of the federation, U users who are evaluated, B users of a chunk, N items, D width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError
from mmrec_model.evaluation.baselines import Csr
from mmrec_model.evaluation.ranking import Ints, Ranks, Scorer
from mmrec_model.model.items import Items
from simulations.progress import Progress

UNKNOWN = -1
"""Train row of a user who has none."""


def unheard(stage: str, done: int, total: int, unreadable: int = 0) -> None:
    """The progress of work that nobody waits for."""
    del stage, done, total, unreadable


@dataclass(frozen=True, eq=False)
class Federation:
    """What there is to learn from.

    Attributes:
        train: train rows of all users `[A, N]`; a positive cell counts as 1.
        partner_A: number of each user's partner.
        items: the whole catalogue with its frozen vectors; None where there are none, which VBPR refuses.

    Raises:
        DataError: the numbers of users or items differ.
    """

    train: Csr
    partner_A: Ints
    items: Items | None = None

    def __post_init__(self) -> None:
        users, n_items = self.train.shape
        described = n_items if self.items is None else len(self.items.prior)
        if len(self.partner_A) != users or described != n_items:
            raise DataError(
                f"{users} users and {n_items} items to learn from, but {len(self.partner_A)} partners and {described} "
                "described items",
                remedy="Give one partner per train row and the features of the whole catalogue",
            )

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return int(self.train.shape[1])

    @property
    def partners(self) -> int:
        """Number of partners that have users."""
        return int(np.unique(self.partner_A).size)


@dataclass(frozen=True, eq=False)
class Visitors:
    """Users who ask for a list.

    Attributes:
        rows: history rows `[U, N]`: the input of the request, train items and at test time the validation item.
        partner_U: number of each user's partner.
        train_rows_U: row of `Federation.train` of each user; `UNKNOWN` for a user who is not there.
    """

    rows: Csr
    partner_U: Ints
    train_rows_U: Ints

    def take(self, index: Ints) -> Visitors:
        """Some of them."""
        return Visitors(self.rows[index], self.partner_U[index], self.train_rows_U[index])


class Fitted(Protocol):
    """A rival that has learned."""

    def scorer(self, visitors: Visitors) -> Scorer:
        """Scores `[B, N]` of rows of `visitors`, float32, larger is better."""


class Rival(Protocol):
    """Settings, and how to learn with them; every implementation is a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """What results are listed under."""

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> Fitted:
        """Learn; the same federation and seed give the same scores.

        Raises:
            DataError: the rival cannot learn from this federation.
        """


class Assessed(Protocol):
    """What is needed of a panel; `simulations.assessment.Panel` has it."""

    @property
    def train(self) -> Csr:
        """Train rows of all users of the federation."""

    @property
    def train_partner_A(self) -> Ints:  # noqa: N802 - names wear shapes
        """Partner of each of them."""

    @property
    def rows(self) -> Csr:
        """History rows of the panel's users."""

    @property
    def partner_U(self) -> Ints:  # noqa: N802 - names wear shapes
        """Partner of each of them."""

    @property
    def train_rows_U(self) -> Ints:  # noqa: N802 - names wear shapes
        """Train row of each of them."""

    def rank(self, scores: Scorer) -> Ranks:
        """Rank every user's held-out item."""


def federation_of(panel: Assessed, items: Items | None = None) -> Federation:
    """What the panel's federation can learn from."""
    return Federation(panel.train, panel.train_partner_A, items)


def visitors_of(panel: Assessed) -> Visitors:
    """The panel's users."""
    return Visitors(panel.rows, panel.partner_U, panel.train_rows_U)


def ranks_of(rival: Rival, panel: Assessed, items: Items | None, seed: int, progress: Progress = unheard) -> Ranks:
    """Fit a rival on the panel's federation and rank the held-out items of the panel's users.

    Raises:
        DataError: the rival cannot learn from this federation.
    """
    fitted = rival.fit(federation_of(panel, items), seed, progress)
    return panel.rank(fitted.scorer(visitors_of(panel)))


@dataclass(frozen=True, eq=False)
class SameForAll:
    """One list of scores `[N]` for everyone."""

    scores_N: npt.NDArray[np.float32]

    def scorer(self, visitors: Visitors) -> Scorer:
        """The scores, once per row."""
        del visitors
        return lambda users_B: np.broadcast_to(self.scores_N, (len(users_B), self.scores_N.size))
