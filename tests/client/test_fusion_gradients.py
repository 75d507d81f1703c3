"""Every fusion trains by the real private step: exact per-user gradients, and one user moves at most the clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from client.gradients import gradients_by_name
from client.gradients.contract import count_users, select_users
from client.neighbour_replay import recorded_step, refuse_mixed_users, replay_neighbours
from client.private_step import StepPlan
from client.training import GRADIENTS, train_round
from mmrec_model.config import (
    HEADS,
    HOUR_BUCKETS,
    MODALITIES,
    WEEKDAYS,
    FeatureSpec,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    TrainingConfig,
)
from mmrec_model.data.batches import draw_batch, draw_kept
from mmrec_model.data.histories import Histories
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch, ranking_loss
from mmrec_model.model.objective import user_losses
from mmrec_model.model.recommender import RecommenderNetwork, initial_state
from mmrec_model.privacy.noise import GaussianNoise
from simulations.synthetic.attributes import ATTRIBUTES
from simulations.synthetic.taste import World, draw_world

WIDTH, ITEMS, USERS, PLACES, NEGATIVES, ROWS = 5, 24, 6, 4, 3, 4
CASES: dict[str, dict[str, object]] = {
    "attention": {},
    "concat": {"fusion_layers": 2},
    "weighted_sum": {},
    "additive": {},
    "gated": {},
    "cross_attention": {"fusion_heads": 2},
    "transformer": {"fusion_layers": 2, "fusion_heads": 2},
    "decision": {},
    "decision, local": {"decision_weights": "local"},
}


def settings_of(case: str, hidden: int = 4, *, heads: bool = False) -> ModelConfig:
    values = {"hidden": hidden, "trained_dims": 4, "fusion": case.partition(",")[0], **CASES[case]}
    if heads:
        values |= {"heads": dict.fromkeys(HEADS, 1.0), "categories": ("a", "b")}
    return ModelConfig.model_validate(values)


def model_of(case: str, *, heads: bool = False) -> RecommenderNetwork:
    torch.manual_seed(0)
    model = RecommenderNetwork(settings_of(case, heads=heads), dict.fromkeys(MODALITIES, WIDTH))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return model.double()


def catalogue() -> Items:
    rng = np.random.default_rng(0)
    present = rng.random((ITEMS, len(MODALITIES))) < 0.6
    present[3] = False
    vectors = {name: rng.normal(size=(ITEMS, WIDTH)) * present[:, [place]] for place, name in enumerate(MODALITIES)}
    items = Items.from_arrays({}, present, rng.normal(size=ITEMS).astype(np.float32))
    wide = {name: torch.tensor(rows) for name, rows in vectors.items()}
    return replace(items, vectors=wide, prior=items.prior.double())


def users(modality_dropout: float, *, heads: bool = False) -> HistoryBatch:
    lists = [np.arange(user * 3, user * 3 + 1 + user) for user in range(USERS - 1)] + [np.array([], dtype=np.int64)]
    histories = Histories(np.cumsum([0, *map(len, lists)]), np.concatenate(lists).astype(np.int64))
    batch = draw_batch(
        histories,
        np.arange(USERS),
        n_items=ITEMS,
        max_history=PLACES,
        negatives=NEGATIVES,
        seed=5,
        modalities=len(MODALITIES),
        modality_dropout=modality_dropout,
    )
    return HistoryBatch.from_users(batch, outcomes=outcomes(modality_dropout) if heads else None)


def outcomes(modality_dropout: float) -> Outcomes:
    """Rows of every number from none to full."""
    rng = np.random.default_rng(6)
    mask_BF = np.arange(ROWS) < np.arange(USERS)[:, None]
    whole = {"items": ITEMS, "hour": HOUR_BUCKETS, "weekday": WEEKDAYS, "category": 2}
    columns = {f"{name}_BF": rng.integers(0, most, mask_BF.shape) for name, most in whole.items()}
    flags = ("shown", "clicked", "converted", "rated")
    columns |= {f"{name}_BF": mask_BF & (rng.random(mask_BF.shape) < 0.6) for name in flags}
    columns |= {"mask_BF": mask_BF, "ratings_BF": rng.uniform(1.0, 5.0, mask_BF.shape)}
    columns |= {"category_BK": rng.integers(-1, 2, (USERS, PLACES))}
    kept_BFM = draw_kept(
        columns["items_BF"],
        np.arange(USERS),
        modalities=len(MODALITIES),
        modality_dropout=modality_dropout,
        seed=5,
    )
    kept = None if kept_BFM is None else torch.from_numpy(kept_BFM)
    return Outcomes(**{name: torch.from_numpy(column) for name, column in columns.items()}, kept_BFM=kept)


def loss_of(items: Items) -> Callable[[torch.nn.Module, HistoryBatch], Tensor]:
    return partial(_loss, items=items)


def _loss(model: torch.nn.Module, batch: HistoryBatch, *, items: Items) -> Tensor:
    assert isinstance(model, RecommenderNetwork)
    return user_losses(model, items, batch, "sampled_softmax")


@pytest.mark.parametrize(("dropout", "heads"), [(0.0, False), (0.5, False), (0.5, True)])
@pytest.mark.parametrize("case", CASES)
def test_the_clipped_sum_equals_one_autograd_call_per_user(case: str, dropout: float, heads: bool) -> None:
    model, batch, loss = model_of(case, heads=heads), users(dropout, heads=heads), loss_of(catalogue())
    weights, clip = list(model.parameters()), 1.0
    expected = [torch.zeros_like(weight) for weight in weights]
    norms = []
    for user in range(count_users(batch)):
        alone = loss(model, select_users(batch, torch.tensor([user]))).sum()
        gradient = torch.autograd.grad(alone, weights, allow_unused=True, materialize_grads=True)
        norms.append(float(torch.stack([part.square().sum() for part in gradient]).sum().sqrt()))
        factor = min(1.0, clip / norms[-1]) if norms[-1] else 0.0
        expected = [total + factor * part for total, part in zip(expected, gradient, strict=True)]
    found = gradients_by_name(GRADIENTS).clipped_sum(model, loss, batch, clip)
    assert max(norms) > clip, "a user is clipped, so that the test can fail"
    assert all(part.any() for part in expected), "every weight is trained"
    np.testing.assert_allclose(found.local_norms_B, norms, rtol=1e-6, atol=1e-9)
    for total, part in zip(expected, found.sums, strict=True):
        torch.testing.assert_close(part, total, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("heads", "count_noise"), [(False, None), (True, 1.0)])
@pytest.mark.parametrize("case", CASES)
def test_one_user_moves_the_step_by_the_clip_at_most_also_with_hidden_modalities(
    case: str, heads: bool, count_noise: float | None
) -> None:
    model, batch, loss = model_of(case, heads=heads), users(0.4, heads=heads), loss_of(catalogue())
    plan = StepPlan(
        max_grad_norm=1.0, noise_multiplier=1.0, expected_users=4.0, sample_rate=0.5, count_noise=count_noise
    )
    gradients = gradients_by_name(GRADIENTS)
    step = recorded_step(model, loss, plan, gradients, lambda: GaussianNoise(seed=b"replay"), micro_batch=4)
    report = replay_neighbours(step, batch, plan.max_grad_norm)
    assert report.holds, str(report)
    assert report.measured > 0.9
    refuse_mixed_users(model, loss, batch, gradients)


WORLD_USERS, WORLD_ITEMS = 120, 40


@pytest.fixture(scope="module")
def world() -> World:
    return draw_world(WORLD_USERS, WORLD_ITEMS, 1)


def seen_vectors(world: World) -> Items:
    """What each medium of the synthetic set shows of an item, without a file: its attributes, one number per value."""
    vectors = {}
    for place, name in enumerate(MODALITIES):
        columns = [
            world.values_IA[:, at, None] == np.arange(len(attribute.values))
            for at, attribute in enumerate(ATTRIBUTES)
            if name in attribute.media
        ]
        rows = np.concatenate(columns, axis=1).astype(np.float32)
        rows -= rows.mean(0)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors[name] = rows * world.present_IM[:, [place]]
    return Items.from_arrays(vectors, world.present_IM)


@pytest.mark.parametrize("case", CASES)
def test_rounds_without_noise_lower_the_loss_on_the_synthetic_world(case: str, world: World) -> None:
    items = seen_vectors(world)
    dims = {name: rows.shape[1] for name, rows in items.vectors.items()}
    config = RunConfig(
        run_id="world",
        seed=1,
        features=FeatureSpec(digest="0" * 64, items=WORLD_ITEMS, dims=dims),
        model=settings_of(case, hidden=8),
        training=TrainingConfig(
            rounds=1, local_steps=12, sample_rate=0.5, max_history=8, negatives=8, modality_dropout=0.2
        ),
        privacy=PrivacyConfig(mechanism="none", epsilon=None, noise_multiplier=0.0, popularity_noise_multiplier=0.0),
    )
    histories = Histories(np.cumsum([0, *map(len, world.histories)]), np.concatenate(world.histories))
    popularity = np.bincount(histories.items, minlength=WORLD_ITEMS) / WORLD_USERS
    prior = ((popularity - popularity.mean()) / popularity.std()).astype(np.float32)
    items = items.with_prior(prior)
    state = {**initial_state(config), "prior": prior}
    trained = train_round(config, items, histories, state, users=WORLD_USERS, noise=GaussianNoise(seed=b"world"))
    model = RecommenderNetwork(config.model, config.model_dims).eval()
    drawn = draw_batch(histories, np.arange(WORLD_USERS), n_items=WORLD_ITEMS, max_history=8, negatives=8, seed=9)
    losses = []
    for change in (0.0, 1.0):
        moved = {name: torch.tensor(state[name] + change * update) for name, update in trained.update.items()}
        model.load_trainable_state(moved)
        with torch.inference_mode():
            losses.append(float(ranking_loss(model, items, HistoryBatch.from_users(drawn), "sampled_softmax").mean()))
    assert losses[1] < losses[0] - 0.01, losses
    still = [name for name, update in trained.update.items() if not update.any()]
    assert still == []
