"""`mmrec coordinator`: what an operator decides by hand (`server.operation`), as commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec_model.errors import UsageError

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder, WORKSPACE/coordinator.")]
Partner = Annotated[str, typer.Argument(help="The partner's name.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Keys, partners and forks of a coordinator.")
    for name, command in (
        ("enrol", enrol),
        ("explain-fork", explain_fork),
        ("new-key", new_key),
        ("sign-key", sign_key),
        ("use-key", use_key),
        ("sign-features", sign_features),
    ):
        group.command(name)(command)
    app.add_typer(group, name="coordinator")


def enrol(
    folder: Folder,
    partner: Partner,
    key: Annotated[str, typer.Argument(help="The partner's public key, 64 hexadecimal digits.")],
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Confirm a new key: the former one is lost or compromised.")
    ] = False,
) -> None:
    """Enrol a partner, or confirm its new key."""
    from mmrec_model.privacy.keys import PublicKey  # noqa: PLC0415
    from server import operation  # noqa: PLC0415

    public_key = PublicKey(key)
    operation.enrol_partner(folder, partner, public_key, replace=replace)
    typer.echo(f"{partner} is enrolled with key {public_key.key_id}.")


def explain_fork(
    folder: Folder,
    partner: Partner,
    keep: Annotated[Literal["first", "second"], typer.Option(help="The head of the proof that goes on.")],
    because: Annotated[str, typer.Option(help="What happened, for the auditor.")],
) -> None:
    """End the block of a partner that showed two histories."""
    from server import operation  # noqa: PLC0415

    proof = operation.explain_fork(folder, partner, keep=keep, because=because)
    typer.echo(f"{partner} {proof.finding}; the {keep} head goes on, the proof stays in forks/.")


def new_key(folder: Folder) -> None:
    """Make the coordinator's next key and print its public half."""
    from server import operation  # noqa: PLC0415

    typer.echo(operation.begin_rotation(folder).hexadecimal)


def sign_key(
    folder: Folder,
    place: Annotated[Path, typer.Argument(help="What the partner's `mmrec site server-key` printed.")],
) -> None:
    """Sign the place in one partner's ledger where the new key takes over; print both signatures."""
    from mmrec_model.privacy.rotation import Place  # noqa: PLC0415
    from server import operation  # noqa: PLC0415

    try:
        value = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{place} cannot be read: {error}", remedy="Give the file that the partner sent") from error
    typer.echo(json.dumps(operation.sign_rotation(folder, Place.from_json(value))))


def use_key(folder: Folder) -> None:
    """Let the next key sign requests from now on; partners that have not taken it over will refuse them."""
    from server import operation  # noqa: PLC0415

    typer.echo(f"The coordinator signs with {operation.end_rotation(folder).hexadecimal}.")


def sign_features(
    folder: Folder,
    bundle: Annotated[Path, typer.Argument(help="A feature bundle; its partners copy `manifest.sig` from it.")],
) -> None:
    """Sign a feature bundle with the key in force; needed again once a new key is."""
    from mmrec_model.features.folder import open_bundle  # noqa: PLC0415
    from mmrec_model.features.signature import sign_bundle  # noqa: PLC0415
    from server.sites import coordinator_key  # noqa: PLC0415

    key = coordinator_key(folder)
    sign_bundle(bundle, key)
    typer.echo(f"Bundle {open_bundle(bundle).digest[:12]} is signed with key {key.public.key_id}.")
