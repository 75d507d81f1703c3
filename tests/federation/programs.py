"""Flower's and nginx's own programs as real processes, and a founded federation with one enrolled partner.

Everything listens on loopback, at ports that were free a moment ago; a program is ended when its block ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.joining import Application, found_site, founding_policy
from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.enrolment_file import read_enrolment
from mmrec_model.features.bundle import build_bundle
from mmrec_model.federation_file import FederationFile
from mmrec_model.flower_environment import quiet_environment
from server.founding import found_federation
from server.operation import enrol_from_file, write_node_keys

BIN = Path(sys.executable).parent
NOW = datetime.now(UTC)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def program(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A program and its log; ended when the block ends. Those of the environment come before those of the system."""
    log = folder / f"{Path(words[0]).name}-{time.monotonic_ns()}.log"
    path = BIN / words[0]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(path if path.exists() else words[0]), *words[1:]],
            stdout=stream,
            stderr=stream,
            env=environment(folder),
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
    own = {"NO_PROXY": "*", "FLWR_HOME": str(folder / "flwr"), "PATH": f"{BIN}:{os.environ['PATH']}"}
    return {**os.environ, **quiet_environment(), **own}


def flwr(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [str(BIN / "flwr"), *words], capture_output=True, text=True, env=environment(folder), check=False
    )
    return done.stdout + done.stderr


def waited(until: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until():
            return True
        time.sleep(0.5)
    return False


@dataclass(frozen=True)
class Enrolled:
    """A founded federation and its one partner, north.

    Attributes:
        folder: of the test; logs and Flower's own files lie here.
        coordinator: the founded folder.
        site: the partner's.
        bundle: the signed features.
        federation: the file that the partner has.
        node_key: north's public key, for `flwr supernode register`.
        ca: the federation's CA certificate, as a file.
    """

    folder: Path
    coordinator: Path
    site: Path
    bundle: Path
    federation: FederationFile
    node_key: Path
    ca: Path

    def node(self, address: str, *, key: Path | None = None, ca: Path | None = None) -> list[str]:
        """The words that start a SuperNode against `address`."""
        words = ["flower-supernode", "--superlink", address, "--root-certificates", str(ca or self.ca)]
        words += ["--auth-supernode-private-key", str(key or self.site / "node.key")]
        words += ["--host", "127.0.0.1", "--port", str(free_port()), "--isolation", "process", "--max-retries", "1"]
        return words

    def connections(self, **addresses: str) -> None:
        """Name addresses for the `flwr` command; each is believed through the federation's CA."""
        (self.folder / "flwr").mkdir(exist_ok=True)
        parts = [f'[superlink]\ndefault = "{next(iter(addresses))}"\n']
        parts += [f'[superlink.{n}]\naddress = "{a}"\nroot-certificates = "{self.ca}"\n' for n, a in addresses.items()]
        (self.folder / "flwr" / "config.toml").write_text("".join(parts))


def found_and_enrol(folder: Path, data: Path, address: str) -> Enrolled:
    """Found a federation for the catalogue of `data`, and enrol the partner that holds `data`."""
    coordinator, site, bundle = folder / "c", folder / "site", folder / "bundle"
    encoders, transform = [EncoderConfig(modality="image")], TransformConfig(dims=4)
    build_bundle(open_catalogue(data), bundle, encoders=encoders, transform=transform, store=folder / "vectors")
    federation = found_federation(coordinator, name="s", address=address, names=[], features=bundle, now=NOW)
    application = Application("north", data, data, founding_policy(federation, epsilon=4.0, delta=1e-5))
    enrolment, _ = found_site(site, federation, "first_use", application, now=NOW)
    enrol_from_file(coordinator, read_enrolment(site / "enrolment.json", fingerprint=enrolment.fingerprint), now=NOW)
    keys = write_node_keys(coordinator, folder / "keys")
    (folder / "ca.crt").write_text(federation.ca_certificate)
    return Enrolled(folder, coordinator, site, bundle, federation, keys["north"], folder / "ca.crt")
