"""Every bad reply costs its sender the round and nobody else anything; a void round ends the run with its reason.

The real coordinator runs against the tiny partner app over the loopback grid. Each fault is injected into the network
between them; the global model afterwards must be, bit for bit, that of a run in which the reply never arrived.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flwr.app import Array, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from mmrec_model.config import FeatureSpec, PrivacyConfig, RunConfig, TrainingConfig
from mmrec_model.errors import AdmissionError, ConfigError, ModelError
from mmrec_model.privacy.fork import ForkProof
from mmrec_model.privacy.heads import Head, SignedHead, sign_growth, sign_head, statement_from_json
from mmrec_model.privacy.keys import PublicKey
from mmrec_model.protocol import ARRAYS, FIELDS, PROTOCOL_VERSION, Kind
from server.app import coordinate
from server.checkpoint import Snapshot
from server.journal import read_journal
from server.partners import revoke
from server.sites import coordinator_key, write_partners
from simulations.loopback import Channel, LoopbackGrid

ITEMS = 12
SHAPES = {"user.weight": (3, 4), "user.bias": (4,)}
USERS = {"be": 100, "fr": 300, "nl": 200}


def plan(*, rounds: int = 3, minimum: int = 2) -> RunConfig:
    return RunConfig(
        run_id="faults",
        seed=1,
        features=FeatureSpec(digest="0" * 64, items=ITEMS, dims={"text": 4}),
        training=TrainingConfig(rounds=rounds),
        privacy=PrivacyConfig(epsilon=8.0, noise_multiplier=1.0, popularity_noise_multiplier=2.0),
        minimum_cohort=minimum,
        round_timeout=5.0,
    )


def initial(_: RunConfig) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "tiny_partner", Path(__file__).parent / "tiny_app" / "tiny_partner.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def partner() -> ClientApp:
    return tiny().app  # type: ignore[no-any-return]


def enrol(workspace: Path, names: Iterable[str]) -> None:
    """The coordinator's key, and the partners' public keys."""
    coordinator_key(workspace / "coordinator")
    keys = {name: tiny().own_key(name).public.hexadecimal for name in names}
    write_partners(workspace / "coordinator", keys)


def run(
    workspace: Path, channel: Channel | None = None, *, config: RunConfig | None = None, **grid_options: object
) -> Snapshot:
    """One run of three partners in `workspace`, as far as the plan and the faults allow."""
    workspace.mkdir(parents=True, exist_ok=True)
    plan_file = workspace / "plan.json"
    if not plan_file.exists():
        plan_file.write_text((config or plan()).model_dump_json())
        enrol(workspace, USERS)
    sites = [workspace / "sites" / name for name in USERS]
    for site in sites:
        site.mkdir(parents=True, exist_ok=True)
        (site / "users").write_text(str(USERS[site.name]))
    grid = LoopbackGrid(partner(), sites, {"workspace": str(workspace)}, channel=channel, **grid_options)  # type: ignore[arg-type]
    return coordinate(grid, workspace, initial)


def events(workspace: Path, event: str) -> list[dict[str, object]]:
    return [item for item in read_journal(workspace / "coordinator" / "run.jsonl") if item["event"] == event]


def target(request: Message, reply: Message) -> bool:
    """The reply that faults are injected into: partner fr, training round 2."""
    if reply.has_error():
        return False
    fields = reply.content.config_records[FIELDS]
    return request.metadata.message_type == Kind.TRAIN and fields["partner"] == "fr" and fields["round"] == 2


def on_target(fault: Callable[[Message, Message], Iterable[Message]]) -> Channel:
    return lambda request, reply: fault(request, reply) if target(request, reply) else [reply]


def drop(request: Message, reply: Message) -> list[Message]:
    return []


def with_array(name: str, value: np.ndarray) -> Channel:
    def fault(request: Message, reply: Message) -> list[Message]:
        reply.content.array_records[ARRAYS][name] = Array(value)
        return [reply]

    return on_target(fault)


def with_field(name: str, value: str | float) -> Channel:
    def fault(request: Message, reply: Message) -> list[Message]:
        reply.content.config_records[FIELDS][name] = value
        return [reply]

    return on_target(fault)


def with_head(*, key: str = "fr", **changes: object) -> Channel:
    """The target's head with other facts, signed anew."""

    def fault(request: Message, reply: Message) -> list[Message]:
        fields = reply.content.config_records[FIELDS]
        facts = {**json.loads(str(fields["head"])), **changes}
        head = Head(facts["size"], facts["hash"], facts["root"])
        signed, grown = sign_head("fr", head, facts["nonce"], tiny().own_key(key)), json.loads(str(fields["growth"]))
        fields["head"] = json.dumps(signed.to_json())
        growth = sign_growth(signed, grown["since"], tuple(grown["nodes"]), tiny().own_key(key))
        fields["growth"] = json.dumps(growth.to_json())
        return [reply]

    return on_target(fault)


def grown_by(nodes: list[str], *, signed: bool) -> Channel:
    """The target's head with another proof of growth."""

    def fault(request: Message, reply: Message) -> list[Message]:
        fields = reply.content.config_records[FIELDS]
        head = statement_from_json(SignedHead, json.loads(str(fields["head"])))
        growth = json.loads(str(fields["growth"])) | {"nodes": nodes}
        if signed:
            growth = sign_growth(head, growth["since"], tuple(nodes), tiny().own_key("fr")).to_json()
        fields["growth"] = json.dumps(growth)
        return [reply]

    return on_target(fault)


unsigned_growth = grown_by(["0" * 64], signed=False)
endless_growth = grown_by(["0" * 64] * 65, signed=True)


def halved(request: Message, reply: Message) -> list[Message]:
    arrays = reply.content.array_records[ARRAYS]
    arrays["witness"] = Array(arrays["witness"].numpy() / np.float32(2))
    return [reply]


def spoiled(value: float) -> np.ndarray:
    array = np.zeros(SHAPES["user.weight"], np.float32)
    array[1, 2] = value
    return array


@on_target
def missing_array(request: Message, reply: Message) -> list[Message]:
    del reply.content.array_records[ARRAYS]["user.bias"]
    return [reply]


@on_target
def missing_field(request: Message, reply: Message) -> list[Message]:
    del reply.content.config_records[FIELDS]["users"]
    return [reply]


@on_target
def metrics_beside(request: Message, reply: Message) -> list[Message]:
    reply.content["metrics"] = MetricRecord({"loss": 0.1})
    return [reply]


@on_target
def arrays_as_metrics(request: Message, reply: Message) -> list[Message]:
    return [Message(RecordDict({FIELDS: reply.content[FIELDS], ARRAYS: MetricRecord({"a": 1.0})}), reply_to=request)]


@on_target
def crash(request: Message, reply: Message) -> list[Message]:
    return [Message(Error(2, "ValueError: out of memory\n\x1b[31mred"), reply_to=request)]


@on_target
def truncated(request: Message, reply: Message) -> list[Message]:
    whole = reply.content.array_records[ARRAYS]["user.weight"]
    reply.content.array_records[ARRAYS]["user.weight"] = Array(
        dtype=whole.dtype, shape=whole.shape, stype=whole.stype, data=whole.data[:-4]
    )
    return [reply]


@on_target
def boastful_header(request: Message, reply: Message) -> list[Message]:
    whole = reply.content.array_records[ARRAYS]["user.weight"]
    header = whole.data.replace(b"(3, 4), }", b"(3, 4000000000), }").replace(b" " * 11 + b"\n", b"  \n", 1)
    reply.content.array_records[ARRAYS]["user.weight"] = Array(
        dtype=whole.dtype, shape=whole.shape, stype=whole.stype, data=header
    )
    return [reply]


@on_target
def pickled(request: Message, reply: Message) -> list[Message]:
    reply.content.array_records[ARRAYS]["user.weight"] = Array(
        dtype="float32", shape=(3, 4), stype="numpy.ndarray", data=b"\x80\x04cos\nsystem\n(S'true'\ntR."
    )
    return [reply]


BAD = {
    "nan": ("non_finite", with_array("user.weight", spoiled(np.nan))),
    "infinity": ("non_finite", with_array("user.weight", spoiled(np.inf))),
    "minus infinity": ("non_finite", with_array("user.weight", spoiled(-np.inf))),
    "huge": ("norm", with_array("user.weight", spoiled(1e6))),
    "largest float": ("norm", with_array("user.weight", spoiled(np.finfo(np.float32).max))),
    "broadcastable shape": ("wrong_shape", with_array("user.bias", np.zeros((1,), np.float32))),
    "transposed shape": ("wrong_shape", with_array("user.weight", np.zeros((4, 3), np.float32))),
    "flattened shape": ("wrong_shape", with_array("user.weight", np.zeros((12,), np.float32))),
    "float64": ("wrong_dtype", with_array("user.bias", np.zeros((4,), np.float64))),
    "int64": ("wrong_dtype", with_array("user.bias", np.zeros((4,), np.int64))),
    "big-endian": ("wrong_dtype", with_array("user.bias", np.zeros((4,), ">f4"))),
    "extra array": ("extra_array", with_array("prior", np.zeros((ITEMS,), np.float32))),
    "missing array": ("missing_array", missing_array),
    "stale round": ("wrong_round", with_field("round", 1)),
    "future round": ("wrong_round", with_field("round", 3)),
    "stale model": ("stale_model", with_field("model_digest", "f" * 64)),
    "other run": ("wrong_run", with_field("run_id", "other")),
    "other kind": ("wrong_kind", with_field("kind", Kind.POPULARITY.value)),
    "other partner": ("unknown_partner", with_field("partner", "nl")),
    "stranger": ("unknown_partner", with_field("partner", "xx")),
    "a million million users": ("users_changed", with_field("users", 10**12)),
    "no users": ("users_changed", with_field("users", 0)),
    "negative users": ("users_changed", with_field("users", -5)),
    "users not a number": ("protocol", with_field("users", float("nan"))),
    "users as text": ("protocol", with_field("users", "300")),
    "newer protocol": ("protocol", with_field("protocol", PROTOCOL_VERSION + 1)),
    "unknown field": ("protocol", with_field("loss", 0.5)),
    "missing field": ("protocol", missing_field),
    "metrics beside": ("protocol", metrics_beside),
    "metrics for arrays": ("protocol", arrays_as_metrics),
    "truncated array": ("protocol", truncated),
    "header larger than its bytes": ("protocol", boastful_header),
    "pickle": ("protocol", pickled),
    "refusal": ("refused_by_partner", with_field("refusal", "budget")),
    "crash": ("error", crash),
    "head of nobody": ("bad_signature", with_field("head", "{}")),
    "head that is no JSON": ("bad_signature", with_field("head", "[" * 9000)),
    "another head than the signed one": ("bad_signature", with_field("ledger_head", "0" * 64)),
    "signature by another key": ("bad_signature", with_head(key="nl")),
    "head of an older message": ("nonce", with_head(nonce="an-older-nonce")),
    "shorter ledger": ("rollback", with_head(size=1)),
    "ledger without proof of growth": ("bad_signature", with_field("growth", "")),
    "proof that is no statement": ("bad_signature", with_field("growth", "[1, 2]")),
    "proof that nobody signed": ("bad_signature", unsigned_growth),
    "endless proof": ("bad_signature", endless_growth),
    "rotations that are no list": ("bad_signature", with_field("rotations", "{}")),
    "rotations without end": ("bad_signature", with_field("rotations", "[" * 70_000)),
    "rotations of nothing": ("bad_signature", with_field("rotations", '[{"genesis": "", "record": "", "path": []}]')),
    "witness without noise": ("witness", with_array("witness", np.zeros(1024, np.float32))),
    "witness with half the noise": ("witness", on_target(halved)),
    "witness of another size": ("wrong_shape", with_array("witness", np.zeros(1023, np.float32))),
}


@pytest.fixture(scope="module")
def without_fr(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The run in which fr's reply of round 2 never arrives."""
    return run(tmp_path_factory.mktemp("without"), on_target(drop))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return run(tmp_path_factory.mktemp("undisturbed"))


def test_a_dropped_reply_changes_the_model_so_the_comparison_means_something(
    undisturbed: Snapshot, without_fr: Snapshot
) -> None:
    assert undisturbed.digest != without_fr.digest
    assert undisturbed.round == without_fr.round == 3


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_reply_is_counted_and_leaves_the_model_as_if_it_had_never_arrived(
    fault: str, tmp_path: Path, without_fr: Snapshot
) -> None:
    reason, channel = BAD[fault]
    snapshot = run(tmp_path, channel)
    assert snapshot.digest == without_fr.digest
    second = events(tmp_path, "round")[1]
    assert second["rejected"] == {reason: 1}
    assert second["accepted"] == ["be", "nl"]
    (finding,) = second["rejections"]  # type: ignore[misc]
    assert finding["partner"] == "fr"
    assert finding["text"].isprintable()
    assert events(tmp_path, "finished")


def test_a_partner_that_shows_two_histories_is_asked_no_more_and_the_proof_is_kept(tmp_path: Path) -> None:
    shows_two_histories(tmp_path, with_head(size=3, root="0" * 64))


def test_a_signed_proof_of_growth_that_does_not_hold_is_kept_as_proof_and_blocks_too(tmp_path: Path) -> None:
    proof = shows_two_histories(tmp_path, grown_by(["0" * 64], signed=True))
    assert proof.first.size < proof.second.size
    assert proof.growth is not None


def shows_two_histories(tmp_path: Path, fault: Channel) -> ForkProof:
    run(tmp_path, fault)
    assert [item["rejected"] for item in events(tmp_path, "round")] == [{}, {"fork": 1}, {"fork": 1}]
    assert "fr" not in events(tmp_path, "round")[2]["bytes_down"]  # type: ignore[operator]
    (file,) = (tmp_path / "coordinator" / "forks").glob("*.json")
    found = json.loads(file.read_text())
    assert found["partner"] == "fr"
    proof = ForkProof.from_json(found["proof"])
    assert proof.verifies(*map(PublicKey, found["public_keys"]))
    return proof


def test_a_coordinator_without_keys_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan().model_dump_json())
    with pytest.raises(ConfigError, match=r"key\.pem does not exist"):
        run(tmp_path)


def test_a_reply_that_never_arrives_is_counted(tmp_path: Path, without_fr: Snapshot) -> None:
    assert run(tmp_path, on_target(drop)).digest == without_fr.digest
    assert events(tmp_path, "round")[1]["rejected"] == {"no_reply": 1}


def test_a_partner_slower_than_the_deadline_counts_as_silent(tmp_path: Path, without_fr: Snapshot) -> None:
    seconds = iter(range(10**6))
    slow = {"now": 0.0}

    def clock() -> float:
        # Calls come in pairs around a partner's work; be, fr, nl answer DESCRIBE, POPULARITY, round 1, then fr is slow.
        slow["now"] += 6.0 if next(seconds) == 2 * (3 * 3 + 1) + 1 else 0.0
        return slow["now"]

    assert run(tmp_path, clock=clock).digest == without_fr.digest
    assert events(tmp_path, "round")[1]["rejected"] == {"no_reply": 1}


def test_a_second_copy_of_a_reply_is_dropped(tmp_path: Path, undisturbed: Snapshot) -> None:
    snapshot = run(tmp_path, on_target(lambda request, reply: [reply, reply]))
    assert snapshot.digest == undisturbed.digest
    assert events(tmp_path, "round")[1]["rejected"] == {"duplicate": 1}


def test_a_reply_of_an_older_round_that_comes_again_is_dropped(tmp_path: Path, undisturbed: Snapshot) -> None:
    kept: list[Message] = []

    def replay(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == Kind.TRAIN:
            kept.append(reply)
            return [kept[0], reply] if target(request, reply) else [reply]
        return [reply]

    snapshot = run(tmp_path, replay)
    assert snapshot.digest == undisturbed.digest
    assert sum(events(tmp_path, "round")[1]["rejected"].values()) == 1  # type: ignore[attr-defined]


def test_a_zero_update_is_an_update(tmp_path: Path, without_fr: Snapshot) -> None:
    def zero(request: Message, reply: Message) -> list[Message]:
        for name, shape in SHAPES.items():
            reply.content.array_records[ARRAYS][name] = Array(np.zeros(shape, np.float32))
        return [reply]

    snapshot = run(tmp_path, on_target(zero))
    assert events(tmp_path, "round")[1]["accepted"] == ["be", "fr", "nl"]
    assert snapshot.digest != without_fr.digest


def test_only_zero_updates_leave_the_model_where_it_is(tmp_path: Path) -> None:
    def zero(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == Kind.TRAIN:
            for name, shape in SHAPES.items():
                reply.content.array_records[ARRAYS][name] = Array(np.zeros(shape, np.float32))
        return [reply]

    snapshot = run(tmp_path, zero)
    assert all(not array.any() for array in snapshot.state.values())


def test_a_round_below_the_minimum_ends_the_run_and_says_why(tmp_path: Path) -> None:
    _, nan = BAD["nan"]
    with pytest.raises(
        AdmissionError, match=r"round 2: 2 usable replies.*minimum_cohort is 3.*non_finite 1.*fr.*NaN"
    ) as error:
        run(tmp_path, nan, config=plan(minimum=3))
    assert error.value.reason == "cohort"
    (failed,) = events(tmp_path, "failed")
    assert failed["problem"] == error.value.problem
    assert (failed["round"], failed["accepted"], failed["rejected"]) == (2, ["be", "nl"], {"non_finite": 1})
    assert not (tmp_path / "coordinator" / "final.safetensors").exists()


def test_a_run_that_failed_goes_on_at_the_same_round_and_ends_like_an_undisturbed_one(
    tmp_path: Path, undisturbed: Snapshot
) -> None:
    with pytest.raises(AdmissionError):
        run(tmp_path, BAD["nan"][1], config=plan(minimum=3))
    snapshot = run(tmp_path)
    assert {name: array.tobytes() for name, array in snapshot.state.items()} == {
        name: array.tobytes() for name, array in undisturbed.state.items()
    }
    assert events(tmp_path, "resumed")[0]["round"] == 1
    assert [item["round"] for item in events(tmp_path, "round")] == [1, 2, 3]
    assert len(events(tmp_path, "popularity")) == 1


def test_a_finished_run_started_again_trains_nothing_more(tmp_path: Path, undisturbed: Snapshot) -> None:
    run(tmp_path)
    assert run(tmp_path).digest == undisturbed.digest
    assert len(events(tmp_path, "round")) == 3


def test_a_run_whose_newest_snapshot_is_damaged_repeats_only_that_round(tmp_path: Path, undisturbed: Snapshot) -> None:
    run(tmp_path)
    newest = tmp_path / "coordinator" / "rounds" / "00003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    assert run(tmp_path).digest == undisturbed.digest
    (resumed,) = events(tmp_path, "resumed")
    assert resumed["round"] == 2
    assert resumed["damaged"]


def test_a_damaged_snapshot_in_the_middle_is_left_out_of_the_average_and_named_in_the_journal(
    tmp_path: Path, undisturbed: Snapshot
) -> None:
    run(tmp_path)
    assert events(tmp_path, "averaged") == []
    middle = tmp_path / "coordinator" / "rounds" / "00002.safetensors"
    middle.write_bytes(middle.read_bytes()[:-7])
    assert run(tmp_path).digest != undisturbed.digest
    (averaged,) = events(tmp_path, "averaged")
    assert list(averaged["left_out"]) == ["2"]  # type: ignore[call-overload]


def test_a_workspace_is_not_resumed_with_another_plan(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "plan.json").write_text(plan(rounds=9).model_dump_json())
    with pytest.raises(ModelError, match="belongs to the plan"):
        run(tmp_path)


def test_a_run_is_not_resumed_with_another_number_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    monkeypatch.setitem(USERS, "fr", 999)
    with pytest.raises(ModelError, match="another number of users"):
        run(tmp_path)


def test_a_run_without_a_plan_says_so(tmp_path: Path) -> None:
    grid = LoopbackGrid(partner(), [tmp_path / "be"], {})
    with pytest.raises(ConfigError, match=r"plan\.json does not exist"):
        coordinate(grid, tmp_path, initial)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("users", 10**12, "users_changed"),
        ("users", 0, "users_changed"),
        ("users", -1, "users_changed"),
        ("protocol", PROTOCOL_VERSION + 1, "protocol"),
        ("partner", "", "unknown_partner"),
        ("partner", "a\nb", "unknown_partner"),
        ("partner", "nl", "bad_signature"),
        ("partner", "xx", "unknown_partner"),
        ("head", "", "bad_signature"),
        ("refusal", "policy", "refused_by_partner"),
    ],
)
def test_a_bad_description_keeps_the_partner_out_of_the_run(
    tmp_path: Path, field: str, value: str | int, reason: str
) -> None:
    def fault(request: Message, reply: Message) -> list[Message]:
        fields = reply.content.config_records[FIELDS]
        if request.metadata.message_type == Kind.DESCRIBE and fields["partner"] == "fr":
            fields[field] = value
        return [reply]

    snapshot = run(tmp_path, fault, config=plan(rounds=1, minimum=1))
    (described,) = events(tmp_path, "described")
    assert "fr" not in snapshot.partners
    assert reason in described["rejected"]  # type: ignore[operator]
    assert "nl" in snapshot.partners, "a name belongs to who has its key, whoever else claims it"


def test_a_run_in_which_nobody_speaks_the_protocol_asks_for_the_upgrade(tmp_path: Path) -> None:
    def newer(request: Message, reply: Message) -> list[Message]:
        reply.content.config_records[FIELDS]["protocol"] = PROTOCOL_VERSION + 1
        return [reply]

    with pytest.raises(AdmissionError, match=f"protocol 3.*speaks protocol {PROTOCOL_VERSION + 1}"):
        run(tmp_path, newer)


def test_a_nan_in_the_popularity_release_is_refused(tmp_path: Path) -> None:
    def nan(request: Message, reply: Message) -> list[Message]:
        if request.metadata.message_type == Kind.POPULARITY and reply.content[FIELDS]["partner"] == "fr":
            reply.content.array_records[ARRAYS]["counts"] = Array(np.full(ITEMS, np.nan, np.float32))
        return [reply]

    snapshot = run(tmp_path, nan)
    assert np.isfinite(snapshot.prior).all()
    assert events(tmp_path, "popularity")[0]["rejected"] == {"non_finite": 1}


def test_the_order_of_arrival_does_not_change_the_model(tmp_path: Path, undisturbed: Snapshot) -> None:
    held: list[Message] = []

    def reversed_order(request: Message, reply: Message) -> list[Message]:
        held.append(reply)
        if len(held) < len(USERS):
            return []
        arrived = list(reversed(held))
        held.clear()
        return arrived

    assert run(tmp_path, reversed_order).digest == undisturbed.digest


def test_two_runs_write_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(tmp_path / name)
    for file in ("final.safetensors", "rounds/00002.safetensors"):
        one, two = ((tmp_path / name / "coordinator" / file).read_bytes() for name in ("one", "two"))
        assert one == two


def test_the_journal_holds_who_sent_what(tmp_path: Path, undisturbed: Snapshot) -> None:
    run(tmp_path)
    kinds = [item["event"] for item in read_journal(tmp_path / "coordinator" / "run.jsonl")]
    assert kinds == ["described", "popularity", "round", "round", "round", "receipts", "finished"]
    first = events(tmp_path, "round")[0]
    assert first["bytes_up"].keys() == first["bytes_down"].keys() == USERS.keys()  # type: ignore[attr-defined]
    third = {name: hashlib.sha256(f"{name}/2".encode()).hexdigest() for name in USERS}
    assert first["ledger_heads"] == third, "DESCRIBE, POPULARITY and round 1 add a record each"
    assert set(first["witness"]) == set(USERS)  # type: ignore[call-overload]
    assert events(tmp_path, "described")[0]["users"] == USERS
    assert events(tmp_path, "finished")[0]["model_digest"] == undisturbed.digest
    assert json.loads((tmp_path / "coordinator/rounds/00001.json").read_text())["facts"]["round"] == 1


def gone_at_the_end(request: Message, reply: Message) -> list[Message]:
    """Nobody is there for the last message: fr is silent, be has crashed, nl answers another question."""
    if request.metadata.message_type != Kind.RECEIPT:
        return [reply]
    fields = reply.content.config_records[FIELDS]
    if fields["partner"] == "be":
        return [Message(Error(2, "gone"), reply_to=request)]
    fields["kind"] = "train"
    return [reply] if fields["partner"] == "nl" else []


def test_a_run_is_finished_although_nobody_takes_its_last_receipt(tmp_path: Path, undisturbed: Snapshot) -> None:
    assert run(tmp_path, gone_at_the_end, config=plan(minimum=3)).digest == undisturbed.digest
    (receipts,) = events(tmp_path, "receipts")
    assert receipts["accepted"] == []
    assert receipts["rejected"] == {"error": 1, "no_reply": 1, "wrong_kind": 1}
    assert events(tmp_path, "failed") == []


@pytest.mark.parametrize("message", range(1, 3 * 6 + 1))
def test_a_coordinator_killed_at_any_message_goes_on_as_if_nothing_had_happened(
    message: int, tmp_path: Path, undisturbed: Snapshot
) -> None:
    count = itertools.count(1)

    def kill(request: Message, reply: Message) -> list[Message]:
        if next(count) == message:
            raise KeyboardInterrupt
        return [reply]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, kill)
    snapshot = run(tmp_path)
    assert snapshot.digest == undisturbed.digest
    assert snapshot.round == 3
    assert len(events(tmp_path, "round")) == 3
    assert len(events(tmp_path, "popularity")) == 1


@pytest.mark.parametrize("seen", ["fr", "nl"], ids=["before its reply is read", "after its reply was admitted"])
def test_a_partner_revoked_in_the_middle_of_a_round_is_as_if_it_had_not_answered_from_there_on(
    seen: str, tmp_path: Path
) -> None:
    def revoking(request: Message, reply: Message) -> list[Message]:
        fields = reply.content.config_records[FIELDS] if reply.has_content() else {}
        folder = tmp_path / "revoked" / "coordinator"
        if (fields.get("kind"), fields.get("round"), fields.get("partner")) == (Kind.TRAIN.value, 2, seen):
            revoke(folder, "fr", reason="left", now=datetime(2026, 5, 1, tzinfo=UTC))
        return [reply]

    def silent(request: Message, reply: Message) -> list[Message]:
        fields = reply.content.config_records[FIELDS] if reply.has_content() else {}
        gone = fields.get("partner") == "fr" and request.metadata.message_type == Kind.TRAIN and fields["round"] >= 2
        return [] if gone else [reply]

    revoked, absent = run(tmp_path / "revoked", revoking), run(tmp_path / "absent", silent)
    assert revoked.digest == absent.digest
    rounds = events(tmp_path / "revoked", "round")
    assert [one["accepted"] for one in rounds] == [["be", "fr", "nl"], ["be", "nl"], ["be", "nl"]]
    assert [one["rejected"] for one in rounds] == [{}, {"revoked": 1}, {"revoked": 1}]
    assert "fr" not in rounds[2]["bytes_down"], "it is asked nothing any more"
