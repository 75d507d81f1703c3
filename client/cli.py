"""`mmrec site`, what a partner does with its site by hand, and `mmrec self-test`. Light to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client import operation_cli
from client.founding_cli import register_founding
from client.node_cli import join
from mmrec_model.errors import PrivacyError, UsageError

if TYPE_CHECKING:
    from client.examination import Examination

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder, with site.toml.")]


def register_self_test(app: typer.Typer) -> None:
    """Add `mmrec self-test`."""
    app.command("self-test")(self_test)


def register(app: typer.Typer) -> None:
    """Add the group `mmrec site`."""
    group = typer.Typer(no_args_is_help=True, help="A partner's site: founding, approvals, budget, bounds, keys.")
    register_founding(group)
    group.command("rotate-key")(rotate_key)
    group.command("server-key")(server_key)
    group.command("activity")(activity)
    group.command("home")(home)
    group.command("join")(join)
    for name, command in operation_cli.COMMANDS:
        group.command(name)(command)
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


def activity(
    site: SiteFolder,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Show whom the bounds of the last releases cut, by activity of the users; private, for this site alone."""
    from client.activity import GROUPS, PRIVATE, latest, table  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415

    found = latest(Site.open(site).noted())
    if as_json:
        typer.echo(json.dumps({"note": PRIVATE, "groups": GROUPS, "releases": found}, indent=1))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    header, *rows = table(found)
    shown = Table(*header)
    for row in rows:
        shown.add_row(*row)
    console = Console(soft_wrap=True)
    console.print(shown if found else "No release of this site has a bound that could cut a user yet.")
    console.print(PRIVATE)


def home(
    site: SiteFolder,
    model: Annotated[Path, typer.Option(help="The exported model, the folder `model` of a run.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Make the partner's own terms beside an exported model, from its own users; they stay in the folder `home`."""
    from client.home import make_home  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415

    opened = Site.open(site)
    weighed = make_home(opened, model)
    terms, figures = weighed.terms, weighed.validation
    if as_json:
        base = "content" if terms.content_base else "exported"
        weights = {"pairs": terms.pairs_weight, "prior": terms.prior_weight, "base": base}
        typer.echo(json.dumps({"folder": str(opened.home), "weights": weights, "validation": dict(figures)}))
        return
    typer.echo(f"{opened.home}: own pairs count {terms.pairs_weight:.3g}, own popularity {terms.prior_weight:.3g}, "
               f"beside {'free content' if terms.content_base else 'the exported model'}.")  # fmt: skip
    if figures:
        typer.echo(f"ndcg@10 on your users' validation items: {figures['home']:.4f} with your own terms, "
                   f"{figures['exported']:.4f} without.")  # fmt: skip
    typer.echo("These terms are exact figures of your users. They are private: do not share them.", err=True)


def self_test(*, as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Try out the installed training step: what one user can move, and whether known mistakes would be caught."""
    from client.examination import examine_package  # noqa: PLC0415

    result = examine_package()
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=1))
    else:
        _show(result)
    if not result.passed:
        raise PrivacyError(
            "the installed package fails its self-test", remedy="Install a release that passes; release nothing with it"
        )


def _show(result: Examination) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("step", "must", "sensitivity", "limit", "verdict")
    for finding in (*result.families, *result.findings):
        must, verdict = "be caught" if finding.violates else "hold", "holds" if finding.holds else "VIOLATED"
        outcome = verdict if finding.expected else f"{verdict}: NOT AS EXPECTED"
        table.add_row(finding.name, must, f"{finding.measured:.4f}", f"{finding.limit:g}", outcome)
    console = Console(soft_wrap=True)
    console.print(table)
    for name, package in result.left_out.items():
        console.print(f"not tried, because {package} is not installed: {name}")
    attestation = result.attestation
    console.print(f"random numbers: {attestation.rng}; training step of the model: {attestation.neighbour_replay}")
    console.print(f"code: {attestation.code_digest}", highlight=False)
