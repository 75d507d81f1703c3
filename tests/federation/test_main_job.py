"""The main job through its command, on a small partner folder whose encoders are the real ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
    environment = {**os.environ, "MMREC_CACHE": str(data.parent / "vectors")}
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
