"""A federation that releases pairs of features trains, chooses and exports, and its export scores what nobody met.

The real coordinator and the real partners over the loopback grid.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from flwr.app import Message

from client.app import app as client_app
from mmrec_model.canonical import canonical_json
from mmrec_model.collaboration.layout import released_numbers
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import CollaborationConfig, EvaluationConfig, GateConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.library import MultimodalRecommender
from mmrec_model.model.folder import save_model
from mmrec_model.model.recommender import initial_state
from mmrec_model.protocol import ARRAYS, FEATURE_MAP, FIELDS, METRIC, PAIRS, SCORER, SELECTED, Kind
from server.app import coordinate
from server.journal import read_journal
from simulations.loopback import LoopbackGrid
from simulations.record import final_state
from simulations.workspace import Recipe, found

N_ITEMS, MET, WIDTH, DIMS = 30, 24, 8, 5
USERS = {"north": 40, "south": 50}
FORMS = {
    "features": CollaborationConfig(dims=DIMS, noise_multiplier=0.5),
    "both": CollaborationConfig(items=10, dims=DIMS, feature_share=0.4, noise_multiplier=0.5),
}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def plan(workspace: Path, asked: CollaborationConfig) -> RunConfig:
    return RunConfig(
        run_id="features",
        seed=0,
        features=open_bundle(workspace / "features").spec,
        model=ModelConfig(
            hidden=4, trained_dims=6, metric_weight=0.05, collaboration_weight=0.3 if asked.items else 0.0
        ),
        training=TrainingConfig(rounds=1, local_steps=1, max_history=4, negatives=3, sample_rate=0.3),
        privacy=PrivacyConfig(epsilon=60.0, delta=1e-3, noise_multiplier=1.0, popularity_noise_multiplier=1.0),
        evaluation=EvaluationConfig(metrics=("mrr",), final=True, noise_multiplier=1.0),
        collaboration=asked,
        gate=GateConfig(metric="mrr", noise_multiplier=1.0),
        minimum_cohort=len(USERS),
    )


def make_workspace(workspace: Path, asked: CollaborationConfig) -> RunConfig:
    """Items of two kinds, by the sign of their first dimension; users want one kind, and the last items nobody met."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(N_ITEMS, WIDTH)).astype(np.float32)
    vectors[:, 0] = np.where(np.arange(N_ITEMS) % 2, 3.0, -3.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"i{number:02d}" for number in range(N_ITEMS)]
    rows = [
        (f"{name}-{user:03d}", ids[item], 1_600_000_000.0 + place)
        for name, users in USERS.items()
        for user in range(users)
        for place, item in enumerate(rng.choice(np.arange(user % 2, MET, 2), size=6, replace=False))
    ]
    names = ("user_id", "item_id", "timestamp")
    events = pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})
    items = pa.table({"item_id": ids, "title": ids, "text": ids})
    write_partner(workspace / "source", interactions=events, items=items)
    present = np.ones((N_ITEMS, 1), dtype=bool)
    files = {"items.json": canonical_json(list(ids)), "present.npy": npy(present), "text.npy": npy(vectors)}
    write_bundle(workspace / "features", files, {"items": N_ITEMS, "modalities": {}})
    config = plan(workspace, asked)
    (workspace / "plan.json").write_text(config.model_dump_json())
    users = sorted(set(events["user_id"].to_pylist()))
    groups = {name: [user for user in users if user.startswith(name)] for name in USERS}
    found(Recipe(workspace / "source", workspace, 60.0, 1e-3, 7, config.training), groups, config)
    return config


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_federation_with_pairs_of_features_exports_a_model_that_knows_items_nobody_met(
    tmp_path: Path, form: str
) -> None:
    config = make_workspace(tmp_path, FORMS[form])
    carried: list[tuple[Kind, set[str], dict[str, np.ndarray]]] = []

    def note(request: Message, reply: Message) -> list[Message]:
        said, asked = reply.content, request.content
        assert said.config_records[FIELDS]["refusal"] == "", said.config_records[FIELDS]["refusal_text"]
        names = set(asked.array_records[ARRAYS]) if ARRAYS in asked.array_records else set()
        arrays = {name: one.numpy() for name, one in said.array_records[ARRAYS].items()} if ARRAYS in said else {}
        carried.append((Kind(str(said.config_records[FIELDS]["kind"])), names, arrays))
        return [reply]

    sites = [tmp_path / "sites" / name for name in USERS]
    grid = LoopbackGrid(client_app, sites, {"workspace": str(tmp_path)}, channel=note)
    coordinate(grid, tmp_path, initial_state)

    of_items = {SELECTED} if config.collaboration.items else set()
    assert all(names == of_items | {FEATURE_MAP} for kind, names, _ in carried if kind is Kind.PAIRS)
    made = of_items | {FEATURE_MAP, METRIC} | ({SCORER} if of_items else set())
    assert all(names == made for kind, names, _ in carried if kind is Kind.SCORER)
    assert {names & made == set() for kind, names, _ in carried if kind in {Kind.TRAIN, Kind.COMPARE}} == {True}
    released = [arrays for kind, _, arrays in carried if kind is Kind.PAIRS]
    assert [{name: one.shape for name, one in arrays.items()} for arrays in released] == [
        {PAIRS: (released_numbers(config.collaboration),)}
    ] * len(USERS)
    events = list(read_journal(tmp_path / "coordinator" / "run.jsonl"))
    assert next(event for event in events if event["event"] == "pairs")["dims"] == DIMS
    assert next(event for event in events if event["event"] == "gate")["rung"]
    assert any(event["event"] == "evaluated" and event["measured"] for event in events)

    save_model(tmp_path / "model", config, final_state(tmp_path), card="a card")
    exported = MultimodalRecommender.load(tmp_path / "model")
    model = exported.exported.model
    assert model.metric_scorer is not None
    history, everything = (exported.items.take(torch.tensor([one])) for one in ([1, 3, 5], list(range(N_ITEMS))))
    seen = torch.ones(1, 1, 3, dtype=torch.bool)
    term = model.metric_scorer(history, seen, everything, leave_one_out=False)[0, 0].numpy()
    unmet = np.arange(MET, N_ITEMS)
    assert term[unmet[unmet % 2 == 1]].mean() > term[unmet[unmet % 2 == 0]].mean() + 0.5
    assert np.isfinite(exported.score(["i01", "i03"])).all()
