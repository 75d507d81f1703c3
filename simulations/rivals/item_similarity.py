"""EASE and item-kNN over all partners' rows in one place: the strongest rivals without privacy on most sets.

The methods, their sources and the limit `MAX_ITEMS` are those of `mmrec_model.evaluation.baselines`; here they get the
interface of the rivals. A user is the history row that asks, known or not.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmrec_model.evaluation import baselines
from mmrec_model.evaluation.baselines import Recommender
from mmrec_model.evaluation.ranking import Scorer
from simulations.progress import Progress
from simulations.rivals.interface import Federation, Visitors, unheard


@dataclass(frozen=True)
class FromRows:
    """A fitted baseline that scores history rows."""

    recommender: Recommender

    def scorer(self, visitors: Visitors) -> Scorer:
        """Scores from the history rows alone."""
        return baselines.scorer(self.recommender, visitors.rows)


@dataclass(frozen=True)
class Ease:
    """Steck, WWW 2019.

    Attributes:
        l2: ridge penalty, above 0.
    """

    l2: float = 300.0

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "ease"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> FromRows:
        """Solve.

        Raises:
            DataError: more than `MAX_ITEMS` items.
        """
        del seed, progress
        return FromRows(baselines.EASE(self.l2).fit(federation.train))


@dataclass(frozen=True)
class ItemKnn:
    """Sarwar et al., WWW 2001, with shrinkage.

    Attributes:
        neighbours: similar items kept per scored item.
        shrink: added to the product of norms.
    """

    neighbours: int = 200
    shrink: float = 10.0

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "item_knn"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> FromRows:
        """Compare all pairs of items.

        Raises:
            DataError: more than `MAX_ITEMS` items.
        """
        del seed, progress
        return FromRows(baselines.ItemKNN(self.neighbours, self.shrink).fit(federation.train))
