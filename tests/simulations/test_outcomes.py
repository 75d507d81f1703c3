"""Outcomes of the synthetic set: the histories stay, the truth behind the rest can be recomputed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from client.training import train_round
from mmrec_model.config import HEADS, FeatureSpec, ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.data.dataset import PartnerDataset, open_partner
from mmrec_model.data.writing import write_partner
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import build_model, initial_state
from mmrec_model.privacy.noise import GaussianNoise
from simulations.assessment import panel_of
from simulations.head_assessment import assess_heads
from simulations.synthetic.attributes import ATTRIBUTES
from simulations.synthetic.folder import _interactions, item_id
from simulations.synthetic.outcomes import Outcomes, answers, draw_outcomes, hour_odds
from simulations.synthetic.taste import World, draw_world

USERS, ITEMS, SEED = 300, 60, 1


@pytest.fixture(scope="module")
def world() -> World:
    return draw_world(USERS, ITEMS, SEED)


@pytest.fixture(scope="module")
def outcomes(world: World) -> Outcomes:
    return draw_outcomes(world, SEED)


@pytest.fixture(scope="module")
def data(world: World, outcomes: Outcomes, tmp_path_factory: pytest.TempPathFactory) -> PartnerDataset:
    """The tables without media."""
    return partner(tmp_path_factory.mktemp("outcomes"), world, _interactions(world, outcomes))


def partner(folder: Path, world: World, interactions: pa.Table) -> PartnerDataset:
    ids = [item_id(item) for item in range(ITEMS)]
    topics = [ATTRIBUTES[0].values[value] for value in world.values_IA[:, 0]]
    items = pa.table({"item_id": ids, "title": ids, "text": ids, "category": topics})
    write_partner(folder, interactions=interactions, items=items)
    return open_partner(folder)


def test_the_added_rows_move_no_positive(world: World, data: PartnerDataset, tmp_path: Path, outcomes: Outcomes):
    table = _interactions(world, outcomes)
    clicks = table.filter(pa.compute.equal(table["event"], "click")).select(["user_id", "item_id", "timestamp"])
    bare = partner(tmp_path / "bare", world, clicks)
    assert bare.user_ids == data.user_ids
    for name in ("val", "test"):
        assert np.array_equal(getattr(bare, name), getattr(data, name))
    assert np.array_equal(bare.train.items, data.train.items)
    assert np.array_equal(bare.train.offsets, data.train.offsets)
    assert data.report.quarantined == {}


def test_the_same_seed_gives_the_same_outcomes_and_another_seed_others(world: World, outcomes: Outcomes) -> None:
    again, other = draw_outcomes(world, SEED), draw_outcomes(world, SEED + 1)
    assert all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(vars(again).values(), vars(outcomes).values(), strict=True)
    )
    assert not np.array_equal(other.shown_items, outcomes.shown_items)


def test_what_was_shown_without_a_click_is_not_in_the_history(world: World, outcomes: Outcomes) -> None:
    for user, item in zip(outcomes.shown_users, outcomes.shown_items, strict=True):
        assert item not in set(world.histories[user])
    pairs = outcomes.shown_users * ITEMS + outcomes.shown_items
    assert len(np.unique(pairs)) == len(pairs)


def test_the_partner_reads_the_outcomes_that_were_drawn(world: World, outcomes: Outcomes, data: PartnerDataset) -> None:
    clicks = sum(map(len, world.histories))
    clicked = data.feedback.clicked.sum() + data.later.clicked.sum()
    converted = data.feedback.converted.sum() + data.later.converted.sum()
    shown = data.feedback.shown.sum() + data.later.shown.sum()
    assert clicked == clicks
    assert converted == outcomes.converted.sum()
    assert 0.97 * (clicks + len(outcomes.shown_items)) < shown <= clicks + len(outcomes.shown_items)
    rated = ~np.isnan(data.feedback.ratings)
    assert np.array_equal(rated, data.feedback.converted)
    assert set(np.unique(data.feedback.ratings[rated])) <= {1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_truth_predicts_and_the_hour_matters(world: World, outcomes: Outcomes) -> None:
    found = answers(world, outcomes)
    assert found["ctr"]["oracle_gauc"] > 0.85
    assert found["cvr"]["oracle_auc"] > 0.7
    assert found["rating"]["oracle_rmse"] < 0.8
    bucket = (outcomes.shown_times % 86_400) // (86_400 // len(hour_odds()))
    share = np.bincount(bucket, minlength=len(hour_odds())) / len(bucket)
    expected = np.exp(-hour_odds()) / np.exp(-hour_odds()).sum()
    assert np.abs(share - expected).max() < 0.02


def perfect_items(world: World) -> Items:
    """Unit vectors that name every attribute, and the popularity that everybody knows."""
    blocks = [np.eye(len(one.values))[world.values_IA[:, column]] for column, one in enumerate(ATTRIBUTES)]
    rows = np.concatenate(blocks, axis=1).astype(np.float32)
    rows -= rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Items.from_arrays({"text": rows}, np.ones((ITEMS, 1), dtype=bool), np.zeros(ITEMS, dtype=np.float32))


def plan(items: Items, **model: object) -> RunConfig:
    topics = tuple(sorted(ATTRIBUTES[0].values))
    return RunConfig(
        run_id="heads",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=ITEMS, dims={"text": items.vectors["text"].shape[1]}),
        model=ModelConfig(
            heads=dict.fromkeys(HEADS, 1.0), categories=topics, base_rates={"ctr": 0.3, "cvr": 0.4}, **model
        ),
        training=TrainingConfig(
            sample_rate=1.0, negatives=8, max_feedback=16, local_steps=20, micro_batch=300, witness_coordinates=0
        ),
        privacy=PrivacyConfig(mechanism="none", epsilon=None, noise_multiplier=0.0, popularity_noise_multiplier=0.0),
    )


@pytest.mark.parametrize("model", [{}, {"ctr_scorer": "deepfm", "cvr_loss": "esmm"}], ids=["plain", "deepfm-esmm"])
def test_every_head_learns_and_beats_the_best_constant_on_later_rows(model, world, data) -> None:
    items = perfect_items(world)
    config = plan(items, **model)
    state = {**initial_state(config), "prior": np.zeros(ITEMS, dtype=np.float32)}
    panel = panel_of([data], "test")
    before = assess_heads([data], panel, build_model(config), items)
    trained = train_round(
        config,
        items,
        data.train,
        state,
        users=len(data),
        noise=GaussianNoise(seed=b"heads"),
        labels=data.labels(config.model.categories),
    )
    recommender = build_model(config)
    with_update = {name: array + trained.update[name] for name, array in initial_state(config).items()}
    recommender.load_trainable_state({name: torch.from_numpy(array) for name, array in with_update.items()})
    after = assess_heads([data], panel, recommender, items)
    assert set(after) == set(HEADS)
    for name, record in after.items():
        assert record.loss < before[name].loss, name
        assert record.loss < record.constant_loss, name
    for name in ("ctr", "cvr"):
        assert (after[name].auc or 0.0) > 0.55, name
        assert (after[name].gauc or 0.0) > 0.55, name
        assert before[name].auc == 0.5
