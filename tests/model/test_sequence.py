"""Laws of the sequence tower: no query knows what comes after it, and positions belong to their own user."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.gradients import WAYS, gradients_by_name
from mmrec_model.config import ModelConfig, RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ConfigError, ModelError
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch, ranking_loss
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.scoring import score_catalogue

PLACES, EXTRA = 6, 4


@pytest.fixture
def ordered(config) -> RecommenderNetwork:
    ordered_config = config.model.model_copy(update={"tower": "sequence", "positions": PLACES})
    return moved(RecommenderNetwork(ordered_config, config.features.dims))


def scores_of_queries(model, catalogue, items: list[int], length: int) -> torch.Tensor:
    """`[K, K + EXTRA]` of one user whose history is the first `length` of `items`."""
    listed = torch.tensor([[*items, 20, 21, 22, 23]])
    mask = torch.arange(PLACES)[None] < length
    with torch.no_grad():
        return model(catalogue.take(listed), mask)[0]


histories = st.lists(st.integers(0, 19), min_size=PLACES, max_size=PLACES, unique=True)


@settings(max_examples=25, deadline=None)
@given(first=histories, second=histories, place=st.integers(0, PLACES - 1), length=st.integers(1, PLACES))
def test_no_later_item_changes_the_score_of_a_place(first, second, place, length):
    model, catalogue = made_up()
    changed = first[: place + 1] + second[place + 1 :]
    before = scores_of_queries(model, catalogue, first, PLACES)
    after = scores_of_queries(model, catalogue, changed, max(length, place + 1))
    known = [*range(place + 1), *range(PLACES, PLACES + EXTRA)]
    torch.testing.assert_close(after[: place + 1][:, known], before[: place + 1][:, known], atol=1e-5, rtol=1e-5)


@functools.cache
def made_up() -> tuple[RecommenderNetwork, Items]:
    """As the fixtures, for a test that hypothesis repeats."""
    rng = np.random.default_rng(0)
    vectors = {"text": rng.normal(size=(30, 12)).astype(np.float32)}
    catalogue = Items.from_arrays(vectors, np.ones((30, 1), bool), rng.normal(size=30).astype(np.float32))
    return moved(RecommenderNetwork(ModelConfig(hidden=8, tower="sequence", positions=PLACES), {"text": 12})), catalogue


def moved(model: RecommenderNetwork) -> RecommenderNetwork:
    """The model with every weight away from its start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def test_a_training_query_scores_as_a_user_with_the_items_before_it(catalogue, ordered):
    items = [1, 2, 5, 8, 9, 11]
    scores = scores_of_queries(ordered, catalogue, items, PLACES)
    for place in range(PLACES):
        alone = score_catalogue(ordered, catalogue, [np.array(items[:place], dtype=np.int64)])[0]
        np.testing.assert_allclose(scores[place, PLACES:], alone[20:24], atol=1e-5)


def test_order_counts(catalogue, ordered):
    forwards, backwards = score_catalogue(ordered, catalogue, [np.array([1, 2, 5]), np.array([5, 2, 1])])
    assert np.abs(forwards - backwards).max() > 1e-3


def test_padding_and_company_change_no_score(catalogue, ordered):
    beside = score_catalogue(ordered, catalogue, [np.arange(5), np.array([7]), np.array([], dtype=np.int64)])
    np.testing.assert_allclose(beside[1:2], score_catalogue(ordered, catalogue, [np.array([7])]), atol=1e-5)


def test_of_a_long_history_the_attention_reads_the_last_places(catalogue, ordered):
    fused = torch.randn(1, 10, 8)
    seen = torch.ones(1, 1, 10, dtype=torch.bool)
    long = ordered.tower(fused, seen)
    torch.testing.assert_close(long, ordered.tower(fused[:, -PLACES:], seen[..., -PLACES:]))
    other = fused.clone()
    other[:, -PLACES] += 1.0
    assert not torch.allclose(ordered.tower(other, seen), long)


def test_before_training_a_user_is_the_last_item_plus_the_mean(config):
    tower = RecommenderNetwork(ModelConfig(hidden=8, tower="sequence"), {"text": 12}).tower
    fused = torch.randn(1, 3, 8)
    user = tower(fused, torch.ones(1, 1, 3, dtype=torch.bool))[0, 0]
    torch.testing.assert_close(user, fused[0, -1] + fused[0].mean(0))


@pytest.mark.parametrize("way", WAYS)
def test_the_private_gradient_of_each_user_is_that_of_the_user_alone(way, catalogue, ordered):
    rng = np.random.default_rng(4)
    items = torch.from_numpy(np.stack([rng.choice(30, PLACES + EXTRA, replace=False) for _ in range(4)]))
    batch = HistoryBatch(items, torch.arange(PLACES) < torch.tensor([6, 3, 1, 0])[:, None])
    ordered.train()
    loss = lambda model, part: ranking_loss(model, catalogue, part, "sampled_softmax")  # noqa: E731
    norms = gradients_by_name(way).clipped_sum(ordered, loss, batch, 1.0).local_norms_B
    for user in range(4):
        own = HistoryBatch(batch.items_BL[user : user + 1], batch.mask_BK[user : user + 1])
        parts = torch.autograd.grad(loss(ordered, own).sum(), list(ordered.parameters()), allow_unused=True)
        alone = torch.cat([part.flatten() for part in parts if part is not None]).norm()
        assert norms[user].item() == pytest.approx(alone.item(), rel=1e-4, abs=1e-6)


def test_more_queries_than_positions_are_refused(catalogue, ordered):
    with pytest.raises(ModelError, match="positions"):
        ordered(catalogue.take(torch.arange(8)[None]), torch.ones(1, PLACES + 1, dtype=torch.bool))


def test_a_query_that_leaves_out_an_earlier_item_is_refused(ordered):
    others = ~torch.eye(3, dtype=torch.bool)[None]
    with pytest.raises(ModelError, match="leaves out"):
        ordered.tower(torch.randn(1, 3, 8), others)


def test_a_plan_whose_histories_do_not_fit_the_positions_is_refused(config):
    plan = config.model_dump(mode="json")
    plan["model"] |= {"tower": "sequence", "positions": 5}
    with pytest.raises(ConfigError, match="max_history is 6"):
        parse_config(RunConfig, plan, source="the plan")
