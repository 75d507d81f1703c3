"""Options of the main job: the plan gets what was asked, and what would do nothing is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from client.site import Site
from mmrec_model.errors import ConfigError, MmrecError, UsageError
from mmrec_model.features.bundle import open_bundle
from simulations.assessment import own_media, panel_of
from simulations.cli import register
from simulations.federation import reopen

SETTINGS = ("--rounds", "1", "--delta", "1e-3", "--partners", "2")


@pytest.fixture(autouse=True)
def _store(small_partner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(small_partner.parent / "vectors"))


def simulate(data: Path, out: Path, *more: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["--data", str(data), "--out", str(out), *SETTINGS, *more])


def prepared(data: Path, out: Path, *more: str) -> dict[str, Any]:
    """The plan of a job that stopped before training."""
    result = simulate(data, out, "--prepare", *more)
    assert result.exit_code == 0, result.output + repr(result.exception)
    plan: dict[str, Any] = json.loads((out / "plan.json").read_bytes())
    return plan


def refusal(data: Path, out: Path, *more: str) -> MmrecError:
    error = simulate(data, out, "--prepare", *more).exception
    assert isinstance(error, MmrecError)
    return error


@pytest.fixture(scope="module")
def profiled(small_partner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small partner, whose users have a word about themselves, and every third a picture."""
    folder = Path(shutil.copytree(small_partner, tmp_path_factory.mktemp("profiled") / "shop"))
    users = pq.read_table(folder / "users.parquet")
    (folder / "faces").mkdir()
    pictures = []
    for number in range(len(users)):
        Image.new("RGB", (40, 40), (number, 90, 90)).save(folder / "faces" / f"{number}.png")
        pictures.append(f"faces/{number}.png" if number % 3 == 0 else None)
    words = [f"likes the {region}" for region in users.column("silo_region").to_pylist()]
    table = users.append_column("text", pa.array(words)).append_column("image", pa.array(pictures))
    pq.write_table(table, folder / "users.parquet")
    return folder


def test_the_users_own_media_are_in_the_plan_at_the_sites_and_in_the_assessment(profiled: Path, tmp_path: Path) -> None:
    plan = prepared(profiled, tmp_path / "out", "--user-media", "text", "--user-media", "image")
    assert plan["model"]["user_media"] == ["text", "image"]
    again = reopen((tmp_path / "out").resolve())
    own = own_media(again.sites, again.config)
    shown = [media.present_M.sum(0).tolist() for media in own]
    assert [sum(column) for column in zip(*shown, strict=True)] == [90, 30]
    datasets = [site.dataset for site in again.sites]
    panel = panel_of(datasets, "test", own)
    assert panel.own is not None
    assert len(panel.own.prior) == len(panel.histories)
    first = next(user for user in range(len(datasets[1])) if datasets[1].test[user] >= 0)
    place = panel.partner_U.tolist().index(1)
    assert panel.own.vectors["text"][place].tolist() == own[1].vectors["text"][first].tolist()
    few = panel.sample(7, seed=0)
    assert few.own is not None
    assert len(few.own.prior) == len(few.histories) == 7


def test_a_whole_job_with_the_users_own_media_and_heads_trains_and_reports(profiled: Path, tmp_path: Path) -> None:
    result = simulate(profiled, tmp_path / "out", "--user-media", "text", "--heads", "ctr")
    assert result.exit_code == 0, result.output + repr(result.exception)
    record = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert record["config"]["model"]["user_media"] == ["text"]
    assert record["users_evaluated"] == 90


def test_media_that_no_user_has_or_that_nothing_reads_are_refused(
    small_partner: Path, profiled: Path, tmp_path: Path
) -> None:
    assert isinstance(refusal(small_partner, tmp_path / "none", "--user-media", "image"), UsageError)
    assert isinstance(refusal(profiled, tmp_path / "odd", "--user-media", "scent"), ConfigError)
    idle = refusal(profiled, tmp_path / "idle", "--user-media", "text", "--fusion", "decision")
    assert isinstance(idle, ConfigError)
    assert "decision" in str(idle)


@pytest.mark.parametrize(("asked", "heads"), [(("--cvr-loss", "esmm"), "ctr,cvr"), (("--ctr-scorer", "deepfm"), "ctr")])
def test_the_settings_of_heads_are_in_the_plan_and_refused_without_the_heads(
    asked: tuple[str, str], heads: str, small_partner: Path, tmp_path: Path
) -> None:
    field = asked[0].removeprefix("--").replace("-", "_")
    assert prepared(small_partner, tmp_path / "out", *asked, "--heads", heads)["model"][field] == asked[1]
    assert field in str(refusal(small_partner, tmp_path / "idle", *asked))


@pytest.mark.parametrize("mode", ["vector", "present"])
def test_missing_media_are_estimated_in_the_planned_bundle(mode: str, small_partner: Path, tmp_path: Path) -> None:
    plan = prepared(small_partner, tmp_path / "out", "--impute", mode)
    bundle = open_bundle(tmp_path / "out" / "features")
    assert plan["features"]["digest"] == bundle.digest
    assert bundle.manifest["imputation"] == {"impute": mode, "estimated": {"text": 0, "image": 5}}
    assert bundle.present_NM.all() == (mode == "present")


def test_disagreeing_media_are_taken_out_of_the_planned_bundle(small_partner: Path, tmp_path: Path) -> None:
    plan = prepared(small_partner, tmp_path / "out", "--quarantine", "0.2")
    manifest = open_bundle(tmp_path / "out" / "features").manifest
    assert plan["features"]["digest"] != prepared(small_partner, tmp_path / "plain")["features"]["digest"]
    assert manifest["quality"]["quarantine"] == "0.2"
    assert simulate(small_partner, tmp_path / "most", "--quarantine", "0.3").exit_code == 2


@pytest.mark.parametrize("asked", [("--impute", "vector"), ("--quarantine", "0.1")])
def test_estimating_or_judging_a_single_medium_is_refused(
    asked: tuple[str, str], small_partner: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_partner, tmp_path / "texts"))
    items = pq.read_table(folder / "items.parquet")
    pq.write_table(items.drop_columns(["image"]), folder / "items.parquet")
    error = refusal(folder, tmp_path / "out", *asked)
    assert asked[0].strip("-") in str(error)
    assert isinstance(error, UsageError)


def test_a_scenario_refuses_them(small_partner: Path, tmp_path: Path) -> None:
    for asked in (("--user-media", "text"), ("--impute", "vector"), ("--cvr-loss", "esmm")):
        result = simulate(small_partner, tmp_path / "out", "--scenario", "modalities", *asked)
        assert result.exit_code == 2
        assert asked[0] in result.output
    assert not (tmp_path / "out").exists()


def test_a_site_knows_where_the_encoders_of_its_users_media_lie(profiled: Path, tmp_path: Path) -> None:
    prepared(profiled, tmp_path / "out", "--user-media", "image")
    site = Site.open(next((tmp_path / "out" / "sites").iterdir()))
    assert (site.config.text_encoder, site.config.image_encoder) == ("embedded", "embedded")
    assert len(list((site.root / "data" / "faces").iterdir())) < 30


def test_finishing_refuses_every_option_that_the_plan_of_the_folder_has_decided(
    small_partner: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepared(small_partner, out)
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["--out", str(out), "--finish", "--fusion", "gated", "--rounds", "3", "--no-gate"])
    assert result.exit_code == 2
    assert "--fusion, --gate, --rounds" in result.output
    assert "--out" not in result.output.partition("Error")[2]


def test_preparing_refuses_a_door_that_nothing_goes_through(small_partner: Path, tmp_path: Path) -> None:
    result = simulate(small_partner, tmp_path / "out", "--prepare", "--engine", "loopback")
    assert (result.exit_code, "--engine" in result.output) == (2, True)
    assert not (tmp_path / "out").exists()
