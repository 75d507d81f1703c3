"""What is exported is the rung with the best released score, the simpler one of equals, and `free` without a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmrec_model.config import FeatureSpec, ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import CollaborationConfig, GateConfig
from mmrec_model.ladder import SAFE, TRAINED, kept_terms, rungs_of
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import initial_state
from mmrec_model.model.scoring import score_catalogue
from mmrec_model.model.state import model_of_state, state_of_rung
from mmrec_model.protocol import SCORER, SELECTED, Arrays, arrays_digest
from server.checkpoint import Snapshot, export_state
from server.gate import Verdict, decide, gated
from server.measurement import Mean, Measured

N_ITEMS, M = 12, 5
HISTORIES = [np.array([0, 3, 5]), np.array([7])]


def plan(*, items: int = M, rounds: int = 2) -> RunConfig:
    return RunConfig(
        run_id="gate",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=N_ITEMS, dims={"text": 6, "image": 4}),
        model=ModelConfig(hidden=4, trained_dims=4, collaboration_weight=0.3 if items else 0.0),
        training=TrainingConfig(rounds=rounds),
        privacy=PrivacyConfig(epsilon=1.0, noise_multiplier=1.0, popularity_noise_multiplier=1.0),
        collaboration=CollaborationConfig(items=items, noise_multiplier=1.0 if items else 0.0),
        gate=GateConfig(metric="ndcg_at_10", noise_multiplier=1.0),
    )


def measured(config: RunConfig, **values: float) -> Measured:
    """Scores of .1, but for the named rungs."""
    return Measured(500.0, 1.0, {rung: Mean(values.get(rung, 0.1), 0.01) for rung in rungs_of(config)})


def test_the_rungs_stand_from_the_simplest_up_and_only_those_that_the_plan_has() -> None:
    assert rungs_of(plan()) == ("popularity", "content", "free", "pairs", "collaboration", "trained")
    assert rungs_of(plan(items=0)) == ("popularity", "content", "free", "trained")
    assert rungs_of(plan(rounds=0)) == ("popularity", "content", "free", "pairs", "collaboration")
    assert rungs_of(plan(items=0, rounds=0)) == ("popularity", "content", "free")


@pytest.mark.parametrize("rung", rungs_of(plan()))
def test_the_rung_with_the_largest_mean_is_exported(rung: str) -> None:
    assert decide(plan(), measured(plan(), **{rung: 0.100001})).rung == rung


def test_of_equals_the_simpler_one_is_exported() -> None:
    assert decide(plan(), measured(plan())).rung == "popularity"
    assert decide(plan(), measured(plan(), trained=0.2, free=0.2, pairs=0.2)).rung == "free"


def test_a_trained_model_below_any_floor_is_not_exported_however_little() -> None:
    found = measured(plan(), trained=0.2, popularity=np.nextafter(0.2, 1.0))
    assert decide(plan(), found).rung == "popularity"


@pytest.mark.parametrize("config", [plan(), plan(items=0, rounds=0)])
def test_without_a_figure_free_is_exported(config: RunConfig) -> None:
    assert decide(config, None) == Verdict(SAFE, None)
    nothing = Measured(3.0, 9.0, {})
    assert decide(config, nothing) == Verdict(SAFE, nothing)


def test_the_verdict_is_written_with_both_numbers_of_every_rung() -> None:
    said = decide(plan(), measured(plan(), pairs=0.3)).to_json()
    assert said["rung"] == "pairs"
    assert said["measured"]["metrics"]["trained"] == {"value": 0.1, "error": 0.01}
    assert decide(plan(), None).to_json() == {"rung": SAFE, "measured": None}


@pytest.mark.parametrize(
    ("rung", "kept"),
    [
        ("popularity", [0, 0, 1, 0]),
        ("content", [1, 1, 0, 0]),
        ("free", [1, 1, 1, 0]),
        ("pairs", [0, 0, 0, 1]),
        ("collaboration", [1, 1, 1, 1]),
        (TRAINED, [1, 1, 1, 1]),
    ],
)
def test_a_rung_keeps_its_own_terms(rung: str, kept: list[int]) -> None:
    assert kept_terms(plan(), rung).tolist() == kept
    if rung not in {"pairs", "collaboration"}:
        assert kept_terms(plan(items=0), rung).tolist() == kept[:3]


def trained_snapshot(config: RunConfig) -> tuple[Snapshot, Arrays]:
    rng = np.random.default_rng(1)
    state = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in initial_state(config).items()}
    scorer = {SCORER: rng.normal(size=(M, M)).astype(np.float32), SELECTED: np.array([0, 2, 3, 7, 11], np.float32)}
    prior = rng.normal(size=N_ITEMS).astype(np.float32)
    return Snapshot(2, state, prior, state, {"be": 5}, scorer=arrays_digest(scorer)), scorer


def catalogue(prior: np.ndarray) -> Items:
    rng = np.random.default_rng(2)
    vectors = {
        name: rng.normal(size=(N_ITEMS, width)).astype(np.float32) for name, width in (("text", 6), ("image", 4))
    }
    return Items.from_arrays(vectors, np.ones((N_ITEMS, 2), bool), prior)


@pytest.mark.parametrize("rung", rungs_of(plan()))
def test_an_exported_rung_ranks_like_that_rung_and_not_like_what_was_trained(rung: str, tmp_path: Path) -> None:
    config = plan()
    snapshot, scorer = trained_snapshot(config)
    final = gated(config, snapshot, Verdict(rung, None), initial_state(config))
    path = tmp_path / "final.safetensors"
    export_state(path, final, scorer, run_id="gate", plan_digest=config.digest)
    items = catalogue(snapshot.prior)
    found = score_catalogue(model_of_state(config, load_file(path)), items, HISTORIES)
    expected = state_of_rung(config, {**snapshot.travelling, **scorer}, rung)
    np.testing.assert_array_equal(found, score_catalogue(model_of_state(config, expected), items, HISTORIES))
    whole = score_catalogue(model_of_state(config, {**snapshot.travelling, **scorer}), items, HISTORIES)
    assert np.array_equal(found, whole) == (rung == TRAINED)
    assert final.digest != snapshot.digest
    assert final.scorer == snapshot.scorer


def test_what_popularity_exports_ranks_by_the_prior_for_everyone(tmp_path: Path) -> None:
    config = plan()
    snapshot, scorer = trained_snapshot(config)
    final = gated(config, snapshot, Verdict("popularity", None), initial_state(config))
    model = model_of_state(config, {**final.travelling, **scorer})
    for row in score_catalogue(model, catalogue(snapshot.prior), HISTORIES):
        np.testing.assert_array_equal(np.argsort(row), np.argsort(snapshot.prior))
