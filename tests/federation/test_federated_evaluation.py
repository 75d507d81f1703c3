"""What the coordinator learns of quality: right within its stated error, never at the cost of the run, paid for once.

Real coordinator and real partners over the loopback grid. The central figure is that of whoever runs the simulation.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flwr.app import Array, Message
from safetensors.numpy import load

from client.app import app as client_app
from client.site import Site
from mmrec_model.canonical import canonical_json
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.data.writing import write_partner
from mmrec_model.evaluation.ranking import Ranks
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import plan_events
from mmrec_model.privacy.events import from_record, merge
from mmrec_model.protocol import ARRAYS, FIELDS, METRICS, Arrays, Kind
from server.app import coordinate
from server.journal import read_journal
from simulations.assessment import model_ranks, panel_of
from simulations.loopback import Channel, LoopbackGrid
from simulations.released_metrics import evaluation_records
from simulations.run_record import EvaluationRecord
from simulations.workspace import Recipe, found

N_ITEMS, ROUNDS, NAMES = 30, 2, ("be", "fr", "nl")
USERS = {"be": 250, "fr": 500, "nl": 350}
METRIC_NAMES = ("recall_at_5", "ndcg_at_10", "mrr")


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interactions of all users, and a bundle of random vectors."""
    folder, rng = tmp_path_factory.mktemp("public"), np.random.default_rng(4)
    vectors = rng.normal(size=(N_ITEMS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = []
    for name, users in USERS.items():
        for user in range(users):
            taste = vectors @ rng.normal(size=8) + rng.gumbel(size=N_ITEMS)
            liked = np.argsort(-taste)[: 6 if user % 9 else 2]
            rows += [(f"{name}-{user}", f"i{item:02d}", 1.6e9 + place) for place, item in enumerate(liked)]
    ids = [f"i{number:02d}" for number in range(N_ITEMS)]
    columns = ("user_id", "item_id", "timestamp")
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(columns)})
    write_partner(folder / "data", interactions=table, items=pa.table({"item_id": ids, "title": ids, "text": ids}))
    present = np.ones((N_ITEMS, 1), dtype=bool)
    files = {"items.json": canonical_json(list(ids)), "present.npy": npy(present), "text.npy": npy(vectors)}
    write_bundle(folder / "features", files, {"items": N_ITEMS, "modalities": {}})
    return folder


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def found_federation(public: Path, workspace: Path, *, private: bool = True, minimum: int = 3) -> RunConfig:
    """A workspace with three enrolled partners."""
    workspace.mkdir(parents=True)
    (workspace / "features").symlink_to(public / "features")
    privacy = PrivacyConfig(epsilon=16.0, delta=1e-4, noise_multiplier=2.0, popularity_noise_multiplier=3.0)
    bare = PrivacyConfig(
        mechanism="none", epsilon=None, delta=1e-4, noise_multiplier=0.0, popularity_noise_multiplier=0.0
    )
    config = RunConfig(
        run_id="evaluated",
        seed=0,
        features=open_bundle(public / "features").spec,
        model=ModelConfig(hidden=4, trained_dims=6),
        training=TrainingConfig(rounds=ROUNDS, max_history=4, negatives=3, micro_batch=512),
        privacy=privacy if private else bare,
        evaluation=EvaluationConfig(
            metrics=METRIC_NAMES, every=1, final=True, noise_multiplier=2.0 if private else 0.0
        ),
        minimum_cohort=minimum,
    )
    (workspace / "plan.json").write_text(config.model_dump_json())
    groups = {name: [f"{name}-{user}" for user in range(users)] for name, users in USERS.items()}
    found(Recipe(public / "data", workspace, 16.0, 1e-4, 11, config.training), groups, config)
    return config


def sites_of(workspace: Path) -> list[Site]:
    return [Site.open(workspace / "sites" / name) for name in NAMES]


def run(workspace: Path, channel: Channel | None = None) -> None:
    roots = [workspace / "sites" / name for name in NAMES]
    coordinate(LoopbackGrid(client_app, roots, {}, channel=channel), workspace, initial_state)


def events(workspace: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_journal(workspace / "coordinator" / "run.jsonl") if event["event"] == name]


def records(workspace: Path, config: RunConfig) -> list[EvaluationRecord]:
    sites = sites_of(workspace)
    panel = panel_of([site.dataset for site in sites], "val")

    def rank(state: Arrays) -> Ranks:
        return model_ranks(config, sites[0].items, panel, state)

    exported = load((workspace / "coordinator" / "final.safetensors").read_bytes())
    return evaluation_records(config, workspace / "coordinator", exported, rank)


def assert_everything_planned_is_spent_and_no_more(workspace: Path, config: RunConfig) -> None:
    for site in sites_of(workspace):
        with site.open_ledger() as ledger:
            assert merge(map(from_record, ledger.spent())) == merge(plan_events(config)), site.config.name


@pytest.fixture(scope="module")
def finished(public: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    workspace = tmp_path_factory.mktemp("finished") / "run"
    config = found_federation(public, workspace)
    run(workspace)
    return workspace, config


def test_every_evaluation_of_the_plan_is_told_of_and_paid_for_once(finished: tuple[Path, RunConfig]) -> None:
    workspace, config = finished
    assert [event["round"] for event in events(workspace, "evaluated")] == [1, 2, 3]
    assert events(workspace, "evaluated")[-1]["model_digest"] == events(workspace, "finished")[0]["model_digest"]
    assert_everything_planned_is_spent_and_no_more(workspace, config)


def test_the_released_figure_agrees_with_the_central_one_within_its_stated_error(
    finished: tuple[Path, RunConfig],
) -> None:
    told = records(*finished)
    assert [(record.round, record.exported) for record in told] == [(1, False), (2, False), (2, True)]
    misses = []
    for record in told:
        for figure in record.metrics.values():
            assert figure.value is not None
            assert figure.central is not None
            assert figure.error is not None
            assert 0.0 < figure.error < 0.02
            misses.append((figure.value - figure.central) / figure.error)
        assert abs((record.users or 0.0) - record.central_users) < 4 * (record.users_error or 0.0)
    assert max(map(abs, misses)) < 4.0
    assert np.std(misses) > 0.3, "the stated error is not far too large"


def test_without_noise_the_two_figures_are_the_same(public: Path, tmp_path: Path) -> None:
    config = found_federation(public, tmp_path / "bare", private=False)
    run(tmp_path / "bare")
    for record in records(tmp_path / "bare", config):
        assert record.users == record.central_users
        for figure in record.metrics.values():
            assert figure.value == pytest.approx(figure.central, rel=1e-6)


def refuse_metrics(root: Path) -> None:
    policy = root / "policy.toml"
    lines = [line for line in policy.read_text().splitlines() if not line.startswith("allowed_metrics")]
    policy.write_text("\n".join([*lines, "allowed_metrics = []\n"]))


@pytest.mark.parametrize(("minimum", "has_figure"), [(2, True), (3, False)])
def test_a_partner_that_refuses_metrics_trains_and_the_run_goes_on(
    public: Path, tmp_path: Path, minimum: int, has_figure: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = found_federation(public, tmp_path / "run", minimum=minimum)
    refuse_metrics(tmp_path / "run" / "sites" / "fr")
    run(tmp_path / "run")
    told = events(tmp_path / "run", "evaluated")
    assert [event["measured"] is not None for event in told] == [has_figure] * 3
    assert [event["rejected"] for event in told] == [{"refused_by_partner": 1}] * 3
    assert "metrics" in told[0]["rejections"][0]["text"]
    assert all(event["accepted"] == list(NAMES) for event in events(tmp_path / "run", "round"))
    assert events(tmp_path / "run", "finished")
    assert any("fr" in line and "refuse" in line for line in caplog.messages)
    figures = [figure.value for record in records(tmp_path / "run", config) for figure in record.metrics.values()]
    assert all((figure is not None) == has_figure for figure in figures)


def test_an_evaluation_that_a_crash_cut_off_is_made_up_for_and_not_paid_twice(public: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "run"
    config = found_federation(public, workspace)

    def die(request: Message, reply: Message) -> list[Message]:
        fields = reply.content.config_records[FIELDS]
        if (fields["kind"], fields["round"], fields["partner"]) == (Kind.EVALUATE, 1, "fr"):
            raise KeyboardInterrupt
        return [reply]

    with pytest.raises(KeyboardInterrupt):
        run(workspace, die)
    assert events(workspace, "evaluated") == []
    run(workspace)
    run(workspace)
    assert [event["round"] for event in events(workspace, "evaluated")] == [1, 2, 3]
    assert all(event["measured"] for event in events(workspace, "evaluated"))
    assert_everything_planned_is_spent_and_no_more(workspace, config)


FAULTS: dict[int, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    1: ("non_finite", lambda sums: sums * np.float32(np.nan)),
    2: ("wrong_shape", lambda sums: sums[:1]),
    3: ("norm", lambda sums: sums * np.float32(1e6)),
}
"""By evaluated round."""


def test_a_release_that_is_not_as_the_contract_says_counts_for_nothing(public: Path, tmp_path: Path) -> None:
    def spoil(request: Message, reply: Message) -> list[Message]:
        fields = reply.content.config_records[FIELDS]
        if (fields["kind"], fields["partner"]) == (Kind.EVALUATE, "fr"):
            arrays, (_, change) = reply.content.array_records[ARRAYS], FAULTS[int(str(fields["round"]))]
            arrays[METRICS] = Array(change(arrays[METRICS].numpy()))
        return [reply]

    found_federation(public, tmp_path / "run", minimum=2)
    run(tmp_path / "run", spoil)
    told = events(tmp_path / "run", "evaluated")
    assert [event["rejected"] for event in told] == [{reason: 1} for reason, _ in FAULTS.values()]
    for event in told:
        assert event["accepted"] == ["be", "nl"]
        assert 500 < event["measured"]["users"] < 560
