"""`mmrec simulate`: a whole federation on this machine, from a folder of data to a page with figures."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec_model.config import FusionName

EMBEDDED = "embedded synthetic set"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


def simulate(  # noqa: PLR0917 - one argument per option
    data: Annotated[
        Path | None, typer.Option(help="Folder in partner format; without it, the embedded set is made.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("runs/simulation"),
    epsilon: Annotated[float, typer.Option(help="Price of the whole run per user and partner; inf: no privacy.")] = 8.0,
    delta: Annotated[float, typer.Option(help="Failure probability of the guarantee.")] = 1e-5,
    rounds: Annotated[int, typer.Option(min=0, help="Federated rounds.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Of model, partition and simulated noise.")] = 0,
    silo: Annotated[
        str | None, typer.Option(help="Column that names a user's partner; by default the first silo_* column.")
    ] = None,
    partners: Annotated[int | None, typer.Option(min=1, help="Make this many equal partners instead.")] = None,
    clipping: Annotated[
        Literal["flat", "adaptive"],
        typer.Option(help="Bound of a user's gradient: fixed, or following the gradients' median by a priced count."),
    ] = "flat",
    fusion: Annotated[
        FusionName, typer.Option(help="How the modalities of an item are fused (docs/fusion.md).")
    ] = "attention",
    evaluate_every: Annotated[
        int, typer.Option(min=0, help="Release noised validation metrics after every n-th round, priced; 0: never.")
    ] = 0,
    evaluate_final: Annotated[
        bool, typer.Option("--evaluate-final", help="Release them once for the exported model.")
    ] = False,
    scope: Annotated[
        Literal["head", "fusion", "lora", "top", "full"],
        typer.Option(help="What is trained; lora, top and full train the text encoder too, which is slow."),
    ] = "fusion",
    tower: Annotated[
        Literal["attention", "sequence"], typer.Option(help="How a user's history is read: as a set, or in order.")
    ] = "attention",
    engine: Annotated[
        Literal["loopback", "flower"], typer.Option(help="In this process, or Flower's own simulation with Ray.")
    ] = "loopback",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Stop before training, for `flwr run`.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Assess and report a folder that was trained.")] = False,
) -> None:
    """Train one recommender over several partners under user-level privacy, and report what it cost and gave."""
    _check(epsilon, delta, silo, partners, clipping)
    from mmrec_model.config import EvaluationConfig, ModelConfig, TrainingConfig, parse_config  # noqa: PLC0415
    from simulations import federation, screen, workspace  # noqa: PLC0415
    from simulations.embedded import embedded_data  # noqa: PLC0415

    with screen.Bars() as bars:
        watch = federation.Stopwatch()
        if finish:
            prepared = federation.reopen(out.resolve())
            record = federation.finish(prepared, _command(data, out), _name(data), bars, watch)
        else:
            workspace.claim(out, overwrite=overwrite)
            with watch.stage("data"):
                source = data or embedded_data(out, seed, bars)
            training = TrainingConfig(rounds=rounds)
            recipe = workspace.Recipe(
                source,
                out.resolve(),
                epsilon,
                delta,
                seed,
                training,
                silo,
                partners,
                clipping=clipping,
                model=parse_config(ModelConfig, {"fusion": fusion, "tower": tower}, source="--fusion, --tower"),
                evaluation=EvaluationConfig(every=evaluate_every, final=evaluate_final),
                scope=scope,
            )
            prepared = federation.prepare(recipe, bars, watch)
            if prepare:
                bars.say(f"Ready: {out}. Train it with `flwr run`, then report with `mmrec simulate --finish`.")
                return
            federation.train(prepared, engine, bars, watch)
            record = federation.finish(prepared, _command(data, out), _name(data), bars, watch)
    screen.show_result(record, out)


def _check(epsilon: float, delta: float, silo: str | None, partners: int | None, clipping: str) -> None:
    if math.isnan(epsilon) or epsilon <= 0.0:
        raise typer.BadParameter(f"{epsilon} is not above 0", param_hint="--epsilon")
    if not 0.0 < delta < 1.0:
        raise typer.BadParameter(f"{delta} is not between 0 and 1", param_hint="--delta")
    if silo is not None and partners is not None:
        raise typer.BadParameter("give either a column or a number of partners", param_hint="--silo, --partners")
    if clipping == "adaptive" and math.isinf(epsilon):
        raise typer.BadParameter("adaptive clipping counts users at a price", param_hint="--clipping, --epsilon inf")


def _name(data: Path | None) -> str:
    return data.resolve().name if data else EMBEDDED


def _command(data: Path | None, out: Path) -> str:
    """The command line as it was typed, with folders by their last name: a report must not name a machine's paths."""
    import sys  # noqa: PLC0415

    places = {str(data): f"DATA/{_name(data)}" if data else "", str(out): "OUT"}
    return shlex.join(["mmrec", *(places.get(word, word) for word in sys.argv[1:])])
