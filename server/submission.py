"""A run over the network, as the coordinator starts it: its bundle, its submission, and how it really ended.

The bundle holds no code (`mmrec_model.app_bundle`). Its digest is that of the bytes which Flower will send, because
Flower's own function builds them; it is written to `FOLDER/bundle.json` for the partners to allow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flwr.cli.build import build_fab_from_disk

from mmrec_model.app_bundle import write_app
from mmrec_model.canonical import sha256_hex
from mmrec_model.errors import MmrecError
from mmrec_model.privacy.files import file_faults
from mmrec_model.storage import write_atomically
from server.app import read_plan
from server.flower_programs import FLOWER, LOG, Connection
from server.journal import read_journal

BUNDLE: Final = "bundle.json"
EXPORT: Final = "final.safetensors"
_APP: Final = "mmrec-run"
_COMPLETED: Final = "finished:completed"
_FINISHED: Final = "finished"
_LOOK_SECONDS: Final = 1.0
_ASK_SECONDS: Final = 20.0


class RunFailed(MmrecError):
    """The run did not complete."""


def make_bundle(folder: Path) -> str:
    """Make the bundle's app, and write its digest where partners can be told of it; the digest.

    Raises:
        LedgerFault: a file cannot be written.
    """
    app = folder / FLOWER / _APP
    with file_faults(app):
        content = build_fab_from_disk(write_app(app))
        digest = sha256_hex(content)
        stated = json.dumps({"sha256": digest, "bytes": len(content)}) + "\n"
        write_atomically(folder / BUNDLE, stated.encode())
    return digest


def submit(connection: Connection, plan: Path) -> str:
    """Put a plan into the workspace and start its run; Flower's id of it.

    Args:
        connection: with the SuperLink.
        plan: the run's; becomes the workspace's `plan.json`.

    Raises:
        ConfigError: it is no valid plan.
        FlowerFailed: the run was not started.
    """
    workspace = connection.folder.parent
    read_plan(plan)
    if plan.resolve() != workspace / "plan.json":
        with file_faults(workspace / "plan.json"):
            write_atomically(workspace / "plan.json", plan.read_bytes())
    make_bundle(connection.folder)
    return connection.submit(connection.folder / FLOWER / _APP, workspace)


def wait_for_end(connection: Connection, run_id: str, *, sleep: Callable[[float], None] = time.sleep) -> Path:
    """Wait until a run has ended; the exported state.

    Asking Flower starts a process, so it is asked when the coordinator's journal says that something ended, and now and
    then in between.

    Raises:
        RunFailed: it ended otherwise than completed.
        FlowerFailed: Flower does not tell.
    """
    journal = connection.folder / "run.jsonl"
    ends = _ends(journal)
    while True:
        status, details = connection.status(run_id)
        if status == _COMPLETED:
            return connection.folder / EXPORT
        if status.startswith(_FINISHED):
            raise RunFailed(f"run {run_id} ended as '{status}': {details}", remedy=f"Read {journal} and {LOG}")
        since = 0.0
        while since < _ASK_SECONDS and _ends(journal) == ends:
            sleep(_LOOK_SECONDS)
            since += _LOOK_SECONDS
        ends = _ends(journal)
        sleep(_LOOK_SECONDS)


def _ends(journal: Path) -> int:
    return sum(event.get("event") in {"finished", "failed"} for event in read_journal(journal))
