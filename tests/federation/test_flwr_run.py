"""Flower's own simulation runs the project's two apps, and what comes out is what the loopback grid gives, bit for bit.

The runs go through `simulations.flower_door`: a private SuperLink, an empty working folder, and no leftover processes.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.app import app as client_app
from mmrec_model.config import EncoderConfig, FeatureSpec, PrivacyConfig, RunConfig, TrainingConfig, TransformConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.errors import MmrecError, UsageError
from mmrec_model.features.bundle import build_bundle
from mmrec_model.privacy.keys import SigningKey
from server.app import app as server_app
from server.journal import read_journal
from server.sites import coordinator_key, write_partners
from simulations.flower_door import run_with_flower
from simulations.loopback import run_loopback
from simulations.workspace import Recipe, divide, found, plan

TINY_PROJECT = """
[project]
name = "tiny"
version = "0.1.0"
dependencies = []

[tool.flwr.app]
publisher = "mmrec"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "tiny_partner:app"

[tool.flwr.app.config]
workspace = ""
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An own folder for temporary files, with a name short enough for Ray's sockets; nothing may be left in it."""
    tmp_path_factory.getbasetemp()  # pytest's own folder must not be made inside the one that is removed
    with tempfile.TemporaryDirectory(prefix="mm") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


def write_data(folder: Path, *, items: int = 12, users: int = 12) -> None:
    draw = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    rows: dict[str, list[list[object]]] = {
        "items": [["item_id", "title", "text", "image"]],
        "users": [["user_id"]],
        "interactions": [["user_id", "item_id", "timestamp"]],
    }
    for item in range(items):
        pixels = draw.integers(0, 255, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{item}.png")
        rows["items"].append([f"i{item}", f"Title {item}", "", f"pictures/{item}.png"])
    for user in range(users):
        rows["users"].append([f"u{user}"])
        seen = draw.choice(items, size=5, replace=False)
        rows["interactions"] += [[f"u{user}", f"i{item}", 1_600_000_000 + day] for day, item in enumerate(seen)]
    for name, lines in rows.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(lines)


def make_workspace(folder: Path) -> Path:
    """Two real partners with a few users each, a plan of two private rounds, evaluated once and in the end."""
    write_data(folder / "data")
    training = TrainingConfig(rounds=2, sample_rate=0.5, negatives=4)
    recipe = Recipe(
        folder / "data",
        folder / "run",
        8.0,
        1e-5,
        3,
        training,
        partners=2,
        evaluation=EvaluationConfig(every=2, final=True),
    )
    bundle = build_bundle(
        open_catalogue(recipe.data),
        recipe.out / "features",
        encoders=(EncoderConfig(modality="image", image_size=32),),
        transform=TransformConfig(dims=8),
        store=folder / "vectors",
    )
    groups = divide(recipe)
    found(recipe, groups, plan(recipe, bundle, groups))
    return recipe.out


def leftovers(temporary: Path) -> list[str]:
    """Processes that name the folder, and files in it."""
    alive = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"FLWR_HOME={temporary}".encode() in (entry / "environ").read_bytes():
                alive.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return alive + [path.name for path in temporary.iterdir() if path.name.startswith("mmrec-")]


def test_flower_and_the_loopback_grid_train_the_same_model(tmp_path: Path, repository: Path, temporary: Path) -> None:
    here = make_workspace(tmp_path)
    there = Path(shutil.copytree(here, here.with_name("copy")))
    sites = sorted(path.parent for path in (here / "sites").glob("*/site.toml"))
    run_loopback(server_app, client_app, sites, {"workspace": str(here)})
    run_with_flower(there, len(sites), app=repository, timeout=540.0)
    one, two = ((folder / "coordinator" / "final.safetensors").read_bytes() for folder in (here, there))
    assert one == two
    told = []
    for folder in (here, there):
        journal = list(read_journal(folder / "coordinator" / "run.jsonl"))
        kinds = [event["event"] for event in journal]
        assert kinds == [
            *("described", "popularity", "round", "round", "evaluated", "gate", "evaluated", "receipts", "finished"),
        ]
        told.append([event["measured"] for event in journal if event["event"] in {"evaluated", "gate"}])
    assert all(measured["users_error"] > 0 for measured in told[0])
    assert told[0] == told[1]
    assert leftovers(temporary) == []


def test_a_run_that_fails_inside_flower_fails_here_with_its_reason(tmp_path: Path, temporary: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(TINY_PROJECT)
    shutil.copy(Path(__file__).parent / "tiny_app" / "tiny_partner.py", app)
    workspace = tmp_path / "run"
    for name, users in (("be", "100"), ("fr", "nobody knows")):
        (workspace / "sites" / name).mkdir(parents=True)
        (workspace / "sites" / name / "users").write_text(users)
    keys = {name: SigningKey.from_seed(hashlib.sha256(name.encode()).digest()) for name in ("be", "fr")}
    coordinator_key(workspace / "coordinator")
    write_partners(workspace / "coordinator", {name: key.public.hexadecimal for name, key in keys.items()})
    config = RunConfig(
        run_id="fails",
        seed=1,
        features=FeatureSpec(digest="0" * 64, items=5, dims={"text": 128}),
        training=TrainingConfig(rounds=1),
        privacy=PrivacyConfig(epsilon=8.0, noise_multiplier=1.0, popularity_noise_multiplier=2.0),
        minimum_cohort=2,
    )
    (workspace / "plan.json").write_text(config.model_dump_json())
    with pytest.raises(MmrecError, match=r"finished:failed.*1 usable replies, the plan's minimum_cohort is 2.*error 1"):
        run_with_flower(workspace, 2, app=app, timeout=540.0)
    assert [event["event"] for event in read_journal(workspace / "coordinator" / "run.jsonl")] == ["failed"]
    assert leftovers(temporary) == []


def test_a_folder_that_is_no_app_is_refused_before_anything_starts(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(UsageError, match="checkout"):
        run_with_flower(tmp_path, 2, app=tmp_path)
    with pytest.raises(UsageError, match="0 partners"):
        run_with_flower(tmp_path, 0)
    assert leftovers(temporary) == []


@pytest.mark.parametrize("package", ["client", "mmrec_model", "server"])
def test_no_module_has_a_name_that_flower_leaves_out_of_its_bundle(package: str, repository: Path) -> None:
    names = [path.name for path in (repository / package).rglob("*.py")]
    assert [name for name in names if name.startswith("test_") or name.endswith("_test.py")] == []
