"""A coordinator that dies anywhere on the ladder goes on to the same scorer and the same export; a lost one is told.

The real coordinator runs against the tiny partner app over the loopback grid, as in `test_loopback_faults`.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flwr.app import Array, Message

from mmrec_model.canonical import canonical_json
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.config_ladder import CollaborationConfig, GateConfig
from mmrec_model.errors import AdmissionError, FeatureError, ModelError
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.protocol import ACTIVITY, ARRAYS, CAP, COMPARED, FIELDS, PAIRS, SCORER, SELECTED, Kind
from server.app import coordinate
from server.checkpoint import Snapshot
from server.journal import read_journal
from server.sites import coordinator_key, write_partners
from simulations.loopback import Channel, LoopbackGrid

ITEMS, M = 12, 6
USERS = {"be": 100, "fr": 300, "nl": 200}
WAVES = (
    Kind.DESCRIBE, Kind.ACTIVITY, Kind.POPULARITY, Kind.PAIRS, Kind.SCORER, Kind.TRAIN, Kind.COMPARE, Kind.RECEIPT,
)  # fmt: skip


def tiny() -> ModuleType:
    place = Path(__file__).parent / "tiny_app" / "tiny_partner.py"
    spec = importlib.util.spec_from_file_location("tiny_partner", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan(workspace: Path, *, minimum: int = 2, **changes: object) -> RunConfig:
    return RunConfig(
        run_id="ladder",
        seed=1,
        features=open_bundle(workspace / "features").spec,
        model=ModelConfig(collaboration_weight=0.3),
        training=TrainingConfig(rounds=1),
        privacy=PrivacyConfig(
            epsilon=8.0,
            noise_multiplier=1.0,
            popularity_noise_multiplier=2.0,
            activity_quantile=0.5,
            activity_noise_multiplier=3.0,
        ),
        collaboration=CollaborationConfig(items=M, noise_multiplier=2.0),
        gate=GateConfig(metric="mrr", noise_multiplier=0.5),
        minimum_cohort=minimum,
        round_timeout=5.0,
    ).model_copy(update=changes)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def make_workspace(workspace: Path, **changes: object) -> None:
    rows = np.random.default_rng(5).normal(size=(ITEMS, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [f"i{number}" for number in range(ITEMS)]
    files = {"items.json": canonical_json(ids), "present.npy": npy(np.ones((ITEMS, 1), bool)), "text.npy": npy(rows)}
    write_bundle(workspace / "features", files, {"items": ITEMS, "modalities": {}})
    (workspace / "plan.json").write_text(plan(workspace, **changes).model_dump_json())
    coordinator_key(workspace / "coordinator")
    keys = {name: tiny().own_key(name).public.hexadecimal for name in USERS}
    write_partners(workspace / "coordinator", keys)
    for name, users in USERS.items():
        (workspace / "sites" / name).mkdir(parents=True)
        (workspace / "sites" / name / "users").write_text(str(users))


def run(workspace: Path, channel: Channel | None = None, **changes: object) -> Snapshot:
    """One run of three partners, as far as the faults allow."""
    if not (workspace / "plan.json").exists():
        make_workspace(workspace, **changes)
    sites = [workspace / "sites" / name for name in USERS]
    grid = LoopbackGrid(tiny().app, sites, {"workspace": str(workspace)}, channel=channel)
    return coordinate(grid, workspace, lambda _: {"user.weight": np.zeros((3, 4), np.float32)})


def events(workspace: Path, event: str) -> list[dict[str, object]]:
    return [item for item in read_journal(workspace / "coordinator" / "run.jsonl") if item["event"] == event]


def results(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "coordinator"
    names = ("activity.json", "final.safetensors", "scorer.safetensors", "scorer.json")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("undisturbed")
    run(workspace)
    return workspace


def killed_at(message: int) -> Channel:
    count = itertools.count(1)

    def kill(request: Message, reply: Message) -> list[Message]:
        if next(count) == message:
            raise KeyboardInterrupt
        return [reply]

    return kill


def test_the_journal_names_every_wave_with_what_it_gave(undisturbed: Path) -> None:
    told = list(read_journal(undisturbed / "coordinator" / "run.jsonl"))
    expected = ["described", "activity", "popularity", "pairs", "scorer", "round", "gate", "receipts", "finished"]
    assert [item["event"] for item in told] == expected
    (pairs,), (gate,) = events(undisturbed, "pairs"), events(undisturbed, "gate")
    assert pairs["items"] == M
    assert set(gate["measured"]["metrics"]) == {  # type: ignore[index]
        "popularity", "content", "free", "pairs", "collaboration", "trained",
    }  # fmt: skip
    facts = json.loads((undisturbed / "coordinator" / "scorer.json").read_text())
    assert facts["scorer"] == events(undisturbed, "scorer")[0]["scorer"]
    assert facts["noise"] == pytest.approx(2.0 * 3**0.5)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("wave", range(len(WAVES)))
def test_a_coordinator_killed_in_any_wave_makes_the_same_scorer_and_the_same_export(
    wave: int, place: int, tmp_path: Path, undisturbed: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed_at(3 * wave + place + 1))
    run(tmp_path)
    assert results(tmp_path) == results(undisturbed)
    assert len(events(tmp_path, "round")) == len(events(tmp_path, "popularity")) == 1
    assert len(events(tmp_path, "pairs")) == 1, "asked once, or again before it was made"
    assert len(events(tmp_path, "activity")) == 1, "a second cap would be refused"


def caps_of(requests: list[Message]) -> set[float]:
    return {float(request.content.array_records[ARRAYS][CAP].numpy()[0]) for request in requests}


def test_the_cap_that_activity_gives_is_the_one_that_popularity_is_asked_with(tmp_path: Path) -> None:
    asked: list[Message] = []

    def note(request: Message, reply: Message) -> list[Message]:
        asked.extend([request] if request.metadata.message_type == Kind.POPULARITY else [])
        return [reply]

    run(tmp_path, note)
    (told,) = events(tmp_path, "activity")
    # equal buckets of 1, 2, 3, 4, 6, ... 20: the half is reached in the fifth of nine
    assert caps_of(asked) == {told["cap"]} == {6}
    assert json.loads((tmp_path / "coordinator" / "activity.json").read_text())["cap"] == 6
    assert told["noise"] == pytest.approx(3.0 * 3**0.5)


@pytest.mark.parametrize("spoil", ["", "{", '{"cap": 21, "plan_digest": "PLAN"}', '{"cap": 3, "plan_digest": "other"}'])
def test_a_damaged_cap_or_one_of_another_plan_is_chosen_again(spoil: str, tmp_path: Path, undisturbed: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed_at(3 * WAVES.index(Kind.POPULARITY) + 1))
    file = tmp_path / "coordinator" / "activity.json"
    digest = json.loads(file.read_text())["plan_digest"]
    file.write_text(spoil.replace("PLAN", digest))
    run(tmp_path)
    assert results(tmp_path) == results(undisturbed)
    assert len(events(tmp_path, "activity")) == 2


def test_too_little_activity_leaves_the_plans_cap_for_the_whole_run(tmp_path: Path) -> None:
    bad = np.full(9, np.nan, np.float32)
    run(tmp_path, faulty(Kind.ACTIVITY, ACTIVITY, bad), minimum=3)
    (told,) = events(tmp_path, "activity")
    assert (told["cap"], told["counts"], told["rejected"]) == (20, None, {"non_finite": 1})


def test_a_finished_run_started_again_changes_nothing(tmp_path: Path, undisturbed: Path) -> None:
    run(tmp_path)
    run(tmp_path)
    assert results(tmp_path) == results(undisturbed)


def test_a_damaged_scorer_is_made_again_before_training_and_refused_after(tmp_path: Path, undisturbed: Path) -> None:
    scorer = tmp_path / "coordinator" / "scorer.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, killed_at(3 * WAVES.index(Kind.SCORER) + 1))
    content = bytearray(scorer.read_bytes())
    content[-1] ^= 1
    scorer.write_bytes(bytes(content))
    run(tmp_path)
    assert results(tmp_path) == results(undisturbed)
    assert len(events(tmp_path, "pairs")) == 2
    scorer.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="is not the scorer"):
        run(tmp_path)


def test_a_scorer_of_another_plan_that_lies_in_the_folder_is_not_used(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "coordinator"
    folder.mkdir(parents=True)
    for name in ("scorer.safetensors", "scorer.json"):
        (folder / name).write_bytes((undisturbed / "coordinator" / name).read_bytes())
    run(tmp_path, gate=GateConfig(metric="recall_at_5", noise_multiplier=0.5))
    assert len(events(tmp_path, "pairs")) == 1


def test_a_bundle_that_is_not_the_plans_makes_no_scorer(tmp_path: Path) -> None:
    make_workspace(tmp_path)
    config = plan(tmp_path)
    other = config.features.model_copy(update={"digest": "0" * 64})
    (tmp_path / "plan.json").write_text(config.model_copy(update={"features": other}).model_dump_json())
    with pytest.raises(FeatureError, match="the plan names 000000000000"):
        run(tmp_path)


def faulty(kind: Kind, name: str, value: np.ndarray) -> Channel:
    """Partner fr sends this array in its reply of a kind."""

    def fault(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == kind and reply.content.config_records[FIELDS]["partner"] == "fr":
            reply.content.array_records[ARRAYS][name] = Array(value)
        return [reply]

    return fault


FAULTS = {
    "too many users": (Kind.ACTIVITY, ACTIVITY, np.full(9, 1e5, np.float32), "norm"),
    "another number of buckets": (Kind.ACTIVITY, ACTIVITY, np.zeros(8, np.float32), "wrong_shape"),
    "a number that is none": (Kind.PAIRS, PAIRS, np.full(M * (M + 1) // 2, np.nan, np.float32), "non_finite"),
    "huge pairs": (Kind.PAIRS, PAIRS, np.full(M * (M + 1) // 2, 1e5, np.float32), "norm"),
    "a matrix": (Kind.PAIRS, PAIRS, np.zeros((M, M), np.float32), "wrong_shape"),
    "more than was asked": (Kind.PAIRS, "users", np.zeros(3, np.float32), "extra_array"),
    "an answer to a scorer": (Kind.SCORER, SCORER, np.zeros((M, M), np.float32), "extra_array"),
    "scores beyond belief": (Kind.COMPARE, COMPARED, np.full(7, 1e5, np.float32), "norm"),
    "scores without users": (Kind.COMPARE, COMPARED, np.zeros(6, np.float32), "wrong_shape"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_reply_of_the_ladder_is_counted_and_not_used(fault: str, tmp_path: Path) -> None:
    kind, name, value, reason = FAULTS[fault]
    run(tmp_path, faulty(kind, name, value))
    event = {Kind.ACTIVITY: "activity", Kind.PAIRS: "pairs", Kind.SCORER: "scorer", Kind.COMPARE: "gate"}[kind]
    (told,) = events(tmp_path, event)
    assert told["rejected"] == {reason: 1}
    assert told["accepted"] == ["be", "nl"]


def test_too_few_pairs_end_the_run_and_too_few_comparisons_export_free(tmp_path: Path) -> None:
    nan = np.full(M * (M + 1) // 2, np.nan, np.float32)
    with pytest.raises(AdmissionError, match="minimum_cohort is 3"):
        run(tmp_path / "pairs", faulty(Kind.PAIRS, PAIRS, nan), minimum=3)
    assert not (tmp_path / "pairs" / "coordinator" / "scorer.safetensors").exists()
    scores = np.full(7, np.nan, np.float32)
    final = run(tmp_path / "gate", faulty(Kind.COMPARE, COMPARED, scores), minimum=3)
    (gate,) = events(tmp_path / "gate", "gate")
    assert (gate["rung"], gate["measured"]) == ("free", None)
    assert final.kept_terms is not None
    assert final.kept_terms.tolist() == [1, 1, 0]
    assert not final.state["user.weight"].any()


def test_the_scorer_crosses_the_wire_once_and_later_messages_name_it(tmp_path: Path) -> None:
    carried: list[tuple[str, set[str], str]] = []

    def note(request: Message, reply: Message) -> list[Message]:
        arrays = set(request.content.array_records[ARRAYS]) if ARRAYS in request.content else set()
        named = str(request.content.config_records[FIELDS]["scorer"])
        carried.append((request.metadata.message_type, arrays, named))
        return [reply]

    run(tmp_path, note)
    digest = events(tmp_path, "scorer")[0]["scorer"]
    assert sum(SCORER in arrays for _, arrays, _ in carried) == len(USERS)
    assert {kind for kind, arrays, _ in carried if SELECTED in arrays} == {Kind.PAIRS, Kind.SCORER}
    assert {kind for kind, _, named in carried if named == digest} == {Kind.TRAIN, Kind.COMPARE}
