"""The coordinator's programs under Flower, and the private way to speak with its SuperLink.

`coordinator_programs` are the command lines of `server.superlink`, to be kept running by `mmrec_model.supervision`.
`Connection` is Flower's own command line tool with a configuration of its own (`FOLDER/flower`): it speaks over TLS
with the SuperLink on loopback, whose Control API knows no login. Partners never reach it.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mmrec_model.errors import MmrecError
from mmrec_model.flower_environment import quiet_environment
from mmrec_model.privacy.files import file_faults
from mmrec_model.storage import write_atomically
from mmrec_model.supervision import Program
from server.founding import CA_CERTIFICATE
from server.operation import write_node_keys
from server.superlink import LOOPBACK, joined, superexec_command, superlink_command

FLOWER: Final = "flower"
LOG: Final = Path("log", "coordinator.jsonl")
LOCK: Final = Path(FLOWER, "running.lock")
_NAME: Final = "federation"
_SECONDS: Final = 120.0
_HEALTH_SECONDS: Final = 5.0
_TWICE: Final = "[code: 23]"
"""Flower 1.41's answer to a key that is registered already."""


class FlowerFailed(MmrecError):
    """A command of Flower's did not do what it was asked."""


def coordinator_environment(folder: Path) -> dict[str, str]:
    """What the coordinator's programs find in their environment: the process's own, and nothing that tells tales."""
    programs = Path(sys.executable).parent
    own = {"FLWR_HOME": str(folder.resolve() / FLOWER), "NO_PROXY": f"{LOOPBACK},localhost"}
    return {
        **os.environ,
        **quiet_environment(),
        **own,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def coordinator_programs(folder: Path, *, port: int) -> tuple[Program, Program]:
    """SuperLink and SuperExec of a founded folder.

    Args:
        folder: the coordinator's.
        port: of the SuperLink, on loopback.

    Raises:
        UsageError: the port cannot be one.
    """
    folder = folder.resolve()
    environment, place = coordinator_environment(folder), folder / FLOWER
    programs = Path(sys.executable).parent
    lines = {"superlink": superlink_command(folder, port=port), "superexec": superexec_command(folder, port=port)}
    one, two = (
        Program(name, (str(programs / words[0]), *words[1:]), environment, place) for name, words in lines.items()
    )
    return one, two


@dataclass(frozen=True)
class Connection:
    """Flower's tool, pointed at the SuperLink of a folder.

    Attributes:
        folder: the coordinator's, absolute.
        port: of the SuperLink, on loopback.
    """

    folder: Path
    port: int

    @classmethod
    def open(cls, folder: Path, *, port: int) -> Connection:
        """Write Flower's configuration; connects to nothing.

        Raises:
            LedgerFault: it cannot be written.
        """
        folder = folder.resolve()
        home = folder / FLOWER
        with file_faults(home):
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = f'[superlink]\ndefault = "{_NAME}"\n\n[superlink.{_NAME}]\naddress = "{joined(LOOPBACK, port)}"\n'
            text += f"root-certificates = {json.dumps(str(folder / CA_CERTIFICATE))}\n"
            write_atomically(home / "config.toml", text.encode())
        return cls(folder, port)

    def is_up(self) -> bool:
        """Whether the SuperLink answers."""
        try:
            context = ssl.create_default_context(cafile=str(self.folder / CA_CERTIFICATE))
            link = http.client.HTTPSConnection(LOOPBACK, self.port, timeout=_HEALTH_SECONDS, context=context)
            with closing(link):
                link.request("GET", "/health")
                return link.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def register_nodes(self) -> list[str]:
        """Let the nodes of all partners that take part log in; the names of those that could not before.

        Raises:
            FlowerFailed: the SuperLink refuses for another reason than that it knows the key.
        """
        added = []
        for name, path in write_node_keys(self.folder, self.folder / "node-keys").items():
            done = self._flwr("supernode", "register", str(path), _NAME, "--name", name)
            said = done.stdout + done.stderr
            if done.returncode == 0:
                added.append(name)
            elif _TWICE not in said:
                raise _failed(f"the node of {name} cannot be registered", said)
        return added

    def submit(self, app: Path, workspace: Path) -> str:
        """Start a run; its id.

        Args:
            app: the app's folder.
            workspace: the run's, with `plan.json`.

        Raises:
            FlowerFailed: it was not started.
        """
        settings = self.folder / FLOWER / "run.toml"
        write_atomically(settings, f"workspace = {json.dumps(str(workspace.resolve()))}\n".encode())
        answer = self._json("run", str(app), _NAME, "--run-config", str(settings), "--format", "json")
        if not answer.get("run-id"):
            raise _failed("the run was not started", str(answer))
        return str(answer["run-id"])

    def status(self, run_id: str) -> tuple[str, str]:
        """A run's status, as `finished:completed`, and its details; `flwr run` itself ends with 0 for a failed run.

        Raises:
            FlowerFailed: Flower does not tell.
        """
        answer = self._json("list", _NAME, "--run-id", run_id, "--format", "json")
        try:
            (run,) = answer["runs"]
            return str(run["status"]), str(run["status-details"])
        except (KeyError, TypeError, ValueError) as error:
            raise _failed("Flower does not tell the run's status", str(answer)) from error

    def _json(self, *words: str) -> dict[str, Any]:
        done = self._flwr(*words)
        start = done.stdout.find("{")
        try:
            answer = json.loads(done.stdout[start:] if start >= 0 else "")
        except ValueError as error:
            raise _failed(f"flwr {words[0]} ended with {done.returncode}", done.stdout + done.stderr) from error
        return answer if isinstance(answer, dict) else {}

    def _flwr(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - the words are this package's own
                [str(Path(sys.executable).parent / "flwr"), *words],
                cwd=self.folder / FLOWER,
                env=coordinator_environment(self.folder),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _failed(f"flwr {words[0]} took longer than {_SECONDS:g} s", "") from error


def _failed(problem: str, said: str) -> FlowerFailed:
    last = " ".join(said.split())[-400:]
    return FlowerFailed(f"{problem}: {last}" if last else problem, remedy=f"Is it running? See {LOG}")
