"""Partners join a coordinator over TLS, with real processes: what runs at a site is what the site installed.

One federation on loopback: SuperLink, two SuperNodes, their executors and, for every message, the launcher. Run with
`pytest -m slow tests/federation/test_joined_run.py`.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.app import app as client_app
from client.approval import approve
from client.joining import Application, found_site, founding_policy
from client.proposal import propose
from client.site import Site
from mmrec_model.config import EncoderConfig, RunConfig, TrainingConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.enrolment_file import read_enrolment
from mmrec_model.features.bundle import build_bundle
from mmrec_model.privacy.bodies import RecordType
from server.app import app as server_app
from server.flower_programs import Connection
from server.founding import found_federation
from server.journal import read_journal
from server.operation import enrol_from_file
from server.submission import RunFailed, make_bundle, submit, wait_for_end
from simulations.loopback import run_loopback
from simulations.partition import write_sites
from simulations.workspace import Recipe, divide, plan

REPOSITORY = Path(__file__).resolve().parents[2]
NOW = datetime.now(UTC)


@contextmanager
def command(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of `mmrec` in the foreground; ended by SIGTERM, and then it must end by itself."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SHOULD_NOT_TRAVEL": "token"}
    line = [sys.executable, "-c", "import sys; from mmrec_model.cli import main; sys.exit(main())", *words]
    with log.open("wb") as stream:
        process = subprocess.Popen(line, stdout=stream, stderr=stream, env=environment, cwd=log.parent)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def waited(until: Callable[[], bool], seconds: float = 90.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until():
            return True
        time.sleep(0.5)
    return False


def write_data(folder: Path, *, items: int = 12, users: int = 50) -> None:
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


def make_federation(folder: Path, port: int) -> tuple[Path, list[Path], RunConfig]:
    """A founded workspace, two enrolled sites that allow its bundle and approved its plan, and the plan."""
    write_data(folder / "data")
    training = TrainingConfig(rounds=1, sample_rate=0.5, negatives=4)
    recipe = Recipe(folder / "data", folder / "work", 3.0, 1e-5, 3, training, partners=2, gate=None, pairs=False)
    recipe.out.mkdir()
    bundle = build_bundle(
        open_catalogue(recipe.data),
        recipe.out / "features",
        encoders=(EncoderConfig(modality="image", image_size=32),),
        transform=TransformConfig(dims=8),
        store=folder / "vectors",
    )
    groups = divide(recipe)
    config = plan(recipe, bundle, groups)
    coordinator = recipe.out / "coordinator"
    federation = found_federation(
        coordinator, name="two shops", address=f"127.0.0.1:{port}", names=[], features=recipe.bundle_folder, now=NOW
    )
    digest = make_bundle(coordinator)
    sites = []
    for part in write_sites(recipe.data, folder / "parts", groups):
        name = part.parent.name
        site = recipe.out / "sites" / name
        policy = founding_policy(federation, epsilon=4.0, delta=1e-5).model_copy(update={"allowed_bundles": (digest,)})
        application = Application(name, part, recipe.data, policy, recipe.bundle_folder)
        enrolment, _ = found_site(site, federation, "first_use", application, now=NOW)
        file = read_enrolment(site / "enrolment.json", fingerprint=enrolment.fingerprint)
        enrol_from_file(coordinator, file, now=NOW)
        with (site / "site.toml").open("a") as stream:
            stream.write("simulation_seed = 7\n")  # so that another engine can give the same model
        opened = Site.open(site)
        approve(opened, config, propose(opened, config).bound)
        sites.append(site)
    return coordinator, sites, config


def charges(site: Path) -> int:
    return sum(record.charge is not None for record in Site.open(site).inspect_ledger().history.records)


def said(site: Path) -> list[str]:
    lines = [json.loads(line) for line in (site / "log" / "node.jsonl").read_text().splitlines()]
    return [line["text"] for line in lines if line["event"] == "said"]


def failure(coordinator: Path) -> str:
    return str([event for event in read_journal(coordinator / "run.jsonl") if event["event"] == "failed"][-1])


@pytest.mark.slow
def test_joined_partners_run_their_own_code_and_refuse_what_they_did_not_allow(tmp_path: Path) -> None:
    port = free_port()
    coordinator, sites, config = make_federation(tmp_path, port)
    work = coordinator.parent
    before = Path(shutil.copytree(work, tmp_path / "loopback" / "work"))
    # A client of the same name in the bundle would raise here; and it is not unpacked at all.
    with ExitStack() as running:
        running.enter_context(
            command(tmp_path / "serve.log", "coordinator", "serve", str(coordinator), "--port", str(port))
        )
        connection = Connection.open(coordinator, port=port)
        assert waited(connection.is_up), (tmp_path / "serve.log").read_text()
        log = coordinator / "log" / "coordinator.jsonl"
        assert waited(lambda: log.read_text().count('"registered"') == len(sites)), log.read_text()
        for site in sites:
            words = ("site", "join", str(site), "--port", str(free_port()))
            running.enter_context(command(tmp_path / f"{site.name}.log", *words))
        assert wait_for_end(connection, submit(connection, work / "plan.json")) == coordinator / "final.safetensors"

        run_loopback(server_app, client_app, sorted(before.glob("sites/*")), {"workspace": str(before)})
        exported = (coordinator / "final.safetensors").read_bytes()
        assert exported == (before / "coordinator" / "final.safetensors").read_bytes()
        spent = {site: charges(site) for site in sites}
        assert all(spent.values())
        for site in sites:
            records = Site.open(site).inspect_ledger().history.records
            assert records[-1].type == RecordType.COUNTERSIGN
            assert any("nothing of it is unpacked or run" in line for line in said(site))
            assert not (site / "node" / "flower" / "apps").exists()

        app = coordinator / "flower" / "mmrec-run"
        (app / "client").mkdir()
        (app / "client" / "app.py").write_text("raise RuntimeError('foreign code ran')\n")
        project = app / "pyproject.toml"
        project.write_text(project.read_text().replace('["pyproject.toml"]', '["client/**/*.py"]'))
        with pytest.raises(RunFailed):
            wait_for_end(connection, connection.submit(app, work))
        assert "not one that this partner allows" in failure(coordinator)
        for site in sites:
            assert any("refused a bundle of" in line for line in said(site))
            assert not any("foreign code ran" in line for line in said(site))
            assert charges(site) == spent[site]

        other = tmp_path / "other.json"
        other.write_text(config.model_copy(update={"run_id": "unseen"}).model_dump_json())
        shutil.rmtree(app)
        with pytest.raises(RunFailed):
            wait_for_end(connection, submit(connection, other))
        assert "approval" in failure(coordinator)
        assert {site: charges(site) for site in sites} == spent
    assert alive(tmp_path) == []


def alive(folder: Path) -> list[str]:
    """Processes whose environment names the folder as Flower's home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"FLWR_HOME={folder}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found
