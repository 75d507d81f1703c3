"""Laws of the recommender: where it starts, what a missing modality means, what a history may see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmrec_model.config import RunConfig
from mmrec_model.errors import ModelError
from mmrec_model.model.fusion import masked_softmax
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork, build_model, initial_state
from mmrec_model.model.scoring import score_catalogue

HISTORIES = [np.array([1, 2, 5]), np.array([7]), np.array([], dtype=np.int64)]


def free_scores(config: RunConfig, catalogue: Items) -> np.ndarray:
    """The free recommender, written out by hand."""
    rows = []
    for history in HISTORIES:
        total = config.model.popularity_weight * catalogue.prior.numpy().copy()
        for column, (name, vectors) in enumerate(catalogue.vectors.items()):
            seen = [item for item in history if catalogue.present_M[item, column]]
            if seen:
                profile = vectors.numpy()[seen].mean(axis=0)
                total = total + config.model.modality_weights[name] * vectors.numpy() @ profile
        rows.append(total)
    return np.stack(rows)


def test_before_training_the_scores_are_exactly_those_of_the_free_recommender(config, catalogue, model):
    np.testing.assert_allclose(score_catalogue(model, catalogue, HISTORIES), free_scores(config, catalogue), atol=1e-6)


def test_training_can_move_every_trained_weight(catalogue, trained):
    history = torch.tensor([[1, 2, 5]])
    everything = catalogue.take(torch.arange(30)[None])
    scores = trained(catalogue.take(history), torch.ones(1, 3, dtype=torch.bool), everything)
    scores.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained.parameters())


def test_a_missing_modality_has_weight_zero_and_the_others_sum_to_one(catalogue, trained):
    weights = trained.fusion.weights(catalogue.take(torch.arange(30)[None]))[0]
    present = catalogue.present_M
    assert (weights[~present] == 0).all()
    some = present.any(-1)
    torch.testing.assert_close(weights[some].sum(-1), torch.ones(int(some.sum())))
    assert (weights[~some] == 0).all()


def test_what_a_missing_modality_would_have_held_changes_nothing(catalogue, trained):
    noisy = dict(catalogue.vectors)
    other = replace(catalogue, vectors=noisy)
    before = trained.fusion(catalogue.take(torch.arange(30)[None]))
    hidden = ~catalogue.present_M[:, 1]
    noisy["image"] = torch.where(hidden[:, None], torch.full_like(noisy["image"], 9.0), noisy["image"])
    torch.testing.assert_close(trained.fusion(other.take(torch.arange(30)[None])), before)


def test_padding_changes_no_score(catalogue, trained):
    alone = score_catalogue(trained, catalogue, [HISTORIES[1]])
    beside = score_catalogue(trained, catalogue, HISTORIES)[1:2]
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_a_query_of_training_does_not_see_its_own_item(catalogue, trained):
    """Its score must equal that of a user whose history lacks the item."""
    history = torch.tensor([[1, 2, 5]])
    with torch.no_grad():
        scores = trained(catalogue.take(history), torch.ones(1, 3, dtype=torch.bool))
    expected = score_catalogue(trained, catalogue, [np.array([1, 5])])[0, 2]
    assert scores[0, 1, 1].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kept", [[], ["text"], ["image"], ["text", "image"]])
def test_any_subset_of_modalities_gives_finite_scores(kept, catalogue, trained):
    present = catalogue.present_M & torch.tensor([name in kept for name in catalogue.vectors])
    vectors = {name: rows * (name in kept) for name, rows in catalogue.vectors.items()}
    scores = score_catalogue(trained, replace(catalogue, vectors=vectors, present_M=present), HISTORIES)
    assert np.isfinite(scores).all()


def test_the_trainable_state_is_what_travels_and_holds_nothing_of_a_user(model, config):
    state = model.trainable_state()
    assert set(state) == {name for name, _ in model.named_parameters()}
    assert sum(weight.numel() for weight in state.values()) == sum(a.size for a in initial_state(config).values())


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(config):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = initial_state(config), initial_state(config)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.rand(1), expected)


def test_a_state_of_another_model_is_refused(model):
    state = model.trainable_state()
    state["fusion.attention.weight"] = torch.zeros(1, 3)
    with pytest.raises(ModelError, match="shape"):
        model.load_trainable_state(state)
    del state["fusion.attention.weight"]
    with pytest.raises(ModelError, match="differs"):
        model.load_trainable_state(state)


def test_a_model_without_a_modality_is_refused(config):
    with pytest.raises(ModelError, match="no modality"):
        RecommenderNetwork(config.model, {})


def test_masked_softmax_is_zero_where_nothing_is_present_and_has_no_nan_gradient():
    logits = torch.tensor([[1000.0, -1000.0], [3.0, 4.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [False, False]])
    weights = masked_softmax(logits, mask)
    weights.sum().backward()
    assert weights[0].tolist() == [1.0, 0.0]
    assert weights[1].tolist() == [0.0, 0.0]
    assert torch.isfinite(logits.grad).all()


def test_build_model_reads_the_dims_of_the_bundle(config):
    assert build_model(config).dims == {"text": 12, "image": 6}
