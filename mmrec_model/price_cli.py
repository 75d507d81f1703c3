"""`mmrec price`: what releases cost, without data, model or torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmrec_model.errors import UsageError

if TYPE_CHECKING:
    from mmrec_model.privacy.events import PrivacyEvent, SampledGaussian
    from mmrec_model.privacy.price_table import Price, Stage

CALIBRATION_DELTA = 1e-5


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("price")(price)


def price(  # noqa: PLR0917 - one argument per option
    rate: Annotated[float | None, typer.Option(help="Probability with which a user joins a step.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier of a step.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Private steps of the whole run.")] = None,
    release: Annotated[
        list[float] | None, typer.Option(help="Noise multiplier of one more Gaussian release; can be repeated.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Find the least noise of the steps with which all costs at most this.")
    ] = None,
    delta: Annotated[
        list[float] | None, typer.Option(help="Failure probability; can be repeated. Default: 1e-4 to 1e-8.")
    ] = None,
    users_in: Annotated[int, typer.Option(min=1, help="Also for users whose data is at so many partners.")] = 1,
    ledger: Annotated[Path | None, typer.Option(help="Price what this ledger says was spent.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Epsilon of releases by two independent accountants, for both neighbouring relations."""
    from mmrec_model.privacy import price_table  # noqa: PLC0415
    from mmrec_model.privacy.accounting import REPORT_DELTAS  # noqa: PLC0415
    from mmrec_model.privacy.events import GaussianRelease, merge, to_record  # noqa: PLC0415

    training = None
    if ledger is not None:
        if any(value is not None for value in (rate, noise, steps, epsilon)) or release:
            raise UsageError("--ledger stands beside a plan", remedy="Give a ledger or the numbers of a plan")
        events = _spent(ledger)
    else:
        events = [GaussianRelease(sigma) for sigma in release or []]
        training = _training(events, rate, noise, steps, epsilon, (delta or [CALIBRATION_DELTA])[0])
        events += [training] if training else []
    prices = price_table.price_table(events, tuple(delta or REPORT_DELTAS), users_in=users_in)
    others = [event for event in events if event is not training]
    stages = price_table.price_by_steps(others, training, (delta or [CALIBRATION_DELTA])[0]) if training else []
    if as_json:
        records = [to_record(event) for event in merge(events)]
        typer.echo(json.dumps(price_table.as_json(records, prices, stages), indent=1))
    else:
        _show(merge(events), prices, stages)
    price_table.require_agreement(prices, stages)


def _training(  # noqa: PLR0917 - the options
    releases: list[PrivacyEvent],
    rate: float | None,
    noise: float | None,
    steps: int | None,
    epsilon: float | None,
    delta: float,
) -> SampledGaussian | None:
    from mmrec_model.privacy.calibration import calibrate  # noqa: PLC0415
    from mmrec_model.privacy.events import SampledGaussian  # noqa: PLC0415

    if rate is None and steps is None and noise is None and epsilon is None and releases:
        return None
    if rate is None or steps is None or (noise is None) == (epsilon is None):
        raise UsageError(
            f"--rate {rate}, --steps {steps}, --noise {noise} and --epsilon {epsilon} make no plan",
            remedy="Give --rate and --steps with either --noise or --epsilon, or --release alone, or --ledger",
        )
    if noise is None and epsilon is not None:
        noise = calibrate(epsilon, delta, lambda sigma: (*releases, SampledGaussian(rate, sigma, steps)))
    return SampledGaussian(rate, noise or 0.0, steps)


def _spent(path: Path) -> list[PrivacyEvent]:
    """What a ledger says was spent, verified under the key that its own first record names."""
    from mmrec_model.privacy.chain import stated_key  # noqa: PLC0415
    from mmrec_model.privacy.events import from_record  # noqa: PLC0415
    from mmrec_model.privacy.files import file_faults  # noqa: PLC0415
    from mmrec_model.privacy.ledger import read_ledger  # noqa: PLC0415

    with file_faults(path), path.open("rb") as stream:
        key = stated_key(stream.readline())
    records = read_ledger(path, key)
    return [from_record(charge) for record in records if (charge := record.charge) is not None]


def _show(events: tuple[PrivacyEvent, ...], prices: list[Price], stages: list[Stage]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console(soft_wrap=True)
    for event in events:
        console.print(str(event), highlight=False)
    table = Table("partners", "relation", "delta", "epsilon", "replayed", "Rényi", "mu-GDP")
    for item in prices:
        mu = "-" if item.mu_gdp is None else f"{item.mu_gdp:.4f}"
        figures = [f"{value:.4f}" for value in (item.epsilon, item.replayed, item.renyi)]
        table.add_row(str(item.users_in), item.relation, f"{item.delta:g}", *figures, mu)
    console.print(table)
    if stages:
        by_steps = Table("steps", "delta", "epsilon", "replayed")
        for stage in stages:
            by_steps.add_row(str(stage.steps), f"{stage.delta:g}", f"{stage.epsilon:.4f}", f"{stage.replayed:.4f}")
        console.print(by_steps)
