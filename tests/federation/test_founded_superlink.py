"""What founding makes is what Flower's own programs take: TLS, node login, the executors' secret. Real processes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.joining import Application, found_site, founding_policy
from client.node_key import create_node_key
from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.enrolment_file import read_enrolment
from mmrec_model.features.bundle import build_bundle
from server.founding import found_federation
from server.operation import enrol_from_file, write_node_keys

BIN = Path(sys.executable).parent
NOW = datetime.now(UTC)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def program(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """One of Flower's programs and its log; ended when the block ends."""
    log = folder / f"{words[0]}-{time.monotonic_ns()}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(BIN / words[0]), *words[1:]], stdout=stream, stderr=stream, env=environment(folder)
        )
    try:
        yield process, log
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(folder: Path) -> dict[str, str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_PROXY": "127.0.0.1"}
    return {**os.environ, **quiet, "FLWR_HOME": str(folder / "flwr"), "PATH": f"{BIN}:{os.environ['PATH']}"}


def flwr(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [str(BIN / "flwr"), *words], capture_output=True, text=True, env=environment(folder), check=False
    )
    return done.stdout + done.stderr


def waited(until: object, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until():
            return True
        time.sleep(0.5)
    return False


@pytest.mark.slow
def test_an_enrolled_node_gets_in_and_a_stranger_and_a_wrong_ca_do_not(tmp_path: Path, small_partner: Path) -> None:
    port, coordinator, site = free_port(), tmp_path / "c", tmp_path / "site"
    build_bundle(
        open_catalogue(small_partner),
        tmp_path / "bundle",
        encoders=[EncoderConfig(modality="image")],
        transform=TransformConfig(dims=4),
        store=tmp_path / "vectors",
    )
    address, bundle = f"127.0.0.1:{port}", tmp_path / "bundle"
    federation = found_federation(coordinator, name="s", address=address, names=[], features=bundle, now=NOW)
    policy = founding_policy(federation, epsilon=4.0, delta=1e-5)
    application = Application("north", small_partner, small_partner, policy)
    enrolment, _ = found_site(site, federation, "first_use", application, now=NOW)
    file = read_enrolment(site / "enrolment.json", fingerprint=enrolment.fingerprint)
    enrol_from_file(coordinator, file, now=NOW)
    keys = write_node_keys(coordinator, tmp_path / "keys")
    (tmp_path / "ca.crt").write_text(federation.ca_certificate)
    create_node_key(tmp_path / "stranger", "stranger")
    shutil.copytree(bundle, tmp_path / "copy", ignore=shutil.ignore_patterns("manifest.sig"))
    found_federation(tmp_path / "evil", name="s", address=address, names=[], features=tmp_path / "copy", now=NOW)
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "prod"\n[superlink.prod]\naddress = "{address}"\n'
        f'root-certificates = "{tmp_path / "ca.crt"}"\n'
    )
    superlink = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key"]
    superlink += ["--isolation", "process", "--superexec-auth-secret-file", "superexec.secret"]
    superlink = [str(coordinator / word) if "." in word else word for word in superlink]

    def node(key: Path, ca: Path) -> list[str]:
        words = ["flower-supernode", "--superlink", address, "--root-certificates", str(ca)]
        words += ["--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(free_port())]
        return [*words, "--isolation", "process", "--max-retries", "1"]

    def online() -> bool:
        listed = json.loads(flwr(tmp_path, "supernode", "list", "--format", "json", "prod"))
        return [one["status"] for one in listed["nodes"]] == ["online"]

    with program(
        tmp_path, "flower-superlink", *superlink, "--enable-supernode-auth", "--host", "127.0.0.1", "--port", str(port),
        "--database", str(tmp_path / "state.db"), "--disable-runtime-dependency-installation",
    ) as (_, log):  # fmt: skip
        assert waited(lambda: "Uvicorn running" in log.read_text()), log.read_text()
        assert "registered" in flwr(tmp_path, "supernode", "register", str(keys["north"]), "prod", "--name", "north")
        for key, ca in (
            (tmp_path / "stranger" / "node.key", tmp_path / "ca.crt"),
            (site / "node.key", tmp_path / "evil" / "ca.crt"),
        ):
            with program(tmp_path, *node(key, ca)) as (process, said):
                assert process.wait(60) != 0, said.read_text()
            assert not online()
        with program(tmp_path, *node(site / "node.key", tmp_path / "ca.crt")):
            assert waited(online)
