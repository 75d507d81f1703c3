"""A run that reads some of a bundle's modalities trains as if the bundle had no other, and touches no other."""

from __future__ import annotations

import numpy as np
import pytest

from client.training import global_model, train_round
from mmrec_model.config import (
    FeatureSpec,
    HeadName,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    TrainingConfig,
)
from mmrec_model.data.feedback import Feedback, Labels
from mmrec_model.data.histories import Histories
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import initial_state
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import Arrays

WIDTHS = {"text": 5, "image": 4, "audio": 6, "video": 3}
ITEMS, USERS = 30, 20
EVERYTHING = tuple(WIDTHS)


def catalogue(*modalities: str) -> Items:
    rng = np.random.default_rng(0)
    present_NM = rng.random((ITEMS, len(WIDTHS))) < 0.7
    vectors = {name: rng.normal(size=(ITEMS, width)).astype(np.float32) for name, width in WIDTHS.items()}
    vectors = {name: rows * present_NM[:, [place]] for place, (name, rows) in enumerate(vectors.items())}
    return Items.from_arrays(
        {name: vectors[name] for name in modalities}, present_NM[:, [EVERYTHING.index(name) for name in modalities]]
    )


def plan(bundle: tuple[str, ...], read: tuple[str, ...] | None, dropout: float, **heads: float) -> RunConfig:
    return RunConfig(
        run_id="subset",
        seed=1,
        features=FeatureSpec(digest="0" * 64, items=ITEMS, dims={name: WIDTHS[name] for name in bundle}),
        model=ModelConfig(hidden=4, trained_dims=4, modalities=read, heads=heads),
        training=TrainingConfig(
            rounds=1, local_steps=3, sample_rate=0.5, max_history=4, negatives=5, modality_dropout=dropout
        ),
        privacy=PrivacyConfig(epsilon=4.0, delta=1e-3, noise_multiplier=1e-3, popularity_noise_multiplier=3.0),
    )


def state_of(config: RunConfig) -> Arrays:
    return {**initial_state(config), "prior": np.linspace(-1, 1, ITEMS).astype(np.float32)}


def histories() -> Histories:
    rng = np.random.default_rng(3)
    return Histories(np.arange(0, USERS * 5 + 1, 5), rng.integers(0, ITEMS, USERS * 5))


def labels() -> Labels:
    """Each user was shown five items and clicked every other one."""
    rng, rows = np.random.default_rng(4), USERS * 5
    feedback = Feedback(
        offsets=np.arange(0, rows + 1, 5),
        items=rng.integers(0, ITEMS, rows),
        seconds=np.arange(rows, dtype=np.float64),
        shown=np.ones(rows, bool),
        clicked=np.arange(rows) % 2 == 0,
        converted=np.zeros(rows, bool),
        ratings=np.full(rows, np.nan),
    )
    return Labels(feedback, np.full(ITEMS, -1))


def trained(config: RunConfig, items: Items) -> Arrays:
    noise = GaussianNoise(seed=b"same")
    given = labels() if config.model.heads else None
    return train_round(config, items, histories(), state_of(config), users=USERS, noise=noise, labels=given).update


@pytest.mark.parametrize("heads", [{}, {"ctr": 1.0}], ids=["ranking", "with a head"])
@pytest.mark.parametrize("dropout", [0.0, 0.6])
@pytest.mark.parametrize("read", [("text",), ("text", "audio"), EVERYTHING], ids="+".join)
def test_a_modality_that_the_model_does_not_read_changes_nothing(
    read: tuple[str, ...], dropout: float, heads: dict[HeadName, float]
) -> None:
    within = trained(plan(EVERYTHING, read, dropout, **heads), catalogue(*EVERYTHING))
    alone = trained(plan(read, None, dropout, **heads), catalogue(*read))
    assert set(within) == set(alone)
    for name, update in within.items():
        np.testing.assert_array_equal(update, alone[name], err_msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_only_what_the_model_reads_is_gathered(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered, real = set[str](), Items.take
    monkeypatch.setattr(Items, "take", lambda items, index: (gathered.update(items.vectors), real(items, index))[1])
    trained(plan(EVERYTHING, ("image", "video"), dropout), catalogue(*EVERYTHING))
    assert gathered == {"image", "video"}


def test_the_model_of_all_modalities_has_the_catalogue_as_it_is() -> None:
    items = catalogue(*EVERYTHING)
    config = plan(EVERYTHING, None, 0.0)
    _, found = global_model(config, items, state_of(config))
    assert found.vectors is items.vectors
    assert found.present_M is items.present_M
