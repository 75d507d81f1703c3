"""`mmrec site init` and `mmrec site features`: a site's founding (`client.joining`) and its bundle. Light to import."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrec_model.errors import UsageError

if TYPE_CHECKING:
    from client.site_features import SiteFeatures
    from mmrec_model.data.dataset import PartnerDataset

SiteFolder = Annotated[Path, typer.Argument(help="The site's folder.")]


def register_founding(group: typer.Typer) -> None:
    """Add the commands to the group `mmrec site`."""
    group.command("init")(init)
    group.command("features")(features)


def init(  # noqa: PLR0917 - one argument per option
    site: SiteFolder,
    federation: Annotated[Path, typer.Option(help="The coordinator's federation.json.")],
    data: Annotated[Path, typer.Option(help="The partner's own data, a folder in partner format.")],
    name: Annotated[str, typer.Option(help="The partner's name: letters, digits, dots, dashes; at most 64.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="Of federation.json, as the coordinator's operator read it out.")
    ] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="Folder with the federation's items; by default the one of the data.")
    ] = None,
    feature_bundle: Annotated[
        Path | None,
        typer.Option("--features", help="Its feature bundle; or later: `mmrec site features`."),
    ] = None,
    budget: Annotated[float, typer.Option(help="Epsilon of everything that this data set ever releases.")] = 4.0,
    delta: Annotated[float, typer.Option(help="Delta of the same; below one in the number of users.")] = 1e-5,
    minimum_cohort: Annotated[int, typer.Option(help="Partners that an aggregate must hold.")] = 2,
    trust_on_first_use: Annotated[
        bool, typer.Option("--trust-on-first-use", help="Believe federation.json unseen; kept in trust.json.")
    ] = False,
) -> None:
    """Make a site: check the federation file and the data, make keys, policy and ledger, write the enrolment."""
    from client import joining  # noqa: PLC0415
    from mmrec_model.installed_code import code_digest  # noqa: PLC0415

    now = datetime.now(UTC)
    file, trusted = joining.trust(federation, fingerprint, first_use=trust_on_first_use, now=now)
    policy = joining.founding_policy(file, epsilon=budget, delta=delta, cohort=minimum_cohort)
    application = joining.Application(name, data, catalogue or data, policy, feature_bundle)
    enrolment, dataset = joining.found_site(site, file, trusted, application, now=now)
    _say_data(dataset)
    if file.code_digest != code_digest():
        typer.echo(
            f"Warning: the coordinator was founded with code {file.code_digest[:12]}, here is {code_digest()[:12]}; "
            "the policy allows the one that is here.",
            err=True,
        )
    typer.echo(f"Site '{enrolment.partner}' of '{file.name}' is made; {enrolment.users} users, a public number.")
    typer.echo(f"Budget for the life of this data: epsilon {budget:g} at delta {delta:g}; it cannot be raised later.")
    typer.echo(f"Send {site / 'enrolment.json'} to the coordinator; tell its operator the fingerprint by another road:")
    typer.echo(f"Fingerprint of enrolment.json: {enrolment.fingerprint}")


def features(
    site: SiteFolder,
    bundle: Annotated[Path, typer.Option(help="The coordinator's bundle; with --build its manifest may be enough.")],
    *,
    build: Annotated[
        bool, typer.Option("--build", help="Build the bundle from the site's catalogue too, and compare.")
    ] = False,
    encoder: Annotated[
        list[str] | None, typer.Option(help="With --build: MEDIUM=SOURCE, where it is not the embedded encoder.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove another bundle that is installed.")] = False,
) -> None:
    """Install the federation's feature bundle, after comparing its digest and the coordinator's signature."""
    if encoder and not build:
        raise UsageError("--encoder is given without --build", remedy="Add --build, or leave --encoder out")
    from client.site_features import SiteFeatures  # noqa: PLC0415

    place = SiteFeatures(site)
    if build:
        with tempfile.TemporaryDirectory(prefix="mmrec-bundle-") as folder:
            source = _rebuilt(place, bundle, Path(folder), encoder or [])
            outcome = place.install(source, replace=replace)
    else:
        outcome = place.install(bundle, replace=replace)
    typer.echo(f"Bundle {place.federation.features_digest[:12]} {outcome.value}.")


def _rebuilt(place: SiteFeatures, bundle: Path, folder: Path, encoder: list[str]) -> Path:
    """Build the bundle here, say how it compares, and name the folder that is to be installed."""
    from mmrec_model.bars import Bars  # noqa: PLC0415
    from mmrec_model.features.rebuild import sources_of  # noqa: PLC0415
    from mmrec_model.features.store import vector_store  # noqa: PLC0415

    with Bars() as bars:
        rebuilt = place.rebuild(bundle, folder, sources=sources_of(encoder), store=vector_store(), progress=bars)
    if rebuilt.differences is None:
        typer.echo("The bundle built from this catalogue is bit for bit the federation's.")
    else:
        worst = max(rebuilt.differences.values())
        typer.echo(
            f"The bundle built here is not bit for bit the federation's; no number differs by more than {worst:.2g}. "
            "The coordinator's bytes are installed."
        )
    return rebuilt.folder


def _say_data(dataset: PartnerDataset) -> None:
    """What validation found; user ids and values stay on this screen."""
    rows = ", ".join(f"{count:,} {name}" for name, count in sorted(dataset.report.rows_read.items()))
    typer.echo(f"Data: {rows} read; {sum(dataset.report.quarantined.values()):,} rows or cells left out.")
    for code, count in sorted(dataset.report.quarantined.items()):
        typer.echo(f"  left out, {code}: {count:,}")
    for notice in dataset.report.notices:
        typer.echo(f"  notice: {notice}")
