"""Partners join a coordinator over TLS, with real processes: what runs at a site is what the site installed.

One federation on loopback: SuperLink, the gateway where nginx is installed, two SuperNodes, their executors and, for
every message, the launcher. Run with
`pytest -m slow tests/federation/test_joined_run.py`.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

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
from server.gateway import nginx_command, plan_gateway, write_gateway
from server.journal import read_journal
from server.operation import enrol_from_file
from server.submission import RunFailed, make_bundle, wait_for_end
from simulations.loopback import run_loopback
from simulations.partition import write_sites
from simulations.workspace import Recipe, divide, plan
from tests.federation.programs import NOW, free_port, program, waited

REPOSITORY = Path(__file__).resolve().parents[2]
MMREC = [sys.executable, "-c", "import sys; from mmrec_model.cli import main; sys.exit(main())"]


@contextmanager
def command(log: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of `mmrec` in the foreground; ended by SIGTERM, and then it must end by itself."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SHOULD_NOT_TRAVEL": "token"}
    line = [*MMREC, *words]
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


def noted(site: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (site / "log" / "node.jsonl").read_text().splitlines()]


def said(site: Path) -> list[str]:
    return [event["text"] for event in noted(site) if event["event"] == "said"]


def failure(coordinator: Path) -> str:
    return str([event for event in read_journal(coordinator / "run.jsonl") if event["event"] == "failed"][-1])


def run(coordinator: Path, plan_file: Path, port: int) -> subprocess.CompletedProcess[str]:
    """`mmrec coordinator run`."""
    words = ["coordinator", "run", str(coordinator), str(plan_file), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([*MMREC, *words], capture_output=True, text=True, env=environment, check=False)


@contextmanager
def joined(folder: Path, coordinator: Path, sites: list[Path], port: int, public: int) -> Iterator[Connection]:
    """The coordinator served at one port, and the sites joined at the other: through the gateway, if they differ."""
    with ExitStack() as running:
        if public != port:
            listen, superlink = f"127.0.0.1:{public}", f"127.0.0.1:{port}"
            planned = plan_gateway(coordinator, listen=listen, superlink=superlink, health_port=free_port())
            running.enter_context(program(folder, *nginx_command(write_gateway(planned))))
        serve = ("coordinator", "serve", str(coordinator), "--port", str(port))
        running.enter_context(command(folder / "serve.log", *serve))
        connection = Connection.open(coordinator, port=port)
        assert waited(connection.is_up), (folder / "serve.log").read_text()
        log = coordinator / "log" / "coordinator.jsonl"
        assert waited(lambda: log.read_text().count('"registered"') == len(sites)), log.read_text()
        for site in sites:
            words = ("site", "join", str(site), "--port", str(free_port()))
            running.enter_context(command(folder / f"{site.name}.log", *words))
        yield connection


@pytest.mark.slow
def test_joined_partners_run_their_own_code_and_refuse_what_they_did_not_allow(tmp_path: Path) -> None:
    port = free_port()
    public = port if shutil.which("nginx") is None else free_port()
    coordinator, sites, config = make_federation(tmp_path, public)
    before = Path(shutil.copytree(coordinator.parent, tmp_path / "loopback" / "work"))
    with joined(tmp_path, coordinator, sites, port, public) as connection:
        a_run_trains_and_gives_the_model_of_the_loopback_engine(coordinator, sites, before, port)
        spent = {site: charges(site) for site in sites}
        a_bundle_with_other_bytes_is_refused(connection, sites)
        assert {site: charges(site) for site in sites} == spent
        other = tmp_path / "other.json"
        other.write_text(config.model_copy(update={"run_id": "unseen"}).model_dump_json())
        done = run(coordinator, other, port)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "approval" in failure(coordinator)
        assert {site: charges(site) for site in sites} == spent
        a_killed_node_comes_back(sites[0])
    assert alive(tmp_path) == []


def a_run_trains_and_gives_the_model_of_the_loopback_engine(
    coordinator: Path, sites: list[Path], before: Path, port: int
) -> None:
    done = run(coordinator, coordinator.parent / "plan.json", port)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(coordinator / "final.safetensors") in done.stdout
    run_loopback(server_app, client_app, sorted(before.glob("sites/*")), {"workspace": str(before)})
    exported = (coordinator / "final.safetensors").read_bytes()
    assert exported == (before / "coordinator" / "final.safetensors").read_bytes()
    for site in sites:
        assert charges(site) > 0
        assert Site.open(site).inspect_ledger().history.records[-1].type == RecordType.COUNTERSIGN
        assert any("nothing of it is unpacked or run" in line for line in said(site))
        assert not (site / "node" / "flower" / "apps").exists()


def a_bundle_with_other_bytes_is_refused(connection: Connection, sites: list[Path]) -> None:
    app = connection.folder / "flower" / "mmrec-run"
    (app / "client").mkdir()
    (app / "client" / "app.py").write_text("raise RuntimeError('foreign code ran')\n")
    project = app / "pyproject.toml"
    project.write_text(project.read_text().replace('["pyproject.toml"]', '["client/**/*.py"]'))
    with pytest.raises(RunFailed):
        wait_for_end(connection, connection.submit(app, connection.folder.parent))
    assert "not one that this partner allows" in failure(connection.folder)
    for site in sites:
        assert any("refused the bundle" in line for line in said(site))
        assert not any("foreign code ran" in line for line in said(site))
    shutil.rmtree(app)


def a_killed_node_comes_back(site: Path) -> None:
    """Flower 1.41 lets it log in again only after a minute; until then it ends, and is started again."""
    started = [event["pid"] for event in noted(site) if (event["program"], event["event"]) == ("supernode", "started")]
    os.kill(started[-1], signal.SIGKILL)
    assert waited(lambda: sum("SuperNode ID" in line for line in said(site)) == 2, 180.0), said(site)[-10:]
    ended = [event["code"] for event in noted(site) if event["event"] == "ended"]
    assert ended[0] == -signal.SIGKILL
    assert len(ended) > 1


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
