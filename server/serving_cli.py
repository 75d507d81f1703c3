"""`mmrec coordinator serve`, `bundle`, `run`: a run over the network, the coordinator's side. Light to import."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.ports import LOOPBACK, SUPERLINK_PORT

if TYPE_CHECKING:
    from mmrec_model.supervision import Note
    from server.flower_programs import Connection

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder, WORKSPACE/coordinator, founded.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Of the SuperLink, on loopback.")]
_LOOK_SECONDS: Final = 2.0


def serve(
    folder: Folder,
    *,
    port: Port = SUPERLINK_PORT,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the programs' commands and start nothing.")
    ] = False,
) -> None:
    """Start SuperLink and executor, let the enrolled nodes log in, and keep it all running until SIGTERM or Ctrl-C."""
    from mmrec_model.privacy.files import FileLock  # noqa: PLC0415
    from mmrec_model.supervision import json_lines, stopped_by_signals, supervise  # noqa: PLC0415
    from server import flower_programs  # noqa: PLC0415
    from server.founding import read_founded  # noqa: PLC0415
    from server.superlink import require_reachable  # noqa: PLC0415

    require_reachable(folder)
    file, folder = read_founded(folder), folder.resolve()
    programs = flower_programs.coordinator_programs(folder, port=port)
    if print_only:
        for program in programs:
            typer.echo(shlex.join(program.command))
        return
    os.umask(0o077)
    connection = flower_programs.Connection.open(folder, port=port)
    lock = FileLock(folder / flower_programs.LOCK, remedy="It is served already; end the other process first")
    try:
        with stopped_by_signals() as stop, json_lines(folder / flower_programs.LOG) as note:
            typer.echo(f"Federation '{file.name}' is served on {LOOPBACK}:{port}; log: {folder / flower_programs.LOG}")
            threading.Thread(target=_keep_registered, args=(connection, stop, note), daemon=True).start()
            supervise(programs, stop, note)
    finally:
        lock.close()
    typer.echo("The coordinator's programs have ended.")


def bundle(folder: Folder) -> None:
    """Print the digest of the bundle that comes with every run, for the partners' `allowed_bundles`."""
    from server.submission import make_bundle  # noqa: PLC0415

    typer.echo(make_bundle(folder.resolve()))


def run(
    folder: Folder,
    plan: Annotated[Path, typer.Argument(help="The run's plan; becomes WORKSPACE/plan.json.")],
    *,
    port: Port = SUPERLINK_PORT,
) -> None:
    """Start a run at a coordinator that is served, and wait for its end; status 0 only if it completed."""
    from server import flower_programs, submission  # noqa: PLC0415

    connection = flower_programs.Connection.open(folder, port=port)
    typer.echo(f"Bundle {submission.make_bundle(connection.folder)}")
    run_id = submission.submit(connection, plan)
    typer.echo(f"Run {run_id} is started.")
    typer.echo(f"The run completed; the exported state is {submission.wait_for_end(connection, run_id)}")


COMMANDS: Final[tuple[tuple[str, Callable[..., None]], ...]] = (("serve", serve), ("bundle", bundle), ("run", run))
"""Name and function of each."""


def _keep_registered(connection: Connection, stop: threading.Event, note: Note) -> None:
    """Register nodes once the SuperLink answers, and again whenever the list of partners has changed."""
    from mmrec_model.errors import MmrecError  # noqa: PLC0415
    from server.partners import PARTNERS  # noqa: PLC0415

    path, done = connection.folder / PARTNERS, 0
    while not stop.wait(_LOOK_SECONDS):
        written = path.stat().st_mtime_ns if path.is_file() else 0
        if written == done or not connection.is_up():
            continue
        try:
            for name in connection.register_nodes():
                note({"program": "coordinator", "event": "registered", "partner": name})
            done = written
        except MmrecError as error:
            note({"program": "coordinator", "event": "not registered", "problem": str(error)})
