"""The feature-level term is the sum on paper, of items that nobody met too, and is part of the collaborative one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec_model.config import ModelConfig, RunConfig
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import ModelError
from mmrec_model.ladder import kept_terms, rungs_of
from mmrec_model.model.items import Items
from mmrec_model.model.metric_scorer import MetricScorer
from mmrec_model.model.recommender import build_model, initial_state
from mmrec_model.model.scoring import padded, score_catalogue
from mmrec_model.model.state import beside_of, load_beside, model_of_state
from mmrec_model.protocol import FEATURE_MAP, METRIC, PRIOR, SCORER, SELECTED

DIMS = 3
HISTORIES = [np.array(one, dtype=np.int64) for one in ([3, 5, 9, 0], [7], [], [2, 1])]


def public(config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    width = sum(config.model_dims.values())
    return rng.normal(size=(width, DIMS)).astype(np.float32), rng.normal(size=(DIMS, DIMS)).astype(np.float32)


def by_hand(config: RunConfig, catalogue: Items, history: np.ndarray) -> np.ndarray:
    map_, metric = public(config)
    space = np.concatenate([catalogue.vectors[name].numpy() for name in config.model_dims], axis=1) @ map_
    near = (1.0 + np.arange(len(history))[::-1]) ** -0.5
    user = near @ space[history] / max(np.linalg.norm(near), 1e-9)
    return user @ metric @ space.T


def planned(config: RunConfig, *, items: int = 0) -> RunConfig:
    weights = {"metric_weight": 0.2, "collaboration_weight": 0.3 if items else 0.0}
    return config.model_copy(
        update={
            "model": ModelConfig.model_validate(dict(config.model) | weights),
            "collaboration": CollaborationConfig(dims=DIMS, items=items),
        }
    )


def test_the_term_is_that_of_the_formula(config: RunConfig, catalogue: Items) -> None:
    scorer = MetricScorer(sum(config.model_dims.values()))
    scorer.load(*public(config))
    history, mask = padded(HISTORIES)
    items = catalogue.only(config.model_dims)
    everything = items.take(torch.arange(len(catalogue.prior))[None])
    found = scorer(items.take(history), mask[:, None], everything, leave_one_out=False)
    for row, own in enumerate(HISTORIES):
        np.testing.assert_allclose(found[row, 0].numpy(), by_hand(config, catalogue, own), atol=1e-4)
    visible = mask[:, None] & ~torch.eye(history.shape[1], dtype=torch.bool)
    at_places = scorer(items.take(history), visible, items.take(history), leave_one_out=True)
    assert at_places.shape == (len(HISTORIES), history.shape[1], history.shape[1])
    assert not at_places[1, 0].any(), "a lone item is not seen from its own place"


@pytest.mark.parametrize("fusion", ["attention", "decision"])
def test_in_the_untrained_model_it_counts_with_its_public_weight(
    config: RunConfig, catalogue: Items, fusion: str
) -> None:
    plain = config.model_copy(update={"model": ModelConfig.model_validate(dict(config.model) | {"fusion": fusion})})
    model = build_model(planned(plain))
    assert model.metric_scorer is not None
    model.metric_scorer.load(*public(config))
    difference = score_catalogue(model, catalogue, HISTORIES) - score_catalogue(
        build_model(plain), catalogue, HISTORIES
    )
    expected = [0.2 * by_hand(config, catalogue, one) for one in HISTORIES]
    np.testing.assert_allclose(difference, expected, atol=1e-4)


def test_beside_pairs_of_items_both_are_added_and_switched_together(config: RunConfig, catalogue: Items) -> None:
    both = planned(config, items=4)
    map_, metric = public(config)
    weights = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    beside = {SELECTED: np.array([0, 3, 5, 9], np.float32), SCORER: weights, FEATURE_MAP: map_, METRIC: metric}
    prior = np.zeros(len(catalogue.prior), np.float32)
    state = {**initial_state(both), PRIOR: prior, **beside}
    model = model_of_state(both, state)
    found = beside_of(model, prior)
    assert all(np.array_equal(found[name], array) for name, array in beside.items())
    items_alone = both.model_copy(update={"collaboration": CollaborationConfig(items=4),
                                          "model": both.model.model_copy(update={"metric_weight": 0.0})})  # fmt: skip
    without = build_model(items_alone)
    load_beside(without, {name: beside[name] for name in (SELECTED, SCORER)})
    difference = score_catalogue(model, catalogue, HISTORIES) - score_catalogue(without, catalogue, HISTORIES)
    expected = [0.2 * by_hand(config, catalogue, one) for one in HISTORIES]
    np.testing.assert_allclose(difference, expected, atol=1e-4)
    assert "pairs" in rungs_of(both)
    model.keep_terms(torch.tensor(kept_terms(both, "content")))
    level = catalogue.with_prior(prior)
    content = score_catalogue(build_model(config), level, HISTORIES)
    np.testing.assert_allclose(score_catalogue(model, level, HISTORIES), content, atol=1e-5)


@pytest.mark.parametrize("missing", [FEATURE_MAP, METRIC])
def test_a_metric_without_its_map_or_a_map_without_its_metric_is_refused(config: RunConfig, missing: str) -> None:
    map_, metric = public(config)
    model = build_model(planned(config))
    load_beside(model, {FEATURE_MAP: map_, METRIC: metric})
    with pytest.raises(ModelError, match="scorer of pairs"):
        load_beside(
            model, {name: array for name, array in {FEATURE_MAP: map_, METRIC: metric}.items() if name != missing}
        )


def test_a_metric_that_is_none_is_refused(config: RunConfig) -> None:
    map_, metric = public(config)
    scorer = MetricScorer(len(map_))
    for wrong in ((map_[:-1], metric), (map_, metric[:, :2]), (map_[:, :2], metric), (map_ * np.nan, metric),
                  (map_, metric * np.inf), (map_.ravel(), metric), (np.float32(1.0), metric)):  # fmt: skip
        with pytest.raises(ModelError, match="metric"):
            scorer.load(*wrong)
