"""What a partner's operator does before and while taking part, as commands of `mmrec site`. Light to import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mmrec_model.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from mmrec_model.config import RunConfig

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder, with site.toml.")]
PlanFile = Annotated[Path, typer.Argument(help="The run's plan as the coordinator sent it, plan.json.")]
Consent = Annotated[bool, typer.Option("--yes", help="Agree without being asked.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
NODE_PORT: Final = 9094
"""Where a SuperNode of Flower 1.41 listens on its own machine unless told otherwise."""


class PreflightFailed(ConfigError):
    """At least one check of the site failed."""


def check(
    site: SiteFolder,
    port: Annotated[
        list[int] | None, typer.Option(help=f"Local port that must be free; can be repeated. Default: {NODE_PORT}.")
    ] = None,
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Connect to nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find out whether the site can take part: data, ledger, keys, disk, code, and the way to the coordinator."""
    from client import operation_screen  # noqa: PLC0415
    from client.network_checks import NetworkChecks  # noqa: PLC0415
    from client.preflight import Surroundings, passed, run_checks  # noqa: PLC0415
    from client.site_checks import SiteChecks  # noqa: PLC0415

    surroundings = Surroundings()
    own = SiteChecks(site, surroundings)
    around = NetworkChecks(own, surroundings, port or [NODE_PORT], offline=offline)
    results = run_checks((*own.all(), *around.all()))
    if as_json:
        done: dict[str, object] = {"passed": passed(results), "checks": [result.to_json() for result in results]}
        typer.echo(json.dumps(done, indent=1))
    else:
        operation_screen.show_checks(results)
    if not passed(results):
        names = ", ".join(result.name for result in results if result.finding.level == "failed")
        raise PreflightFailed(f"failed: {names}", remedy="Do what the list says, and check again")


def approve(site: SiteFolder, plan: PlanFile, *, yes: Consent = False) -> None:
    """Show what a run asks, and approve it: for this code, this data, this policy and this budget."""
    from client import approval, operation_screen  # noqa: PLC0415
    from client.proposal import propose  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415

    opened, config = Site.open(site), _read_plan(plan)
    proposal = propose(opened, config)
    operation_screen.show_proposal(proposal)
    _consent("Approve this run?", yes=yes)
    decision = approval.approve(opened, config, proposal.bound)
    typer.echo(f"Run '{config.run_id}' is approved with key {decision.key_id}, from the next message on.")


def withdraw(site: SiteFolder, run: Annotated[str, typer.Argument(help="The run's id.")]) -> None:
    """Take an approval back: the run is refused from the next message on."""
    from client import approval  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415

    approval.withdraw(Site.open(site), run)
    typer.echo(f"Run '{run}' is refused from the next message on. What was sent stays sent.")


def dry_run(
    site: SiteFolder,
    plan: PlanFile,
    round_number: Annotated[int, typer.Option("--round", min=0, help="Round of the plan; 0 is before training.")] = 0,
    release: Annotated[
        str | None,
        typer.Option(
            help="activity, popularity, pairs, train, evaluate or compare; by default popularity, then train."
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="The coordinator's snapshot of the round before, rounds/NNNNN.safetensors.")
    ] = None,
    *,
    no_charge: Annotated[
        bool, typer.Option("--no-charge", help="With noise that is thrown away; the digest is of no later message.")
    ] = False,
    yes: Consent = False,
    as_json: AsJson = False,
) -> None:
    """Make a reply on the real data and send nothing; it costs what the reply costs, once, and is kept to be sent."""
    from client import dry_run as rehearsals  # noqa: PLC0415
    from client import operation_screen  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415

    opened, config = Site.open(site), _read_plan(plan)
    arrays = {} if state is None else rehearsals.read_state(state)
    name = release or ("train" if round_number else "popularity")
    if no_charge:
        rehearsal = rehearsals.rehearse_free(opened, config, round_number, name, arrays)
    else:
        _consent("This spends the release's budget now, also if the run never comes. Go on?", yes=yes)
        rehearsal = rehearsals.rehearse(opened, config, round_number, name, arrays)
    if as_json:
        typer.echo(json.dumps(rehearsal.to_json(), indent=1))
    else:
        operation_screen.show_rehearsal(rehearsal)


def status(site: SiteFolder, *, as_json: AsJson = False) -> None:
    """Show the last work, the approvals, the replies that wait and the coordinator's receipts."""
    from client import operation_screen  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415
    from client.standing import standing_of  # noqa: PLC0415

    standing = standing_of(Site.open(site))
    if as_json:
        typer.echo(json.dumps(standing.to_json(), indent=1))
    else:
        operation_screen.show_standing(standing)


def budget(site: SiteFolder, *, as_json: AsJson = False) -> None:
    """Show what was spent and what is left, for both neighbouring relations, in all and by run."""
    from client import operation_screen  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415
    from client.standing import budget_of  # noqa: PLC0415

    standing = budget_of(Site.open(site))
    if as_json:
        typer.echo(json.dumps(standing.to_json(), indent=1))
    else:
        operation_screen.show_budget(standing)


def leave(
    site: SiteFolder,
    *,
    destroy_keys: Annotated[
        bool, typer.Option("--destroy-keys", help="Destroy the signing key: the site can never sign again.")
    ] = False,
    yes: Consent = False,
) -> None:
    """Leave the federation: refuse every run, and write a signed statement of what the models still contain."""
    from client import leaving  # noqa: PLC0415
    from client.site import Site  # noqa: PLC0415

    opened = Site.open(site)
    _consent(
        "Every run is refused from now on" + (" and the key is destroyed" if destroy_keys else "") + ". Go on?", yes=yes
    )
    statement = leaving.leave(opened, destroy=destroy_keys)
    typer.echo(f"Send {statement} to the coordinator. The ledger is kept; what was sent stays in the models.")


COMMANDS: Final[tuple[tuple[str, Callable[..., None]], ...]] = (
    ("check", check),
    ("approve", approve),
    ("withdraw", withdraw),
    ("dry-run", dry_run),
    ("status", status),
    ("budget", budget),
    ("leave", leave),
)
"""Name and function of each."""


def _read_plan(path: Path) -> RunConfig:
    from mmrec_model.config import RunConfig  # noqa: PLC0415
    from mmrec_model.config_reader import parse_config  # noqa: PLC0415

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="Give the coordinator's plan.json") from error
    return parse_config(RunConfig, text, source=path.name)


def _consent(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, abort=True)
