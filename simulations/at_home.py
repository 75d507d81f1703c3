"""Joining, seen from the partners: the exported model with each partner's own terms, for its own users.

The terms are exact, were made of the partner's own users alone, and never left it (`client.home`), so they have no
price. What joining gives is this minus what the partner would have without the federation
(`simulations.staying_alone`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.home import Weighed, learn_terms, weigh_terms
from mmrec_model.collaboration.estimate import Vectors
from mmrec_model.config import RunConfig
from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.evaluation.ranking import Ranks
from mmrec_model.model.items import Items
from mmrec_model.model.state import model_of_state, state_of_rung
from mmrec_model.protocol import PRIOR, Arrays
from simulations.panels import HistoryScorer, Panel, model_on_histories
from simulations.staying_alone import at_partners


@dataclass(frozen=True)
class Joined:
    """The partners with the federation's model and their own terms.

    Attributes:
        test: ranks of the test panel, each user answered by the own partner.
        weighed: by partner number, the terms and the validation figures that chose their weights.
        scorers: by partner number, from histories of its users to scores.
    """

    test: Ranks
    weighed: Mapping[int, Weighed]
    scorers: Mapping[int, HistoryScorer]

    def rank(self, panel: Panel) -> Ranks:
        """Ranks of another panel of the same federation."""
        return _rank(self.scorers, panel)


def join_at_home(
    config: RunConfig,
    items: Items,
    datasets: Sequence[PartnerDataset],
    validation: Panel,
    test: Panel,
    *,
    state: Arrays,
) -> Joined:
    """Let every partner add its own terms, and rank the test users with them.

    Args:
        config: the run.
        items: the whole catalogue.
        datasets: of the partners, in their order.
        validation: what chooses the weights; of the same federation as `test`.
        test: looked at with the choice alone.
        state: as exported.
    """
    catalogue = items.with_prior(state[PRIOR])
    exported, content = (
        model_on_histories(model_of_state(config, one), catalogue)
        for one in (state, state_of_rung(config, state, "content"))
    )
    vectors: Vectors = {name: rows.numpy() for name, rows in items.only(config.model_dims).vectors.items()}
    weighed: dict[int, Weighed] = {}
    for number, data in enumerate(datasets):
        mine = np.flatnonzero(validation.partner_U == number)
        terms = learn_terms(data.train, vectors, validation.task.n_items)
        histories = [validation.histories[user] for user in mine]
        weighed[number] = weigh_terms(terms, histories, validation.task.take(mine), exported, content, seed=config.seed)
    scorers = {number: one.terms.scorer(exported, content) for number, one in weighed.items()}
    return Joined(_rank(scorers, test), weighed, scorers)


def _rank(scorers: Mapping[int, HistoryScorer], panel: Panel) -> Ranks:
    return panel.rank(at_partners(panel, {number: panel.scorer(score) for number, score in scorers.items()}))
