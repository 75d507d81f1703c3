"""The metrics release: how well the global model ranks the partner's validation items, as one noised sum.

A user's vector holds the plan's m metrics of the user's own validation item, each in [0, 1], and the number 1; that of
a user without a validation item is zero. So one user's whole data moves the sum by at most sqrt(m + 1) in L2 norm. All
users count, none is sampled, and nothing is divided by a private number: how many were evaluated is the last number of
the sum, noised like the others. No loss, rank or list leaves, and a user whose scores are not numbers stops nothing.

The protocol is that of docs/evaluation.md: the history is the train items, every other item is a candidate, and ties
are broken by a draw that belongs to the user and is new in every release.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from client.training import global_model
from mmrec_model.config import RunConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.evaluation.ranking import Ints, RankingTask, per_user, ranks
from mmrec_model.model.items import Items
from mmrec_model.model.scoring import encode_catalogue, score_catalogue
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import Arrays

HistoryScorer: TypeAlias = Callable[[Ints, Sequence[Ints]], npt.NDArray[np.float32]]
"""From the rows of B users and their histories to scores [B, N]."""

CHUNK = 256
"""Users whose scores over the catalogue are held in memory at once."""


def sensitivity(evaluation: EvaluationConfig) -> float:
    """L2 bound of one user's vector."""
    return math.sqrt(len(evaluation.metrics) + 1)


def measure(
    config: RunConfig,
    catalogue: Items,
    dataset: PartnerDataset,
    state: Arrays,
    noise: GaussianNoise,
    *,
    encoder_source: str | None = None,
    own: Items | None = None,
) -> npt.NDArray[np.float32]:
    """Noised sums `[m + 1]`: the plan's metrics in their order, then the number of evaluated users.

    Args:
        config: the approved run.
        catalogue: all items, without prior.
        dataset: the partner's users.
        state: the global arrays: the trained ones and `prior`.
        noise: source of the noise and of the draws that break ties.
        encoder_source: where this machine has the text encoder, in a scope that trains it.
        own: own media of the users `[U]`, in a run that reads them.

    Raises:
        ProtocolError: the state has no prior of one number per item.
        ModelError: the state does not fit the model.
        EncoderError: the text encoder cannot be loaded.
    """
    score, evaluation = state_scorer(config, catalogue, state, encoder_source, own), config.evaluation
    total: npt.NDArray[np.float64] = user_vectors(evaluation, dataset, score, seed=noise.integer()).sum(axis=0)
    if config.privacy.mechanism == "gaussian":
        total += noise.draw(total.size, evaluation.noise_multiplier * sensitivity(evaluation))
    return total.astype(np.float32)


def state_scorer(
    config: RunConfig, catalogue: Items, state: Arrays, encoder_source: str | None, own: Items | None
) -> HistoryScorer:
    """Scores of a partner's users under a global state; arguments and errors as of `measure`."""
    model, items = global_model(config, catalogue, state, encoder_source)
    items = encode_catalogue(model, items)

    def score(users: Ints, histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        # A score that is not a number would end the release, which would tell of the user: it counts as the worst.
        media = None if own is None else own.take(torch.from_numpy(users).unsqueeze(1))
        scores_BN: npt.NDArray[np.float32] = score_catalogue(model, items, histories, media)
        scores_BN[np.isnan(scores_BN)] = -np.inf
        return scores_BN

    return score


def user_vectors(
    evaluation: EvaluationConfig, dataset: PartnerDataset, score: HistoryScorer, *, seed: int
) -> npt.NDArray[np.float64]:
    """What each user adds to the sum, `[U, m + 1]`; before noise, so it stays at the partner.

    Args:
        evaluation: the metrics.
        dataset: the partner's U users.
        score: from B users and their histories to scores [B, N], without NaN.
        seed: of the draws that break ties.
    """
    evaluated = np.flatnonzero(dataset.val >= 0).astype(np.int64)
    targets_E = dataset.val[evaluated]
    histories = [dataset.train.of(int(user)) for user in evaluated]
    histories = [history[history != target] for history, target in zip(histories, targets_E, strict=True)]
    n_items = len(dataset.catalogue)
    task = RankingTask.from_histories(histories, targets_E, n_items=n_items, luck_rows_U=evaluated)
    found = ranks(lambda rows: score(evaluated[rows], [histories[row] for row in rows]), task, seed=seed, chunk=CHUNK)
    vectors = np.zeros((len(dataset), len(evaluation.metrics) + 1))
    vectors[evaluated] = np.stack([*(per_user(found, name) for name in evaluation.metrics), np.ones(len(evaluated))], 1)
    return vectors
