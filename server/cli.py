"""`mmrec coordinator`: what an operator decides by hand (`server.operation`), as commands."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from mmrec_model.errors import UsageError
from server import serving_cli

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
        ("partners", partners),
        ("revoke", revoke),
        ("node-keys", node_keys),
    ):
        group.command(name)(command)
    for name, command in serving_cli.COMMANDS:
        group.command(name)(command)
    app.add_typer(group, name="coordinator")


def enrol(
    folder: Folder,
    partner: Annotated[str | None, typer.Argument(help="The partner's name, where there is no enrolment file.")] = None,
    key: Annotated[str | None, typer.Argument(help="Its public key then, 64 hexadecimal digits.")] = None,
    *,
    enrolment: Annotated[Path | None, typer.Option(help="The partner's enrolment.json, with all of it.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="Of the enrolment, as the partner's operator read it out.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Confirm a new key: the former one is lost or compromised.")
    ] = False,
) -> None:
    """Enrol a partner by its enrolment file; or by name and key, or confirm its new key."""
    from server import operation  # noqa: PLC0415

    if enrolment is not None:
        if fingerprint is None or partner is not None or replace:
            raise UsageError(
                "--enrolment is given without --fingerprint, or beside a name or --replace",
                remedy="Give it with the fingerprint that the partner's operator read out, and nothing else",
            )
        from mmrec_model.enrolment_file import read_enrolment  # noqa: PLC0415

        file = read_enrolment(enrolment, fingerprint=fingerprint)
        operation.enrol_from_file(folder, file, now=datetime.now(UTC))
        typer.echo(f"{file.partner} is enrolled with key {file.public_key.key_id} and {file.users} users.")
        typer.echo("Register its node key with the SuperLink: `mmrec coordinator node-keys`.")
        return
    from mmrec_model.privacy.keys import PublicKey  # noqa: PLC0415

    if partner is None or key is None or fingerprint is not None:
        raise UsageError(
            "neither --enrolment nor a name and a key are given, or a fingerprint beside a key",
            remedy="Give --enrolment FILE --fingerprint TEXT, or NAME KEY",
        )
    public_key = PublicKey(key)
    operation.enrol_partner(folder, partner, public_key, replace=replace)
    typer.echo(f"{partner} is enrolled with key {public_key.key_id}.")


def partners(
    folder: Folder, *, as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False
) -> None:
    """List the enrolled partners, revoked ones too."""
    from mmrec_model.privacy.keys import PublicKey  # noqa: PLC0415
    from server.partners import PARTNERS, read_list  # noqa: PLC0415

    listed = read_list(folder / PARTNERS)
    if as_json:
        typer.echo(json.dumps({name: one.model_dump() for name, one in listed.items()}, indent=1))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("partner", "users", "key", "node key", "enrolled", "standing")
    for name, one in listed.items():
        standing = "takes part" if one.revoked is None else f"revoked {one.revoked.at}: {one.revoked.reason}"
        node_key = "none" if one.node_key is None else f"…{one.node_key[-12:]}"
        users = "not stated" if one.users is None else str(one.users)
        table.add_row(
            escape(name), users, PublicKey(one.key).key_id, node_key, one.enrolled or "by key", escape(standing)
        )
    Console(soft_wrap=True).print(table)


def revoke(
    folder: Folder,
    partner: Partner,
    because: Annotated[str, typer.Option(help="Why, for the partner and the auditor.")],
) -> None:
    """End a partner's part, also in a run under way: what it has sent and was not used yet is discarded."""
    from server.partners import revoke as end_part  # noqa: PLC0415

    one = end_part(folder, partner, reason=because, now=datetime.now(UTC))
    typer.echo(f"{partner} is revoked; a run that is under way uses nothing of it any more.")
    if one.node_key is not None:
        typer.echo("Have its node refused by the SuperLink too: `flwr supernode unregister NODE_ID`.")


def node_keys(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Where the keys go; by default FOLDER/node-keys.")] = None,
) -> None:
    """Write the public node key of every partner that takes part, and show how to register it with the SuperLink."""
    from server import operation  # noqa: PLC0415

    target = (folder / "node-keys") if out is None else out
    paths = operation.write_node_keys(folder, target)
    for name, path in paths.items():
        typer.echo(shlex.join(["flwr", "supernode", "register", str(path), "SUPERLINK", "--name", name]))
    typer.echo(f"{len(paths)} node keys are in {target}; those of revoked partners are not.", err=True)


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
