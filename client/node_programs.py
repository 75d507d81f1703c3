"""The programs of a partner's node: Flower's SuperNode, and the SuperExec that starts our own launcher.

    node/bin/flwr-clientapp   the launcher (`client.launcher`), by the name under which Flower looks for it; 0700
    node/ca.crt               the federation's CA, from `federation.json`
    node/superexec.secret     32 random bytes by which the node knows its own executor; 0600, never leaves
    node/flower/, node/tmp/   what Flower and the libraries write
    log/node.jsonl            what the programs say (`mmrec_model.supervision`)

Read in flwr 1.41: with `--isolation process` and the secret only who holds it may take the messages; the SuperNode
listens for its executor on loopback alone; without `--allow-runtime-dependency-installation` nothing is installed.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import sys
from pathlib import Path
from typing import Final

import client
from client.confinement import SITE_VARIABLE
from client.launcher import PROGRAM
from client.node_key import NODE_KEY
from mmrec_model.federation_file import FederationFile, split_address
from mmrec_model.flower_environment import quiet_environment
from mmrec_model.privacy.files import create_file, file_faults
from mmrec_model.storage import write_atomically
from mmrec_model.supervision import Program

NODE: Final = "node"
LOG: Final = Path("log", "node.jsonl")
LOCK: Final = Path(NODE, "running.lock")
SECRET: Final = "superexec.secret"  # noqa: S105 - the name of a file
CA: Final = "ca.crt"
_LOOPBACK: Final = "127.0.0.1"
_SECRET_BYTES: Final = 32
_PASSED_ON: Final = ("LANG", "LC_ALL", "TZ", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HUB_OFFLINE", "MMREC_CACHE")
_SYSTEM_PATH: Final = "/usr/bin:/bin"


def prepare_node(root: Path, federation: FederationFile) -> None:
    """Make the folder `node` of a site, or bring it up to date; the secret is made once.

    Raises:
        LedgerFault: a file cannot be written.
    """
    node = root / NODE
    with file_faults(node):
        for folder in (node, node / "bin", node / "flower", node / "tmp", (root / LOG).parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(node / CA, federation.ca_certificate.encode())
        write_atomically(node / "bin" / "launch.py", _starter().encode())
        words = shlex.join([sys.executable, "-I", str(node.resolve() / "bin" / "launch.py")])
        write_atomically(node / "bin" / PROGRAM, f'#!/bin/sh\nexec {words} "$@"\n'.encode(), mode=0o700)
    if not (node / SECRET).exists():
        create_file(node / SECRET, secrets.token_bytes(_SECRET_BYTES), mode=0o600)


def node_programs(root: Path, *, superlink: str, port: int) -> tuple[Program, Program]:
    """SuperNode and SuperExec of a prepared site.

    Args:
        root: the site's folder.
        superlink: HOST:PORT of the coordinator.
        port: on which the SuperNode listens for its executor, on loopback.

    Raises:
        TrustError: `superlink` is no HOST:PORT.
    """
    split_address(superlink)
    root = root.resolve()
    node, environment = root / NODE, node_environment(root)
    guard = ["--isolation", "process", "--superexec-auth-secret-file", str(node / SECRET)]
    supernode = [_flower("flower-supernode"), "--superlink", superlink, "--root-certificates", str(node / CA)]
    supernode += ["--auth-supernode-private-key", str(root / NODE_KEY), "--host", _LOOPBACK, "--port", str(port)]
    supernode += [*guard, "--node-config", f"site={json.dumps(str(root))}"]
    superexec = [_flower("flower-superexec"), "--runtime-api-address", f"{_LOOPBACK}:{port}", "--insecure", *guard[2:]]
    return (
        Program("supernode", tuple(supernode), environment, root),
        Program("superexec", tuple(superexec), environment, root),
    )


def node_environment(root: Path) -> dict[str, str]:
    """All that the programs of a site find in their environment."""
    node = root / NODE
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **kept,
        **quiet_environment(),
        "PATH": os.pathsep.join([str(node / "bin"), str(Path(sys.executable).parent), _SYSTEM_PATH]),
        "HOME": str(root),
        "TMPDIR": str(node / "tmp"),
        "FLWR_HOME": str(node / "flower"),
        "NO_PROXY": f"{_LOOPBACK},localhost",
        SITE_VARIABLE: str(root),
    }


def _flower(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _starter() -> str:
    """Python that runs the launcher of exactly this installation."""
    place = str(Path(client.__file__).resolve().parents[1])
    return (
        f"import sys\nplace = {place!r}\nplace in sys.path or sys.path.insert(0, place)\n"
        "from client.launcher import main\nmain()\n"
    )
