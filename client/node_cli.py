"""`mmrec site join`: the programs of a partner's node, in the foreground (`client.node_programs`). Light to import."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.operation_cli import NODE_PORT, PreflightFailed
from mmrec_model.errors import ConfigError

if TYPE_CHECKING:
    from mmrec_model.federation_file import FederationFile

_LEFT_OUT = frozenset({"self-test"})
"""Run before every release anyway, and long."""


def join(
    site: Annotated[Path, typer.Argument(help="The site's folder, with site.toml.")],
    *,
    superlink: Annotated[
        str | None, typer.Option(help="HOST:PORT of the coordinator; by default as in federation.json.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Local port of the node, on loopback, for its own executor.")
    ] = NODE_PORT,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the programs' commands and start nothing.")
    ] = False,
) -> None:
    """Take part: start the site's node after a check, and keep it running until SIGTERM or Ctrl-C."""
    from client import node_programs  # noqa: PLC0415
    from mmrec_model.privacy.files import FileLock  # noqa: PLC0415
    from mmrec_model.supervision import json_lines, stopped_by_signals, supervise  # noqa: PLC0415

    root = site.resolve()
    federation = _checked(root, port)
    node_programs.prepare_node(root, federation)
    programs = node_programs.node_programs(root, superlink=superlink or federation.address, port=port)
    if print_only:
        for name, value in programs[0].environment.items():
            typer.echo(f"export {name}={shlex.quote(value)}")
        for program in programs:
            typer.echo(shlex.join(program.command))
        return
    os.umask(0o077)
    lock = FileLock(root / node_programs.LOCK, remedy="The site has joined already; end the other process first")
    try:
        with stopped_by_signals() as stop, json_lines(root / node_programs.LOG) as note:
            typer.echo(f"Site {root.name} joins {superlink or federation.address}; log: {root / node_programs.LOG}")
            supervise(programs, stop, note)
    finally:
        lock.close()
    typer.echo("The site's node has ended.")


def _checked(root: Path, port: int) -> FederationFile:
    """The federation file of a site that passes the checks.

    Raises:
        PreflightFailed: a check failed.
        ConfigError: the site has joined no federation.
    """
    from client import operation_screen  # noqa: PLC0415
    from client.network_checks import NetworkChecks  # noqa: PLC0415
    from client.preflight import Surroundings, passed, run_checks  # noqa: PLC0415
    from client.site_checks import SiteChecks  # noqa: PLC0415

    surroundings = Surroundings()
    own = SiteChecks(root, surroundings)
    around = NetworkChecks(own, surroundings, [port], offline=True)
    results = run_checks(check for check in (*own.all(), *around.all()) if check[0] not in _LEFT_OUT)
    if not passed(results):
        operation_screen.show_checks(result for result in results if result.finding.level == "failed")
        raise PreflightFailed(
            f"failed: {', '.join(one.name for one in results if one.finding.level == 'failed')}",
            remedy="Do what the list says, and join again",
        )
    if not own.site.policy.allowed_bundles:
        typer.echo("Warning: the policy allows no bundle, so every run is refused; see allowed_bundles.", err=True)
    if own.federation is None:
        raise ConfigError(f"{root} has joined no federation", remedy="Make the site with mmrec site init")
    return own.federation
