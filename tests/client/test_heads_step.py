"""The private step with all heads on: exact per-user gradients, one user's bound, and labels that reach training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from client import training
from client.gradients import gradients_by_name
from client.gradients.contract import count_users, select_users
from client.made_up_plan import PlanShape, made_up_catalogue, made_up_model, made_up_users
from client.neighbour_replay import recorded_step, replay_neighbours
from client.policy import Policy
from client.private_step import StepPlan
from client.release import answer
from client.site import Site, SiteConfig, enrol
from client.training import train_round
from mmrec_model.config import HEADS, RANKING_LOSSES, RunConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch
from mmrec_model.model.objective import user_losses
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import adaptive_clipping
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import Arrays, Kind, arrays_digest

LIMIT = 0.5


def made_up() -> tuple[nn.Module, Items, HistoryBatch]:
    """The self-test's model with all heads and DeepFM, in float64, and its readable users."""
    shape = PlanShape(heads=HEADS, ctr_scorer="deepfm")
    model, catalogue, batch = made_up_model(shape).double(), made_up_catalogue(shape), made_up_users(shape)
    vectors = {name: rows.double() for name, rows in catalogue.vectors.items()}
    wide = replace(catalogue, vectors=vectors, prior=catalogue.prior.double())
    readable = select_users(batch, torch.arange(count_users(batch) - 1))
    return model, wide, readable


def loss_of(model: nn.Module, batch: HistoryBatch, *, catalogue: Items, kind: str) -> Tensor:
    return user_losses(model.model, catalogue, batch, kind)


@pytest.mark.parametrize("kind", RANKING_LOSSES)
def test_the_clipped_sum_with_all_heads_equals_one_gradient_per_user(kind: str) -> None:
    model, catalogue, batch = made_up()
    loss = partial(loss_of, catalogue=catalogue, kind=kind)
    found = gradients_by_name("bookkeeping").clipped_sum(model, loss, batch, LIMIT)
    weights = list(model.parameters())
    expected = [torch.zeros_like(weight) for weight in weights]
    norms = []
    for user in range(count_users(batch)):
        one = loss(model, select_users(batch, torch.tensor([user]))).sum()
        parts = torch.autograd.grad(one, weights, allow_unused=True)
        gradient = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, parts, strict=True)]
        norm = torch.sqrt(sum(part.square().sum() for part in gradient))
        norms.append(float(norm))
        scale = min(1.0, LIMIT / max(float(norm), 1e-30))
        expected = [total + scale * part for total, part in zip(expected, gradient, strict=True)]
    assert sum(norm > LIMIT for norm in norms) >= 2
    assert any(part.abs().max() > 1e-3 for part in expected)
    for total, part in zip(found.sums, expected, strict=True):
        torch.testing.assert_close(total, part, atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(found.local_norms_B.numpy(), norms, atol=1e-6, rtol=1e-6)


def test_no_neighbour_moves_the_step_with_heads_by_more_than_the_clip() -> None:
    model, catalogue, batch = made_up()
    plan = StepPlan(max_grad_norm=LIMIT, noise_multiplier=1.0, expected_users=3.0, sample_rate=0.5)
    loss = partial(loss_of, catalogue=catalogue, kind="bpr")
    step = recorded_step(model, loss, plan, gradients_by_name("bookkeeping"), lambda: GaussianNoise(seed=b"heads"))
    report = replay_neighbours(step, batch, LIMIT)
    assert report.holds, str(report)
    assert report.measured > 0.99 * LIMIT


def events() -> pa.Table:
    """Sixty users who were shown ten items each and clicked six of them, in turn."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        for place, item in enumerate(rng.choice(40, size=10, replace=False)):
            kind = ("impression", "click", "conversion", "click", "rating")[place % 5]
            rows.append((f"u{user}", f"i{item}", float(1_600_000_000 + place), kind, 4.0 if kind == "rating" else None))
    names = ("user_id", "item_id", "timestamp", "event", "rating")
    return pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})


@pytest.fixture
def site(tmp_path: Path, catalogue: Path) -> Site:
    root = tmp_path / "north"
    write_partner(root / "data", interactions=events(), items=None, users=None)
    settings = SiteConfig(
        name="north",
        catalogue=str(catalogue / "items"),
        features=str(catalogue / "features"),
        users=60,
        simulation_seed=1,
    )
    return enrol(root, settings, Policy(max_delta=1e-3, require_approval=False))


def with_heads(config: RunConfig, **training: object) -> RunConfig:
    model = config.model.model_copy(update={"heads": dict.fromkeys(HEADS[:3], 1.0)})
    return config.model_copy(update={"model": model, "training": config.training.model_copy(update=training)})


def arrays_of(config: RunConfig) -> Arrays:
    return {**initial_state(config), "prior": np.zeros(config.features.items, dtype=np.float32)}


def test_labels_of_the_partner_move_the_heads_and_leave_the_draws_of_the_histories_alone(
    site: Site, config: RunConfig
) -> None:
    plan = with_heads(config)
    plan = plan.model_copy(
        update={
            "training": plan.training.model_copy(update={"local_steps": 1, "witness_coordinates": 0}),
            "privacy": plan.privacy.model_copy(
                update={
                    "mechanism": "none",
                    "epsilon": None,
                    "noise_multiplier": 0.0,
                    "popularity_noise_multiplier": 0.0,
                    "max_grad_norm": 1e6,
                }
            ),
        }
    )
    bare = plan.model_copy(update={"model": config.model})

    def update(used: RunConfig) -> Arrays:
        noise = GaussianNoise(seed=b"same")
        labels = site.dataset.labels(()) if used.model.heads else None
        return train_round(
            used, site.items, site.dataset.train, arrays_of(used), users=60, noise=noise, labels=labels
        ).update

    with_labels, without = update(plan), update(bare)
    for name in HEADS[:3]:
        assert np.abs(with_labels[f"heads.rows.{name}.signals.bias"]).max() > 0, name
    assert without["interaction.weight"].any()
    # The heads start at zero, so in the first step they pass nothing on to what they share with the ranking.
    for name, array in without.items():
        np.testing.assert_allclose(with_labels[name], array, atol=1e-6)


def test_a_round_with_heads_is_released_under_the_same_price(site: Site, make_request, config: RunConfig) -> None:
    plan = with_heads(config)
    found = answer(site, Kind.TRAIN, *make_request(1, plan=plan))
    assert found.reply.refusal == ""
    assert set(found.arrays) == {*initial_state(plan), "witness"}


def test_heads_and_adaptive_clipping_share_a_round_and_the_count_is_the_only_thing_more(
    site: Site, make_request, config: RunConfig
) -> None:
    plan = with_heads(config, modality_dropout=0.5, loss="bce")
    plan = plan.model_copy(update={"privacy": adaptive_clipping(plan.privacy, expected_users=18.0)})
    request, arrays = make_request(1, plan=plan)
    state = {**arrays, "clip": np.array([plan.privacy.max_grad_norm], np.float32)}
    found = answer(site, Kind.TRAIN, replace(request, model_digest=arrays_digest(state)), state)
    assert found.reply.refusal == ""
    assert set(found.arrays) == {*initial_state(plan), "witness", "clip_share"}
    assert any(name.startswith("heads.") and found.arrays[name].any() for name in initial_state(plan))


def test_a_row_shows_of_an_item_what_the_history_shows_of_it(site: Site, config: RunConfig) -> None:
    features = config.features.model_copy(update={"dims": {"text": 10, "image": 10}})
    plan = with_heads(config, modality_dropout=0.5, sample_rate=1.0)
    plan = plan.model_copy(update={"features": features})
    labels = site.dataset.labels(())
    _, batches = training._sample(plan, site.dataset.train, labels, None, GaussianNoise(seed=b"same"))
    seen = 0
    for batch in batches:
        kept_BKM = batch.kept_BLM[:, : batch.mask_BK.shape[1]]
        rows = batch.outcomes
        history_BK = batch.items_BL[:, : batch.mask_BK.shape[1]]
        same_BFK = (rows.items_BF.unsqueeze(-1) == history_BK.unsqueeze(-2)) & batch.mask_BK.unsqueeze(-2)
        for user, row, place in torch.nonzero(same_BFK & rows.mask_BF.unsqueeze(-1)).tolist():
            assert torch.equal(rows.kept_BFM[user, row], kept_BKM[user, place])
            seen += int(not kept_BKM[user, place].all())
    assert seen > 20


def test_a_partner_refuses_more_outcomes_of_a_user_than_its_policy_allows(site, make_request, config) -> None:
    plan = with_heads(config, max_feedback=65)
    assert answer(site, Kind.TRAIN, *make_request(1, plan=plan)).reply.refusal == "feedback"
    bare = plan.model_copy(update={"model": config.model})
    assert answer(site, Kind.TRAIN, *make_request(1, plan=bare)).reply.refusal == ""
