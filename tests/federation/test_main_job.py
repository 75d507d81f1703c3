"""The main job through its command, on a small partner folder whose encoders are the real ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrec_model.model.folder import load_model
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import from_record
from mmrec_model.privacy.keys import SigningKey
from mmrec_model.privacy.ledger import read_ledger
from simulations.run_record import read_run

USERS, ITEMS = 90, 24


@pytest.fixture(scope="module")
def data(small_partner: Path) -> Path:
    return small_partner


def run(data: Path, out: Path, *more: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """`mmrec simulate` as a user types it, with a store of its own."""
    command = [str(Path(sys.executable).parent / "mmrec"), "simulate", "--data", str(data), "--out", str(out), *more]
    environment = {**os.environ, "MMREC_CACHE": str(data.parent / "vectors-of-the-main-job")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run(data, out, "--partners", "2", "--rounds", "3", "--seed", "5", "--delta", "1e-3")
    return out


def test_the_run_leaves_everything_that_is_promised(finished: Path) -> None:
    record = read_run(finished)
    assert len(record.partners) == 2
    assert record.data.users == USERS
    assert {"chance", "popularity_dp", "free_content", "free_content_with_prior"} == set(record.floors)
    assert {"popularity", "item_knn", "ease"} == set(record.baselines)
    assert [entry.round for entry in record.rounds] == [0, 1, 2, 3]
    assert (finished / "report.html").stat().st_size > 10_000
    assert all(partner.bytes_up > 0 and partner.seconds > 0 for partner in record.partners)


def test_the_gain_of_joining_is_the_same_in_every_file(finished: Path) -> None:
    record = read_run(finished)
    quality = json.loads((finished / "quality.json").read_bytes())["partners"]
    gains = {}
    for partner in record.partners:
        assert partner.metrics is not None
        assert partner.alone is not None
        gains[partner.name] = partner.metrics.ndcg_at_10 - partner.alone.metrics.ndcg_at_10
    assert {one["name"]: one["gain"] for one in quality["each"]} == pytest.approx(gains)
    assert record.alone.worst == pytest.approx(min(gains.values()))
    assert record.alone.mean == pytest.approx(sum(gains.values()) / 2)
    assert record.alone.better == sum(gain > 0 for gain in gains.values())
    assert record.alone.low <= record.alone.difference <= record.alone.high
    assert "Gain of joining" in (finished / "report.html").read_text()


def test_adaptive_clipping_costs_the_same_and_its_clip_is_on_record(data: Path, finished: Path, tmp_path: Path) -> None:
    common = ("--partners", "2", "--rounds", "3", "--seed", "5", "--delta", "1e-3", "--clipping", "adaptive")
    run(data, tmp_path / "out", *common)
    record, flat = read_run(tmp_path / "out"), read_run(finished)
    clips = [entry.clip for entry in record.rounds]
    assert clips[0] == 1.0
    assert len(set(clips)) == 4
    assert [entry.clip for entry in flat.rounds] == [None] * 4
    assert record.privacy == flat.privacy
    assert "went from 1 to" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    load_model(tmp_path / "out" / "model")
    refused = run(data, tmp_path / "none", *common, "--epsilon", "inf", status=2)
    assert "--clipping" in refused.stderr


def test_the_epsilon_of_the_report_is_what_the_ledgers_say(finished: Path) -> None:
    for partner in read_run(finished).partners:
        site = finished / "sites" / partner.name
        records = read_ledger(site / "ledger.jsonl", SigningKey.load(site / "key.pem").public)
        charged = [from_record(record.charge) for record in records if record.charge is not None]
        assert partner.epsilon == pytest.approx(epsilon(charged, 1e-3), rel=1e-9)
        assert partner.epsilon <= 8.0
        assert partner.epsilon_replace_one > partner.epsilon


def test_the_exported_model_is_the_one_that_was_assessed(finished: Path) -> None:
    exported = load_model(finished / "model")
    assert exported.config.features.digest == read_run(finished).features.digest
    assert exported.prior_N.shape == (ITEMS,)


def test_the_same_seed_gives_the_same_metrics_and_encodes_nothing_again(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "again", "--partners", "2", "--rounds", "3", "--seed", "5", "--delta", "1e-3")
    first, second = read_run(finished), read_run(tmp_path / "again")
    assert first.metrics == second.metrics
    assert first.rounds[-1].validation == second.rounds[-1].validation
    assert first.features.encoded_now > 0
    assert second.features.encoded_now == 0


def test_another_seed_gives_another_model(data: Path, finished: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "other", "--partners", "2", "--rounds", "3", "--seed", "6", "--delta", "1e-3")
    weights = [folder / "model" / "model.safetensors" for folder in (finished, tmp_path / "other")]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_a_run_with_another_fusion_trains_exports_and_says_so(data: Path, tmp_path: Path) -> None:
    arguments = ("--partners", "2", "--rounds", "1", "--delta", "1e-3", "--fusion", "cross_attention")
    run(data, tmp_path / "fused", *arguments)
    assert load_model(tmp_path / "fused" / "model").config.model.fusion == "cross_attention"
    assert "cross attention over text, image" in (tmp_path / "fused" / "report.html").read_text()


def test_released_metrics_are_in_the_record_and_in_the_price(data: Path, tmp_path: Path) -> None:
    options = ("--partners", "2", "--rounds", "2", "--delta", "1e-3", "--evaluate-every", "2", "--evaluate-final")
    done = run(data, tmp_path / "told", *options)
    record = read_run(tmp_path / "told")
    assert [(entry.round, entry.exported, entry.replies) for entry in record.evaluations] == [
        (2, False, 2),
        (2, True, 2),
    ]
    assert {entry.central_users for entry in record.evaluations} == {USERS}
    counts = [event["count"] for event in record.privacy.plan if event["type"] == "gaussian"]
    assert counts == [1, 2, 1], "popularity, metrics, gate"
    assert record.privacy.epsilon == pytest.approx(8.0, abs=0.02)
    assert all(partner.epsilon == pytest.approx(record.privacy.epsilon) for partner in record.partners)
    assert record.rounds[-1].epsilon < record.privacy.epsilon
    assert "released for the exported model" in done.stdout
    assert "Released validation" in (tmp_path / "told" / "report.html").read_text()


def test_without_privacy_the_record_says_so(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "bare", "--silo", "silo_region", "--rounds", "2", "--epsilon", "inf", "--delta", "1e-3")
    record = read_run(tmp_path / "bare")
    assert record.privacy.epsilon is None
    assert all(partner.epsilon is None for partner in record.partners)
    assert "no epsilon" in record.privacy.note
    assert {partner.name for partner in record.partners} <= {"north", "south", "others"}


def test_a_snapshot_that_is_damaged_afterwards_leaves_a_gap_in_the_curve_and_a_note(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    assert read_run(finished).notes == ()
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "coordinator" / "rounds" / "00002.safetensors").write_bytes(b"torn")
    run(data, out, "--finish")
    record = read_run(out)
    assert [entry.round for entry in record.rounds] == [0, 1, 3]
    (note,) = record.notes
    assert "round 2" in note
    assert note in (out / "report.html").read_text()


def test_a_folder_that_holds_a_run_is_kept_unless_told_otherwise(data: Path, finished: Path) -> None:
    before = (finished / "run.json").read_bytes()
    done = run(data, finished, "--rounds", "1", status=2)
    assert "already holds a simulation" in done.stderr
    assert (finished / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (("--epsilon", "0"), "not above 0", 2),
        (("--epsilon", "nan"), "not above 0", 2),
        (("--delta", "1"), "between 0 and 1", 2),
        (("--silo", "silo_region", "--partners", "2"), "either a column or a number", 2),
        (("--silo", "silo_nothing"), "silo_nothing", 2),
        (("--partners", "1000"), "1000 partners for 90 users", 2),
    ],
)
def test_a_users_mistake_ends_in_a_message(
    arguments: tuple[str, ...], words: str, status: int, data: Path, tmp_path: Path
) -> None:
    done = run(data, tmp_path / "out", *arguments, "--rounds", "1", status=status)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_without_data_ends_in_a_message(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run(tmp_path / "empty", tmp_path / "out", "--rounds", "1", status=1)
    assert "Traceback" not in done.stderr
    assert "interactions" in done.stderr


def test_run_json_is_plain_json_with_the_documented_keys(finished: Path) -> None:
    value = json.loads((finished / "run.json").read_text())
    partner = value["partners"][0]
    assert {"name", "users", "epsilon", "delta", "bytes_up", "bytes_down", "seconds"} <= set(partner)
    assert {"recall_at_10", "recall_at_20", "ndcg_at_10", "ndcg_at_20"} <= set(value["metrics"])


@pytest.fixture(scope="module")
def clicks(small_partner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small folder with events: what a user has was clicked, every second one converted, others were shown."""
    folder = tmp_path_factory.mktemp("clicks") / "shop"
    shutil.copytree(small_partner, folder)
    known = pq.read_table(folder / "interactions.parquet").to_pylist()
    rows = [(row["user_id"], row["item_id"], row["timestamp"], "click", None) for row in known]
    rows += [(u, i, t, "conversion", 4.0) for u, i, t, *_ in rows if int(i[1:]) % 4 < 2]
    had = {(row["user_id"], row["item_id"]) for row in known}
    rows += [
        (f"u{user}", f"i{item}", 1_600_000_000 + item % 5, "impression", None)
        for user in range(USERS)
        for item in range(ITEMS)
        if (f"u{user}", f"i{item}") not in had and (user + item) % 3 == 0
    ]
    names = ("user_id", "item_id", "timestamp", "event", "rating")
    table = pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})
    pq.write_table(table, folder / "interactions.parquet")
    return folder


def test_heads_go_through_the_whole_job_and_leave_the_ranking_task_as_it_is(
    data: Path, clicks: Path, finished: Path, tmp_path: Path
) -> None:
    options = ("--partners", "2", "--rounds", "3", "--seed", "5", "--delta", "1e-3")
    more = ("--clipping", "adaptive", "--fusion", "decision")
    run(clicks, tmp_path / "out", *options, *more, "--heads", "ctr,cvr,rating=0.5", "--loss", "bpr")
    record, bare = read_run(tmp_path / "out"), read_run(finished)
    assert set(record.heads) == {"ctr", "cvr", "rating"}
    assert bare.heads == {}
    assert record.floors["popularity_dp"] == bare.floors["popularity_dp"], "added rows move no positive"
    assert record.heads["ctr"].rows > record.heads["ctr"].users > 50
    assert record.privacy.epsilon == bare.privacy.epsilon, "heads are in the same step and cost nothing more"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Heads</h2>" in page
    assert "<h2>Heads</h2>" not in (finished / "report.html").read_text()
    exported = load_model(tmp_path / "out" / "model")
    assert exported.config.model.heads == {"ctr": 1.0, "cvr": 1.0, "rating": 0.5}
    assert exported.config.training.loss == "bpr"


@pytest.mark.parametrize("heads", ["clicks", "ctr,ctr", "ctr=0", "ctr=x", "cvr=inf"])
def test_a_mistake_in_the_heads_ends_in_a_message(heads: str, data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path / "out", "--heads", heads, status=2)
    assert "--heads" in done.stderr
    assert "Traceback" not in done.stderr
