"""The users' own media in the user tower: missing is nothing, present counts for that user alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.gradients import gradients_by_name
from client.gradients.contract import select_users
from client.neighbour_replay import recorded_step, replay_neighbours
from client.private_step import StepPlan
from mmrec_model.config import RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ConfigError
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch, ranking_loss
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.scoring import score_catalogue
from mmrec_model.privacy.noise import GaussianNoise

HISTORIES = [np.array([1, 2, 5]), np.array([7]), np.array([], dtype=np.int64)]
TOWERS = ("attention", "sequence")


@pytest.fixture(params=TOWERS)
def reader(request, config) -> RecommenderNetwork:
    """A model of each tower with every weight away from its start."""
    settings = config.model.model_copy(update={"tower": request.param, "positions": 6, "user_media": ("text",)})
    model = RecommenderNetwork(settings, config.features.dims)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def own_media(users: int = 3, *, text: bool = True, image: bool = False) -> Items:
    rng = np.random.default_rng(8)
    vectors = {name: rng.normal(size=(users, width)).astype(np.float32) for name, width in (("text", 12), ("image", 6))}
    present = np.broadcast_to(np.array([text, image]), (users, 2))
    media = Items.from_arrays(vectors, present).take(torch.arange(users).unsqueeze(1))
    return replace(media, encoded=True)


def test_a_user_without_own_media_scores_as_if_there_were_none(catalogue, reader):
    absent = own_media(text=False)
    np.testing.assert_allclose(
        score_catalogue(reader, catalogue, HISTORIES, absent), score_catalogue(reader, catalogue, HISTORIES), atol=1e-6
    )


def test_own_media_count_also_for_a_user_without_history_and_for_nobody_else(catalogue, reader):
    own = own_media()
    plain, found = score_catalogue(reader, catalogue, HISTORIES), score_catalogue(reader, catalogue, HISTORIES, own)
    assert (np.abs(found - plain).max(axis=1) > 1e-3).all()
    changed = replace(own, vectors={**own.vectors, "text": own.vectors["text"].clone()})
    changed.vectors["text"][0] *= -1.0
    after = score_catalogue(reader, catalogue, HISTORIES, changed)
    assert np.abs(after[0] - found[0]).max() > 1e-3
    np.testing.assert_allclose(after[1:], found[1:], atol=1e-6)


def test_own_media_are_read_however_long_the_history_is(catalogue, reader):
    long = [np.arange(20)]
    with_media = score_catalogue(reader, catalogue, long, own_media(1))
    assert np.abs(with_media - score_catalogue(reader, catalogue, long)).max() > 1e-4


def test_with_own_media_a_query_still_does_not_see_its_own_item(catalogue, reader):
    own = own_media(1)
    items = torch.tensor([[1, 2, 5, 20, 21]])
    with torch.no_grad():
        scores = reader(catalogue.take(items), torch.ones(1, 3, dtype=torch.bool), own=own)[0]
    known = [1] if reader.config.tower == "sequence" else [1, 5]
    expected = score_catalogue(reader, catalogue, [np.array(known)], own)[0]
    np.testing.assert_allclose(scores[1, 3:], expected[20:22], atol=1e-5)


def made_up_users() -> HistoryBatch:
    rng = np.random.default_rng(2)
    items = torch.from_numpy(rng.integers(0, 30, size=(5, 9)))
    lengths = torch.tensor([6, 3, 1, 0, 4])
    own = own_media(5)
    own.present_M[3] = False
    return HistoryBatch(items, torch.arange(6) < lengths[:, None], own=own)


def test_the_private_gradient_of_a_user_holds_the_users_own_media_and_nobody_elses(catalogue, reader):
    reader.train()
    batch, way = made_up_users(), gradients_by_name("bookkeeping")

    def loss(model, part):
        return ranking_loss(model, catalogue, part, "sampled_softmax")

    norms = way.clipped_sum(reader, loss, batch, 1.0).local_norms_B
    for user in range(5):
        value = loss(reader, select_users(batch, torch.tensor([user]))).sum()
        parts = torch.autograd.grad(value, list(reader.parameters()), allow_unused=True)
        alone = torch.cat([part.flatten() for part in parts if part is not None]).norm()
        assert norms[user].item() == pytest.approx(alone.item(), rel=1e-4, abs=1e-6)
    plan = StepPlan(max_grad_norm=0.1, noise_multiplier=1.0, expected_users=2.0, sample_rate=0.5)
    step = recorded_step(reader, loss, plan, way, lambda: GaussianNoise(seed=b"own"), micro_batch=3)
    report = replay_neighbours(step, batch, plan.max_grad_norm)
    assert report.holds, str(report)


def test_split_keeps_the_media_with_their_users():
    batch = made_up_users()
    parts = batch.split(2)
    found = torch.cat([part.own.vectors["text"] for part in parts])
    torch.testing.assert_close(found, batch.own.vectors["text"])


def test_nothing_of_a_user_is_kept_in_the_model(catalogue, reader):
    """Personal parts never travel because they are no state: scoring and training leave none behind."""
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    score_catalogue(reader, catalogue, HISTORIES, own_media())
    reader.train()
    ranking_loss(reader, catalogue, made_up_users(), "sampled_softmax").sum().backward()
    after = reader.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert set(reader.trainable_state()) <= {name for name, _ in reader.named_parameters()}
    sizes = {size for weight in reader.trainable_state().values() for size in weight.shape}
    few = RecommenderNetwork(reader.config, reader.dims).trainable_state()
    assert {name: w.shape for name, w in few.items()} == {n: w.shape for n, w in reader.trainable_state().items()}
    assert 30 not in sizes, "no weight per item either"


def test_media_that_the_features_lack_are_refused(config):
    plan = config.model_dump(mode="json")
    plan["features"]["dims"] = {"image": 6}
    plan["model"]["user_media"] = ["text"]
    with pytest.raises(ConfigError, match="user_media"):
        parse_config(RunConfig, plan, source="the plan")
