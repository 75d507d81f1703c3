"""A network and the arrays that travel: what is beside the trained ones fits the plan, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmrec_model.config import RunConfig
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import ModelError
from mmrec_model.ladder import rungs_of
from mmrec_model.model.folder import load_model, save_model
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import initial_state
from mmrec_model.model.scoring import score_catalogue
from mmrec_model.model.state import beside_of, model_of_state, state_of_rung
from mmrec_model.protocol import KEPT_TERMS, PRIOR, SCORER, SELECTED, Arrays

HISTORIES = [np.array([1, 2, 5]), np.array([7])]
PLACES = [1, 2, 5, 6, 20]


@pytest.fixture
def paired(config: RunConfig) -> RunConfig:
    model = config.model.model_copy(update={"collaboration_weight": 0.4})
    collaboration = CollaborationConfig(items=len(PLACES), noise_multiplier=1.0)
    return config.model_copy(update={"model": model, "collaboration": collaboration})


@pytest.fixture
def state(paired: RunConfig) -> Arrays:
    """As after training: nothing is zero."""
    rng = np.random.default_rng(3)
    trained = {name: rng.normal(size=array.shape) for name, array in initial_state(paired).items()}
    scorer = rng.normal(size=(len(PLACES), len(PLACES)))
    beside = {PRIOR: rng.normal(size=30), SCORER: scorer, SELECTED: np.array(PLACES)}
    return {name: array.astype(np.float32) for name, array in (trained | beside).items()}


def scores(config: RunConfig, state: Arrays, catalogue: Items) -> np.ndarray:
    return score_catalogue(model_of_state(config, state), catalogue.with_prior(state[PRIOR]), HISTORIES)


def test_what_is_beside_a_loaded_model_is_read_back_bit_for_bit(paired: RunConfig, state: Arrays) -> None:
    found = beside_of(model_of_state(paired, state), state[PRIOR])
    assert set(found) == {PRIOR, SCORER, SELECTED}
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, state[name])


def test_a_model_without_pairs_has_nothing_but_the_prior_beside_it(config: RunConfig) -> None:
    prior = np.zeros(30, np.float32)
    assert set(beside_of(model_of_state(config, {**initial_state(config), PRIOR: prior}), prior)) == {PRIOR}


@pytest.mark.parametrize("missing", [SCORER, SELECTED])
def test_a_state_without_its_scorer_or_the_scorers_items_is_refused(
    paired: RunConfig, state: Arrays, missing: str
) -> None:
    with pytest.raises(ModelError, match="scorer of pairs"):
        model_of_state(paired, {name: array for name, array in state.items() if name != missing})


def test_a_scorer_for_a_model_without_pairs_is_refused(config: RunConfig, state: Arrays) -> None:
    own = {**initial_state(config), **{name: state[name] for name in (PRIOR, SCORER, SELECTED)}}
    with pytest.raises(ModelError, match="the model has none"):
        model_of_state(config, own)


@pytest.mark.parametrize("kept", [[1, 1, 1], [1, 1, 1, 1, 1], [1, 0.5, 1, 1], [1, 2, 1, 1]])
def test_switches_of_another_number_or_value_are_refused(paired: RunConfig, state: Arrays, kept: list[float]) -> None:
    with pytest.raises(ModelError, match="switches"):
        model_of_state(paired, {**state, KEPT_TERMS: np.array(kept, np.float32)})


def test_the_top_rung_scores_as_the_state_itself(paired: RunConfig, state: Arrays, catalogue: Items) -> None:
    rung = state_of_rung(paired, state, "trained")
    np.testing.assert_array_equal(scores(paired, rung, catalogue), scores(paired, state, catalogue))


def test_each_floor_scores_its_own_free_terms_and_nothing_that_was_trained(
    paired: RunConfig, state: Arrays, catalogue: Items
) -> None:
    found = {rung: scores(paired, state_of_rung(paired, state, rung), catalogue) for rung in rungs_of(paired)}
    weights = paired.model
    prior = np.tile(weights.popularity_weight * state[PRIOR], (2, 1))
    np.testing.assert_allclose(found["popularity"], prior, atol=1e-6)
    np.testing.assert_allclose(found["free"], found["content"] + found["popularity"], atol=1e-5)
    np.testing.assert_allclose(found["collaboration"], found["free"] + found["pairs"], atol=1e-5)
    outside = [item for item in range(30) if item not in PLACES]
    assert not found["pairs"][:, outside].any()
    assert found["pairs"][:, PLACES].any()
    moved = {**state, **{name: array + 1.0 for name, array in state.items() if name in initial_state(paired)}}
    for rung in set(found) - {"trained"}:
        again = scores(paired, state_of_rung(paired, moved, rung), catalogue)
        np.testing.assert_array_equal(again, found[rung])
    assert not np.array_equal(scores(paired, moved, catalogue), found["trained"])


def test_an_export_of_a_floor_with_its_scorer_ranks_like_that_floor(
    tmp_path: Path, paired: RunConfig, state: Arrays, catalogue: Items
) -> None:
    for rung in rungs_of(paired):
        chosen = state_of_rung(paired, state, rung)
        save_model(tmp_path / rung, paired, chosen, card="# A model\n")
        loaded = load_model(tmp_path / rung)
        found = score_catalogue(loaded.model, catalogue.with_prior(loaded.prior_N), HISTORIES)
        np.testing.assert_allclose(found, scores(paired, chosen, catalogue), atol=1e-6)


def test_a_models_public_weights_are_its_own(paired: RunConfig, state: Arrays) -> None:
    """Switching terms off in one model leaves the next one whole."""
    whole = model_of_state(paired, state).public_weights.clone()
    switched = model_of_state(paired, state_of_rung(paired, state, "popularity")).public_weights
    assert int((switched == 0).sum()) == 3
    torch.testing.assert_close(model_of_state(paired, state).public_weights, whole)
