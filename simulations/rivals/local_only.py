"""Staying alone: each partner learns from its own users' rows and answers its own users alone.

Nothing leaves a partner, so there is no price. What joining is worth to a partner is measured against this. The inner
rival, such as EASE or item-kNN, has the same settings at every partner; a user of a partner without train rows gets
equal scores, hence a random order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmrec_model.evaluation.baselines import Scores
from mmrec_model.evaluation.ranking import Ints, Scorer
from simulations.progress import Progress
from simulations.rivals.interface import UNKNOWN, Federation, Fitted, Rival, Visitors, unheard


@dataclass(frozen=True)
class LocalOnly:
    """One rival per partner.

    Attributes:
        inner: what every partner uses.
    """

    inner: Rival

    @property
    def name(self) -> str:
        """What results are listed under."""
        return f"local_{self.inner.name}"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> AtPartners:
        """Let every partner learn from its own rows.

        Raises:
            DataError: the inner rival cannot learn from a partner's rows.
        """
        numbers = np.unique(federation.partner_A)
        fitted: dict[int, Fitted] = {}
        places_A = np.full(len(federation.partner_A), UNKNOWN, dtype=np.int64)
        for done, number in enumerate(numbers):
            mine = np.flatnonzero(federation.partner_A == number)
            places_A[mine] = np.arange(len(mine))
            own = Federation(federation.train[mine], federation.partner_A[mine], federation.items)
            fitted[int(number)] = self.inner.fit(own, seed)
            progress(self.name, done + 1, len(numbers))
        return AtPartners(fitted, federation.partner_A, places_A, federation.n_items)


@dataclass(frozen=True, eq=False)
class AtPartners:
    """What every partner has learned.

    Attributes:
        fitted: by the partner's number.
        partner_A: partner of each train row of the federation.
        places_A: row of each train row of the federation among its partner's own rows.
        n_items: items of the catalogue.
    """

    fitted: Mapping[int, Fitted]
    partner_A: Ints
    places_A: Ints
    n_items: int

    def scorer(self, visitors: Visitors) -> Scorer:
        """Each user's scores come from the user's partner."""
        asked: dict[int, Scorer] = {}
        places_U = np.zeros(len(visitors.partner_U), dtype=np.int64)
        for number in np.unique(visitors.partner_U):
            mine = np.flatnonzero(visitors.partner_U == number)
            places_U[mine] = np.arange(len(mine))
            if int(number) in self.fitted:
                asked[int(number)] = self.fitted[int(number)].scorer(self._at_home(visitors.take(mine), int(number)))
        return lambda users_B: self._answer(asked, visitors.partner_U[users_B], places_U[users_B])

    def _at_home(self, users: Visitors, number: int) -> Visitors:
        """The same users with their rows among the partner's own; a user trained elsewhere is unknown here."""
        rows_U = users.train_rows_U
        here_U = (rows_U != UNKNOWN) & (self.partner_A[rows_U] == number)
        return Visitors(users.rows, users.partner_U, np.where(here_U, self.places_A[rows_U], UNKNOWN))

    def _answer(self, asked: Mapping[int, Scorer], partner_B: Ints, places_B: Ints) -> Scores:
        scores_BN = np.zeros((len(partner_B), self.n_items), dtype=np.float32)
        for number in np.unique(partner_B):
            if int(number) in asked:
                mine = np.flatnonzero(partner_B == number)
                scores_BN[mine] = asked[int(number)](places_B[mine])
        return scores_BN
