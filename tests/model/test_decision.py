"""Laws of decision-level fusion: dropping is weight 0, votes and ranks are counted right, local weights stay local."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from mmrec_model.config import RunConfig
from mmrec_model.model.decision_rules import local_weights, mean_ranks, opinions, rank_values, vote_values
from mmrec_model.model.history import content_profiles, visible_history
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork, build_model
from mmrec_model.model.scoring import score_catalogue

HISTORIES = [np.array([1, 2, 5]), np.array([7]), np.array([], dtype=np.int64), np.arange(10, 20)]
KINDS: list[dict[str, object]] = [
    {},
    {"decision_weights": "public"},
    {"decision_weights": "local"},
    {"decision_rule": "vote", "decision_votes": 5},
    {"decision_rule": "rank"},
    {"decision_rule": "rank", "decision_weights": "local", "decision_temperature": 0.5},
]
small = st.lists(st.integers(-2, 2), min_size=1, max_size=9)


def run_with(config: RunConfig, **model: object) -> RunConfig:
    values = {"fusion": "decision", "popularity_weight": 0.3, "trained_dims": 8, "hidden": 8, **model}
    return RunConfig.model_validate(config.model_dump() | {"model": values})


def trained_with(config: RunConfig, **model: object) -> RecommenderNetwork:
    built, generator = build_model(run_with(config, **model)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return built


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_a_modality_equals_weight_zero(kind, config, catalogue) -> None:
    weighed = trained_with(config, modality_weights={"text": 0.7}, **kind)
    without = build_model(run_with(config, modality_weights={"text": 0.7}, modalities=("text",), **kind))
    with torch.no_grad():
        for name, weight in without.named_parameters():
            own = dict(weighed.named_parameters())[name]
            weight.copy_(own[:, [0, 2]] if name == "signals.weight" and own.shape[1] == 3 else own)
    found, expected = (score_catalogue(one, catalogue, HISTORIES) for one in (weighed, without))
    assert len(np.unique(expected[0])) > 20, "the rule tells items apart, so that the test can fail"
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_modality_counts_where_its_weight_is_not_zero(config, catalogue) -> None:
    scores = [
        score_catalogue(trained_with(config, modality_weights={"text": 1.0, "image": weight}), catalogue, HISTORIES)
        for weight in (0.0, 0.5)
    ]
    assert np.abs(scores[0] - scores[1]).max() > 0.01


def test_the_weighted_rule_is_the_sum_of_the_scorers_written_out_by_hand(config, catalogue) -> None:
    model = trained_with(config)
    history, scale = [1, 2, 5], model.config.fused_scale
    total = catalogue.prior * (model.public_weights[-1] * (1 + model.signals.weight[0, -1]))
    for place, (name, rows) in enumerate(catalogue.vectors.items()):
        seen = [item for item in history if catalogue.present_M[item, place]]
        profile, width = rows[seen].mean(0), model.fusion.widths[name]
        project, ask = model.fusion.projections[name].weight, model.fusion.interactions[name].weight
        projected = rows[:, :width] @ project.T
        score = rows @ profile + rows[:, :width] @ (model.dimensions[name].weight * profile[:width])
        score = score + scale * (projected @ (ask @ project @ profile[:width]))
        score = score + scale * (projected @ model.fusion.biases[name].weight[0])
        total = total + model.public_weights[place] * (1 + model.signals.weight[0, place]) * score
    found = score_catalogue(model, catalogue, [np.array(history)])[0]
    np.testing.assert_allclose(found, total.detach().numpy(), atol=1e-5)


def test_training_uses_the_weighted_sum_whatever_the_rule(config, catalogue) -> None:
    items, mask = catalogue.take(torch.tensor([[1, 2, 5, 9, 11]])), torch.ones(1, 3, dtype=torch.bool)
    rules = ({}, {"decision_rule": "vote"}, {"decision_rule": "rank"})
    scores = [trained_with(config, **rule)(items, mask) for rule in rules]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
    ranked = [score_catalogue(trained_with(config, **rule), catalogue, HISTORIES[:1])[0].argsort() for rule in rules]
    assert not np.array_equal(ranked[0], ranked[1])
    assert not np.array_equal(ranked[0], ranked[2])


@settings(max_examples=60, deadline=None)
@given(st.lists(small, min_size=1, max_size=1), st.data())
def test_mean_ranks_are_those_of_scipy_and_a_second_key_only_breaks_ties(rows, data) -> None:
    first = torch.tensor(rows, dtype=torch.float32)
    np.testing.assert_array_equal(mean_ranks(first)[0], rankdata(rows[0]) - 1)
    keys = data.draw(st.lists(st.integers(0, 2), min_size=first.shape[1], max_size=first.shape[1]))
    found = mean_ranks(first, torch.tensor([keys], dtype=torch.float32))[0]
    joint = [10 * one + other for one, other in zip(rows[0], keys, strict=True)]
    np.testing.assert_array_equal(found, rankdata(joint) - 1)


@settings(max_examples=60, deadline=None)
@given(small, st.data())
def test_an_item_that_a_scorer_cannot_read_gets_the_middle_rank_no_vote_and_moves_no_other(scores, data) -> None:
    readable = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    mask, values = torch.tensor([readable]), torch.tensor([scores], dtype=torch.float32)
    ranks, votes = rank_values(values, mask)[0], vote_values(values, mask, 2)[0]
    assert (ranks[~mask[0]] == 0.5).all()
    assert (votes[~mask[0]] == 0).all()
    kept = values[:, mask[0]]
    everywhere = torch.ones_like(kept, dtype=torch.bool)
    torch.testing.assert_close(ranks[mask[0]], rank_values(kept, everywhere)[0])
    torch.testing.assert_close(votes[mask[0]], vote_values(kept, everywhere, 2)[0])


def test_votes_go_to_the_first_places_and_a_scorer_without_an_opinion_votes_for_nobody_of_many() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    everywhere = torch.ones(5, dtype=torch.bool)
    assert vote_values(scores, everywhere, 2).tolist() == [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert rank_values(scores, everywhere).tolist() == [[1.0, 0.5, 0.75, 0.25, 0.0], [0.5] * 5]


def test_the_prior_is_read_for_every_item() -> None:
    scores = torch.tensor([[[[0.0, 3.0], [0.0, 1.0], [0.0, 2.0]]]])
    said = opinions("rank", scores, torch.zeros(1, 3, 1, dtype=torch.bool), votes=1)
    assert said[0, 0].tolist() == [[0.5, 1.0], [0.5, 0.0], [0.5, 0.5]]


def weights_of(catalogue: Items, histories: list[list[int]], temperature: float = 0.1) -> torch.Tensor:
    mask = torch.zeros(len(histories), max(map(len, histories)), dtype=torch.bool)
    index = torch.zeros(mask.shape, dtype=torch.int64)
    for row, items in enumerate(histories):
        mask[row, : len(items)], index[row, : len(items)] = True, torch.tensor(items, dtype=torch.int64)
    history, visible = catalogue.take(index), visible_history(mask, leave_one_out=False)
    profiles = content_profiles(history, visible)
    return local_weights(history, visible, profiles, torch.tensor([1.0, 0.5]), temperature)[:, 0]


def test_local_weights_are_leave_one_out_agreements_written_out_by_hand(catalogue) -> None:
    history, agreements = [1, 2, 5, 6, 9], []  # two of them without a picture
    for place, rows in enumerate(catalogue.vectors.values()):
        seen = [item for item in history if catalogue.present_M[item, place]]
        each = [rows[item] @ rows[[other for other in seen if other != item]].mean(0) for item in seen]
        agreements.append(float(torch.stack(each).mean()))
    raw = np.array([1.0, 0.5]) * np.exp(np.array(agreements) / 0.1)
    np.testing.assert_allclose(weights_of(catalogue, [history])[0], 1.5 * raw / raw.sum(), atol=1e-5)


def test_local_weights_are_the_users_own_and_the_public_ones_without_a_history(catalogue) -> None:
    histories = [[1, 2, 5, 7], [10, 11, 13], [8], []]
    found = weights_of(catalogue, histories)
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    torch.testing.assert_close(found[2:], torch.tensor([[1.0, 0.5], [1.0, 0.5]]))
    torch.testing.assert_close(found.sum(-1), torch.full((4,), 1.5))
    for user, history in enumerate(histories[:3]):
        torch.testing.assert_close(weights_of(catalogue, [history])[0], found[user])
    torch.testing.assert_close(weights_of(catalogue, histories, 1e6)[0], torch.tensor([1.0, 0.5]), atol=1e-4, rtol=0)


def test_a_query_of_training_weighs_without_its_own_item(config, catalogue) -> None:
    model = trained_with(config, decision_weights="local")
    with torch.no_grad():
        scores = model(catalogue.take(torch.tensor([[1, 2, 5, 7]])), torch.ones(1, 4, dtype=torch.bool))
    expected = score_catalogue(model, catalogue, [np.array([1, 5, 7])])[0, 2]
    assert scores[0, 1, 1].item() == pytest.approx(expected, abs=1e-5)


def test_no_local_weight_is_part_of_what_travels(config, catalogue) -> None:
    model = trained_with(config, decision_weights="local")
    before = {name: weight.clone() for name, weight in model.trainable_state().items()}
    score_catalogue(model, catalogue, HISTORIES)
    after = model.trainable_state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    families = {name.split(".")[0] for name in after}
    assert families == {"fusion", "signals", "dimensions"}
    assert after["signals.weight"].shape == (1, 1), "only the prior has a learned weight beside local ones"
    assert not list(model.state_dict().keys() - set(after))
