"""The partner's own terms of the score: learned from its own users, weighed by its own validation items.

Nothing here is a release: no noise, no price, and nothing that may leave (`mmrec_model.home_terms` says what it tells
of users). Popularity and pairs are counted as the federation counts them. The weights are those of a small public grid
with the best ndcg@10 on the validation items of at most `MOST_USERS` users; of equal ones the first, which stays
closest to the exported model. Without validation items nothing is added.

Shapes: U users with a validation item, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt

from mmrec_model.collaboration.estimate import Vectors, estimate_weights, select_items
from mmrec_model.collaboration.pairs import sum_pairs
from mmrec_model.collaboration.popularity import popularity_prior
from mmrec_model.data.histories import Histories
from mmrec_model.evaluation.ranking import RankingTask, Scorer, ranking_metrics, ranks
from mmrec_model.home_terms import HistoryScorer, HomeTerms, Ints

METRIC: Final = "ndcg_at_10"
MOST_ITEMS: Final = 4096
"""Own pairs are those of the most popular items; a scorer of more does not fit into a desktop's memory."""
MOST_USERS: Final = 2000
PAIRS_FACTORS: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
PRIOR_FACTORS: Final = (0.0, 0.25, 0.5, 1.0)
"""In units of the typical deviation of the base's scores over the catalogue."""


@dataclass(frozen=True)
class Weighed:
    """What was chosen.

    Attributes:
        terms: with their weights.
        validation: ndcg@10 of the chosen terms, and of the exported model without any.
    """

    terms: HomeTerms
    validation: Mapping[str, float]


def learn_terms(train: Histories, vectors: Vectors, n_items: int) -> HomeTerms:
    """Own popularity and own pairs, with weights of 0.

    Args:
        train: histories of the partner's users.
        vectors: public features by modality `[N, D]`.
        n_items: N.
    """
    everyone = [train.of(user) for user in range(len(train))]
    counts_N = np.zeros(n_items, dtype=np.float64)
    for history in everyone:
        counts_N[np.unique(history)] += 1.0
    prior_N = popularity_prior(counts_N, noise_sd=0.0)
    selected = select_items(prior_N, min(n_items, MOST_ITEMS))
    place_N = np.full(n_items, -1, dtype=np.int64)
    place_N[selected] = np.arange(len(selected))
    longest = max((len(history) for history in everyone), default=1)
    triangle_T = sum_pairs(everyone, place_N, items=len(selected), last=max(1, longest))
    chosen = {name: np.asarray(rows)[selected] for name, rows in vectors.items()}
    found = estimate_weights(triangle_T, chosen, items=len(selected), noise=0.0, noise_penalty=0.0)
    return HomeTerms(prior_N, selected, found.weights_MM)


def weigh_terms(
    terms: HomeTerms, histories: Sequence[Ints], task: RankingTask, exported: HistoryScorer, content: HistoryScorer,
    *, seed: int,
) -> Weighed:  # fmt: skip
    """Choose the weights.

    Args:
        terms: of `learn_terms`.
        histories: train items of the U users.
        task: their validation items.
        exported: the exported model.
        content: its free content profile.
        seed: of the sample of users and of the draws that break ties.
    """
    if not task.users:
        return Weighed(terms, {})
    drawn = np.random.default_rng(seed).choice(task.users, size=min(task.users, MOST_USERS), replace=False)
    users = np.sort(drawn).astype(np.int64)
    asked, shown = task.take(users), [histories[user] for user in users]
    pairs_UN = terms.pairs(shown)
    found: dict[tuple[bool, float, float], float] = {}
    for content_base, base in ((False, exported), (True, content)):
        base_UN = base(shown)
        unit, own = _deviation(base_UN), _deviation(pairs_UN)
        for pairs, prior in product(PAIRS_FACTORS, PRIOR_FACTORS):
            weights = (pairs * unit / own if own else 0.0, prior * unit)
            scores_UN = base_UN + np.float32(weights[0]) * pairs_UN + np.float32(weights[1]) * terms.prior_N
            found.setdefault((content_base, *weights), _quality(_rows(scores_UN), asked, seed))
    best = max(found, key=found.__getitem__)
    chosen = terms.weighing(best[1], best[2], content_base=best[0])
    return Weighed(chosen, {"home": found[best], "exported": found[False, 0.0, 0.0]})


def _quality(scores: Scorer, task: RankingTask, seed: int) -> float:
    return ranking_metrics(ranks(scores, task, seed=seed))[METRIC]


def _rows(scores_UN: npt.NDArray[np.float32]) -> Scorer:
    return lambda users: scores_UN[users]


def _deviation(scores_UN: npt.NDArray[np.float32]) -> float:
    """Typical standard deviation of a user's scores over the catalogue."""
    return float(scores_UN.std(axis=1).mean()) if scores_UN.size else 0.0
