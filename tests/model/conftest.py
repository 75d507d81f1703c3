"""A small catalogue with two modalities, one of them missing for some items."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec_model.config import FeatureSpec, ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork, build_model

N_ITEMS = 30


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(
        run_id="test",
        seed=3,
        features=FeatureSpec(digest="0" * 64, items=N_ITEMS, dims={"text": 12, "image": 6}),
        model=ModelConfig(hidden=8, trained_dims=8),
        training=TrainingConfig(rounds=2, max_history=6, negatives=5),
        privacy=PrivacyConfig(epsilon=8.0, noise_multiplier=1.0, popularity_noise_multiplier=2.0),
    )


@pytest.fixture
def catalogue() -> Items:
    rng = np.random.default_rng(0)
    present = np.ones((N_ITEMS, 2), dtype=bool)
    present[::3, 1] = False
    present[4] = False
    vectors = {}
    for column, (name, width) in enumerate((("text", 12), ("image", 6))):
        rows = rng.normal(size=(N_ITEMS, width)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors[name] = rows * present[:, [column]]
    return Items.from_arrays(vectors, present, rng.normal(size=N_ITEMS).astype(np.float32))


@pytest.fixture
def model(config: RunConfig) -> RecommenderNetwork:
    return build_model(config)


@pytest.fixture
def trained(model: RecommenderNetwork) -> RecommenderNetwork:
    """Weights as training might leave them: nothing is zero any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model
