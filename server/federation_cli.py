"""`mmrec federation`: found a federation, renew its certificate, start its server and gateway. Light to import."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.ports import GATEWAY_HEALTH_PORT, LOOPBACK, SUPERLINK_PORT

if TYPE_CHECKING:
    from mmrec_model.federation_file import FederationFile

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder, WORKSPACE/coordinator.")]
Names = Annotated[
    list[str] | None, typer.Option(help="A further host name or IP address of the server; may be repeated.")
]

Port = Annotated[int, typer.Option(min=1, max=65535, help="The SuperLink's port, on 127.0.0.1.")]
HealthPort = Annotated[
    int | None, typer.Option(min=1, max=65535, help="A port of its own for the gRPC health service; none without it.")
]
Print = Annotated[bool, typer.Option("--print", help="Show the command line and its environment; start nothing.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="A federation: its founding, its certificate, its server.")
    for name, command in (
        ("init", init),
        ("show", show),
        ("renew", renew),
        ("gateway", gateway),
        ("superlink", superlink),
        ("superexec", superexec),
    ):
        group.command(name)(command)
    app.add_typer(group, name="federation")


def init(
    folder: Folder,
    *,
    name: Annotated[str, typer.Option(help="The federation's name, 1 to 64 characters.")],
    address: Annotated[str, typer.Option(help="HOST:PORT, where the partners' nodes connect.")],
    features: Annotated[Path, typer.Option(help="The feature bundle; it is signed where it lies.")],
    address_name: Names = None,
) -> None:
    """Make CA, server certificate, keys and the federation file that every partner gets. Overwrites nothing."""
    from server.founding import found_federation  # noqa: PLC0415

    file = found_federation(
        folder, name=name, address=address, names=address_name or (), features=features, now=datetime.now(UTC)
    )
    typer.echo(f"Federation '{file.name}' is founded in {folder}.")
    typer.echo(f"Feature bundle {file.features_digest[:12]} is signed.")
    _say_fingerprint(file)


def show(
    folder: Folder, *, as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False
) -> None:
    """Show the federation file, its fingerprint, and until when the certificates are valid."""
    from server.founding import SERVER_CERTIFICATE, expiry_warnings, read_certificate, read_founded  # noqa: PLC0415

    file = read_founded(folder)
    warnings = expiry_warnings(folder, datetime.now(UTC))
    end = read_certificate(folder / SERVER_CERTIFICATE).not_valid_after_utc
    if as_json:
        facts = {"fingerprint": file.fingerprint, "server_certificate_ends": end.isoformat(), "warnings": warnings}
        typer.echo(json.dumps({**file.model_dump(), **facts}, indent=1))
        return
    for field, value in file.model_dump(exclude={"ca_certificate", "signature", "format"}).items():
        typer.echo(f"{field.replace('_', ' ')}: {value}")
    typer.echo(f"server certificate ends: {end.date()}")
    _say_fingerprint(file)
    _warn(warnings)


def renew(
    folder: Folder,
    *,
    address_name: Names = None,
    days: Annotated[int, typer.Option(min=1, max=825, help="How long the new certificate is valid.")] = 365,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make a new key for the server too.")] = False,
    if_due: Annotated[
        bool, typer.Option("--if-due", help="Only if it ends within 30 days; for a timer of the system.")
    ] = False,
) -> None:
    """Replace the server's certificate by one of the same CA; partners change nothing. Then restart the SuperLink."""
    from server import founding  # noqa: PLC0415

    now = datetime.now(UTC)
    if if_due and not founding.renewal_is_due(folder, now):
        typer.echo("The server's certificate is not due yet; nothing was changed.")
    else:
        made = founding.renew_certificate(folder, now=now, names=address_name or (), days=days, new_key=new_key)
        typer.echo(f"The server's certificate was replaced; the new one ends on {made.not_valid_after_utc.date()}.")
    _warn(founding.expiry_warnings(folder, now))


def gateway(
    folder: Folder,
    *,
    listen: Annotated[str, typer.Option(help="HOST:PORT for partners; a name of the certificate, or 0.0.0.0.")],
    superlink: Annotated[
        str, typer.Option(help="HOST:PORT of the SuperLink, on this machine.")
    ] = f"{LOOPBACK}:{SUPERLINK_PORT}",
    health_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the gateway's own health page, on 127.0.0.1.")
    ] = GATEWAY_HEALTH_PORT,
) -> None:
    """Write nginx's configuration for FOLDER/gateway: partners' nodes reach the Fleet calls and nothing else."""
    from server.gateway import nginx_command, plan_gateway, write_gateway  # noqa: PLC0415

    planned = plan_gateway(folder, listen=listen, superlink=superlink, health_port=health_port)
    path = write_gateway(planned)
    typer.echo(f"Written: {path}")
    typer.echo(f"Check it: {shlex.join([*nginx_command(path), '-t'])}")
    typer.echo(f"Start it: {shlex.join(nginx_command(path))}")


def superlink(
    folder: Folder, *, port: Port = SUPERLINK_PORT, health_port: HealthPort = None, only_print: Print = False
) -> None:
    """Become the SuperLink of this federation: on loopback, with TLS, node login and the executors' secret."""
    from server.superlink import superlink_command  # noqa: PLC0415

    _start(folder, superlink_command(folder.resolve(), port=port, health_port=health_port), only_print=only_print)


def superexec(
    folder: Folder, *, port: Port = SUPERLINK_PORT, health_port: HealthPort = None, only_print: Print = False
) -> None:
    """Become the coordinator's SuperExec, which runs the server's part of every run."""
    from server.superlink import superexec_command  # noqa: PLC0415

    _start(folder, superexec_command(folder.resolve(), port=port, health_port=health_port), only_print=only_print)


def _start(folder: Path, words: list[str], *, only_print: bool) -> None:
    from server.superlink import become, printed, require_reachable  # noqa: PLC0415

    require_reachable(folder)
    if only_print:
        typer.echo(printed(words))
    else:
        become(words)


def _say_fingerprint(file: FederationFile) -> None:
    typer.echo(f"Fingerprint of federation.json: {file.fingerprint}")
    typer.echo("Hand the file to the partners; tell them the fingerprint by another road, for example by telephone.")


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        typer.echo(f"Warning: {warning}.", err=True)
