"""The comparison release: how well each rung of the ladder ranks the partner's validation items, as one noised sum.

A user's vector holds the plan's metric of the user's own validation item once for each of the C rungs, each in [0, 1],
and the number 1: at most sqrt(C + 1) in L2 norm. Everything else is as in `client.measurement`. The rungs are those of
`mmrec_model.ladder`: the state that would be exported, with terms switched off and, below `trained`, untrained.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from client.measurement import state_scorer, user_vectors
from mmrec_model.config import RunConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.ladder import rungs_of
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import initial_state
from mmrec_model.model.state import state_of_rung
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import Arrays


def sensitivity(config: RunConfig) -> float:
    """L2 bound of one user's vector."""
    return math.sqrt(len(rungs_of(config)) + 1)


def compare(
    config: RunConfig,
    catalogue: Items,
    dataset: PartnerDataset,
    state: Arrays,
    noise: GaussianNoise,
    *,
    encoder_source: str | None = None,
    own: Items | None = None,
) -> npt.NDArray[np.float32]:
    """Noised sums `[C + 1]`: the metric of each rung from the simplest up, then the number of evaluated users.

    Args:
        config: the approved run.
        catalogue: all items, without prior.
        dataset: the partner's users.
        state: the state that would be exported.
        noise: source of the noise and of the draws that break ties.
        encoder_source: where this machine has the text encoder, in a scope that trains it.
        own: own media of the users `[U]`, in a run that reads them.

    Raises:
        ProtocolError: the state has no prior of one number per item.
        ModelError: the state does not fit the model.
        EncoderError: the text encoder cannot be loaded.
    """
    if config.gate.metric is None:
        raise ValueError("the plan has no gate")
    asked, seed = EvaluationConfig(metrics=(config.gate.metric,)), noise.integer()
    untrained = initial_state(config, encoder_source=encoder_source)
    columns = []
    for rung in rungs_of(config):
        score = state_scorer(config, catalogue, state_of_rung(config, state, rung, untrained), encoder_source, own)
        vectors = user_vectors(asked, dataset, score, seed=seed)
        columns.append(vectors[:, 0])
    total = np.append(np.sum(columns, axis=1), vectors[:, 1].sum())
    if config.privacy.mechanism == "gaussian":
        total += noise.draw(total.size, config.gate.noise_multiplier * sensitivity(config))
    return total.astype(np.float32)
