"""`mmrec site`: what a partner does with its site by hand. Light to import: no data and no model is opened here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mmrec_model.errors import UsageError

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder, with site.toml.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="A partner's site: its keys.")
    group.command("rotate-key")(rotate_key)
    group.command("server-key")(server_key)
    app.add_typer(group, name="site")


def rotate_key(
    site: SiteFolder,
    *,
    compromised: Annotated[
        bool,
        typer.Option("--compromised", help="Somebody else may have the key; the coordinator must confirm by hand."),
    ] = False,
) -> None:
    """Give the site a new key, in its ledger and on its disk; the former key is destroyed."""
    from client import rotation  # noqa: PLC0415

    key = rotation.rotate_key(site, reason="compromised" if compromised else "scheduled")
    typer.echo(key.hexadecimal)
    typer.echo(
        "Tell this key to the coordinator's operator: `mmrec coordinator enrol --replace`."
        if compromised
        else "The coordinator learns of it with the next message.",
        err=True,
    )


def server_key(
    site: SiteFolder,
    key: Annotated[str, typer.Argument(help="The coordinator's new public key, 64 hexadecimal digits.")],
    signed: Annotated[
        Path | None, typer.Option(help="File with both signatures, from `mmrec coordinator sign-key`.")
    ] = None,
) -> None:
    """Take over a new key of the coordinator: print what it must sign; with --signed, write it into the ledger."""
    from client import rotation  # noqa: PLC0415
    from mmrec_model.privacy.keys import PublicKey  # noqa: PLC0415

    new_key = PublicKey(key)
    if signed is None:
        typer.echo(json.dumps(rotation.server_key_place(site, new_key).to_json()))
        return
    try:
        signatures = json.loads(signed.read_bytes())
        old, new = signatures["old_signature"], signatures["new_signature"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(
            f"{signed} cannot be read: {type(error).__name__}", remedy="Give the coordinator's answer as it is"
        ) from error
    rotation.accept_server_key(site, new_key, None if old is None else str(old), str(new))
    typer.echo(f"Requests must be signed by {new_key.key_id} from now on.")
