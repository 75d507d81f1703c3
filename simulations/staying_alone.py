"""Staying alone: what each partner would have without the federation, from its own users' train rows and no others.

Nothing leaves a partner here, so nothing has a price: its own counts are exact. Two systems are compared on the
partner's own validation items, and the better one is what joining has to beat:

    free_content_with_prior   the free content profile with the partner's own popularity
    ease                      `simulations.rivals.local_only` over EASE (Steck, WWW 2019) with the l2 of the baseline

EASE is left out where the baselines leave it out: above `MAX_ITEMS` items. At a draw, and without validation items, the
content profile is taken, which needs no pairs of items. Users are asked with the same histories as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mmrec_model.collaboration.popularity import popularity_prior
from mmrec_model.config import RunConfig
from mmrec_model.evaluation.baselines import MAX_ITEMS, Scores
from mmrec_model.evaluation.ranking import Ints, Ranks, Scorer, ranking_metrics
from mmrec_model.ladder import SAFE
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.state import model_of_state, state_of_rung
from mmrec_model.protocol import Arrays
from simulations.assessment import FLOORS
from simulations.panels import Panel
from simulations.rivals.interface import federation_of, visitors_of
from simulations.rivals.item_similarity import Ease
from simulations.rivals.local_only import LocalOnly

METRIC: Final = "ndcg_at_10"
FREE, EASE_ALONE = FLOORS[SAFE], Ease().name


@dataclass(frozen=True)
class AtHome:
    """What the partners have alone.

    Attributes:
        chosen: by partner number, the better system on its own validation items.
        validation: by partner number, ndcg@10 of each system there; a partner without validation items is absent.
        test: ranks of the test panel, each user answered by what the own partner chose.
        left_out: system -> why no partner was offered it.
    """

    chosen: Mapping[int, str]
    validation: Mapping[int, Mapping[str, float]]
    test: Ranks
    left_out: Mapping[str, str]


def stay_alone(config: RunConfig, items: Items, validation: Panel, test: Panel, state: Arrays) -> AtHome:
    """Let every partner choose what it would use alone, and rank the test users with it.

    Args:
        config: the run; of its model only what costs nothing is read.
        items: the whole catalogue.
        validation: what chooses; of the same federation as `test`.
        test: looked at with the choice alone.
        state: any global state of the run.
    """
    numbers = [int(number) for number in np.unique(test.train_partner_A)]
    own = _OwnProfiles(model_of_state(config, state_of_rung(config, state, SAFE)), items, test)
    offered = {FREE: own.scorer(validation, numbers)}
    fitted = None
    if test.task.n_items <= MAX_ITEMS:
        fitted = LocalOnly(Ease()).fit(federation_of(test), config.seed)
        offered[EASE_ALONE] = fitted.scorer(visitors_of(validation))
    ranked = {name: validation.rank(scores) for name, scores in offered.items()}
    found: dict[int, dict[str, float]] = {}
    for number in np.unique(validation.partner_U).tolist():
        mine = validation.partner_U == number
        found[number] = {name: ranking_metrics(ranks.take(mine))[METRIC] for name, ranks in ranked.items()}
    chosen = dict.fromkeys(numbers, FREE) | {n: max(values, key=values.__getitem__) for n, values in found.items()}
    asked = {FREE: own.scorer(test, [number for number in numbers if chosen[number] == FREE])}
    if fitted is not None:
        asked[EASE_ALONE] = fitted.scorer(visitors_of(test))
    ranks = test.rank(at_partners(test, {number: asked[name] for number, name in chosen.items()}))
    reason = f"{test.task.n_items:,} items, of at most {MAX_ITEMS:,} all pairs are compared"
    return AtHome(chosen, found, ranks, {} if fitted is not None else {EASE_ALONE: reason})


@dataclass(frozen=True)
class _OwnProfiles:
    """The free rung with each partner's own popularity."""

    model: RecommenderNetwork
    items: Items
    learned: Panel

    def scorer(self, panel: Panel, numbers: Sequence[int]) -> Scorer:
        """These partners' users on a panel."""
        own: dict[int, Scorer] = {}
        for number in numbers:
            rows = self.learned.train[self.learned.train_partner_A == number]
            prior_N = popularity_prior(np.asarray(rows.sum(axis=0), dtype=np.float64).ravel(), noise_sd=0.0)
            own[number] = panel.model_scorer(self.model, self.items.with_prior(prior_N))
        return at_partners(panel, own)


def at_partners(panel: Panel, scorers: Mapping[int, Scorer]) -> Scorer:
    """Each user of a panel is answered by the own partner's scorer."""

    def answer(users_B: Ints) -> Scores:
        partner_B = panel.partner_U[users_B]
        scores_BN = np.zeros((len(users_B), panel.task.n_items), dtype=np.float32)
        for number in np.unique(partner_B):
            mine = np.flatnonzero(partner_B == number)
            scores_BN[mine] = scorers[int(number)](users_B[mine])
        return scores_BN

    return answer
