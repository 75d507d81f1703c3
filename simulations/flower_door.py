"""The same federation through Flower's own door: a private SuperLink, `flwr run`, one Ray node per partner.

`run_with_flower` is the documented command (docs/coordinator.md) with every trap of Flower 1.41 closed: Ray actors take
their code from the folder the SuperLink was started in, so it is started in an empty one; the run's status is asked
for, because `flwr run --stream` exits 0 for a run that failed; nothing is installed, reported or fetched; and the
SuperLink, which Flower would leave running for ever, ends with the run. While it runs, its port on 127.0.0.1 takes
orders from every user of this machine, for Flower's open control interface has no login.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import server
from mmrec_model.errors import MmrecError, UsageError

QUIET = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "NO_PROXY": "127.0.0.1,localhost",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "no_proxy": "127.0.0.1,localhost",
}
"""Environment in which no part of Flower or Ray leaves this machine."""
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_LIST_SECONDS = 120.0
_COMPLETED = "finished:completed"


def run_with_flower(workspace: Path, n_partners: int, *, app: Path | None = None, timeout: float = 3600.0) -> None:
    """Run a workspace's plan as a Flower simulation and wait for its end.

    Args:
        workspace: holds `plan.json` and the sites; Flower's log becomes `coordinator/flower.log`.
        n_partners: number of nodes; node k is the partner whose `partition-id` is k.
        app: the folder with the project's `pyproject.toml`; the checkout this package lies in by default.
        timeout: seconds until the run is stopped.

    Raises:
        UsageError: no partner, or no app folder.
        MmrecError: Flower does not start, or the run does not complete.
    """
    folder = app if app is not None else Path(server.__file__).resolve().parents[1]
    if n_partners < 1 or not (folder / "pyproject.toml").is_file():
        raise UsageError(
            f"{n_partners} partners and the app folder {folder} make no Flower run",
            remedy="Give at least one partner, and run from a checkout: Flower bundles the app's folder",
        )
    workspace = workspace.resolve()
    log = workspace / "coordinator" / "flower.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with _home(workspace) as home, _superlink(home):
        _submit(home, folder.resolve(), n_partners, log, timeout)
        status, details = _status(home)
    if status != _COMPLETED:
        raise MmrecError(f"the Flower run ended as '{status}': {details}", remedy=f"Read {log}")


@contextmanager
def _home(workspace: Path) -> Iterator[Path]:
    # Ray's socket paths must stay under 108 bytes: the folder is made where temporary folders have short names.
    home = Path(tempfile.mkdtemp(prefix="mmrec-"))
    try:
        for name in ("cwd", "ray"):
            (home / name).mkdir()
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        (home / "port").write_text(str(port))
        (home / "run.toml").write_text(f"workspace = {json.dumps(str(workspace))}\n")
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _environment(home: Path) -> dict[str, str]:
    programs = Path(sys.executable).parent
    return {
        **os.environ,
        **QUIET,
        "FLWR_HOME": str(home),
        "RAY_TMPDIR": str(home / "ray"),
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextmanager
def _superlink(home: Path) -> Iterator[None]:
    port = (home / "port").read_text()
    command = [_program("flower-superlink"), "--insecure", "--simulation", "--disable-runtime-dependency-installation"]
    command += ["--host", "127.0.0.1", "--port", port, "--log-file", str(home / "superlink.log")]
    process = subprocess.Popen(  # noqa: S603
        command,
        cwd=home / "cwd",
        env=_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_health(process, port, home / "superlink.log")
        yield
    finally:
        _stop(process, home)


def _await_health(process: subprocess.Popen[bytes], port: str, log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError), direct.open(f"http://127.0.0.1:{port}/health", timeout=2.0):
            return
        time.sleep(0.2)
    last = log.read_text(errors="replace")[-400:] if log.is_file() else "no log"
    raise MmrecError(
        f"Flower's SuperLink does not answer on port {port} within {_START_SECONDS:g} s: {last}",
        remedy="Check that flwr[simulation] is installed and the machine is not out of memory",
    )


def _submit(home: Path, app: Path, n_partners: int, log: Path, timeout: float) -> None:
    nodes = f"num-supernodes={n_partners} client-resources-num-cpus=1"
    command = [_program("flwr"), "run", str(app), "local", "--stream"]
    command += ["--federation-config", nodes, "--run-config", str(home / "run.toml")]
    with log.open("wb") as stream:
        try:
            code = _flwr(command, home, stream.fileno(), timeout)
        except subprocess.TimeoutExpired as error:
            raise MmrecError(
                f"the Flower run took longer than {timeout:g} s", remedy=f"Read {log}, or allow more time"
            ) from error
    if code != 0:
        raise MmrecError(
            f"flwr run exited with {code}: {log.read_text(errors='replace').strip()[-400:]}", remedy=f"Read {log}"
        )


def _flwr(command: list[str], home: Path, output: int, timeout: float) -> int:
    return subprocess.run(  # noqa: S603
        command,
        cwd=home / "cwd",
        env=_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        timeout=timeout,
        check=False,
    ).returncode


def _status(home: Path) -> tuple[str, str]:
    answer = home / "status.json"
    with answer.open("wb") as stream:
        _flwr([_program("flwr"), "list", "local", "--format", "json"], home, stream.fileno(), _LIST_SECONDS)
    text = answer.read_text(errors="replace")
    try:
        (run,) = json.loads(text)["runs"]
        return str(run["status"]), str(run["status-details"])
    except (ValueError, KeyError, TypeError) as error:
        raise MmrecError(
            f"flwr list does not tell the run's status: {text[-400:]}", remedy="Check the pinned flwr"
        ) from error


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    deadline = time.monotonic() + _STOP_SECONDS
    while (alive := _descendants(home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for identity in alive:
        with suppress(OSError):
            os.kill(identity, signal.SIGKILL)
    if process.poll() is None:
        process.kill()
    process.wait()


def _descendants(home: Path) -> list[int]:
    # Flower and Ray detach what they start; what they cannot shed is the environment with this run's own folder.
    mark = f"FLWR_HOME={home}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found
