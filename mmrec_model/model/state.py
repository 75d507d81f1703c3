"""A network and the arrays of a global state: the trained weights, and what travels beside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.config import RunConfig
from mmrec_model.errors import ModelError
from mmrec_model.ladder import TRAINED, kept_terms
from mmrec_model.model.recommender import RecommenderNetwork, build_model, initial_state
from mmrec_model.protocol import (
    COLLABORATIVE,
    FEATURE_MAP,
    KEPT_TERMS,
    METRIC,
    PRIOR,
    SCORER,
    SELECTED,
    Arrays,
    trained_arrays,
)


def model_of_state(config: RunConfig, state: Arrays, *, encoder_source: str | None = None) -> RecommenderNetwork:
    """The network of a run in a global state.

    Args:
        config: the run.
        state: the trained arrays and what travels beside them.
        encoder_source: where this machine has the text encoder, in a scope that trains it.

    Raises:
        ModelError: the state does not fit the configuration.
        EncoderError: the text encoder cannot be loaded.
    """
    model = build_model(config, encoder_source=encoder_source)
    model.load_trainable_state({name: torch.tensor(array) for name, array in trained_arrays(state).items()})
    load_beside(model, state)
    return model


def state_of_rung(config: RunConfig, state: Arrays, rung: str, untrained: Arrays | None = None) -> Arrays:
    """The state of a rung of the ladder: the trained arrays only in `trained`, all beside them in each.

    Args:
        config: the run.
        state: the state that would be exported.
        rung: one of `mmrec_model.ladder.rungs_of`.
        untrained: `initial_state` of the run, for who has it already; a site makes it with its own encoder.
    """
    if rung == TRAINED:
        below: Arrays = {}
    else:
        below = initial_state(config) if untrained is None else untrained
    return {**state, **below, KEPT_TERMS: kept_terms(config, rung)}


def beside_of(model: RecommenderNetwork, prior_N: npt.NDArray[np.float32]) -> Arrays:
    """What travels beside the trained arrays of a loaded model: the prior, and what was made of pairs."""
    found: Arrays = {PRIOR: prior_N}
    if model.pairs_scorer is not None:
        places = model.pairs_scorer.selected
        found[SELECTED] = places.numpy().astype(np.float32)
        found[SCORER] = model.pairs_scorer.weights[: len(places), : len(places)].numpy()
    if model.metric_scorer is not None:
        found[FEATURE_MAP] = model.metric_scorer.feature_map.numpy()
        found[METRIC] = model.metric_scorer.metric.numpy()
    return found


def load_beside(model: RecommenderNetwork, state: Arrays) -> None:
    """Set the collaborative scorer and the switches of the gate, as far as the state has them.

    Raises:
        ModelError: a scorer without its items or a metric without its map, for a model without one, missing from a
            model with one, or damaged.
    """
    expected = {SCORER, SELECTED} if model.pairs_scorer is not None else set()
    expected |= {METRIC, FEATURE_MAP} if model.metric_scorer is not None else set()
    if (found := COLLABORATIVE & set(state)) != expected:
        raise ModelError(
            f"of a scorer of pairs the state has {sorted(found) or 'nothing'}, the model "
            + (f"needs {sorted(expected)}" if expected else "has none"),
            remedy="Use the configuration the state was made with",
        )
    if model.pairs_scorer is not None:
        model.pairs_scorer.load(state[SELECTED], state[SCORER])
    if model.metric_scorer is not None:
        model.metric_scorer.load(state[FEATURE_MAP], state[METRIC])
    if (kept := state.get(KEPT_TERMS)) is not None:
        model.keep_terms(torch.tensor(kept))
