"""`mmrec simulate`: a whole federation on this machine, from a folder of data to a page with figures."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import typer
from click.core import ParameterSource

from mmrec_model.config import HEADS, TrainingConfig
from mmrec_model.config_ladder import GATE_METRIC, EvaluationConfig
from mmrec_model.data.split_rules import SplitRule
from simulations import options

EMBEDDED = "embedded synthetic set"
NOT_IN_SCENARIOS = frozenset(
    {"fusion", "heads", "evaluate_every", "evaluate_final", "scope", "tower", "split", "pairs", "gate", "engine"}
    | {"activity_quantile"}
    | {"prepare", "finish", "cvr_loss", "ctr_scorer", "user_media", "impute", "quarantine"}
)

READ_WHEN_FINISHING = frozenset({"finish", "data", "out"})
"""Everything else was decided when the folder was prepared; `--data` still names the data in the report."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulate")(simulate)


def simulate(  # noqa: PLR0917 - one argument per option
    context: typer.Context,
    data: options.Data = None,
    out: options.Out = Path("runs/simulation"),
    epsilon: options.Epsilon = 8.0,
    delta: options.Delta = 1e-5,
    rounds: options.Rounds = 60,
    seed: options.Seed = 0,
    silo: options.Silo = None,
    partners: options.Partners = None,
    clipping: options.Clipping = "flat",
    fusion: options.Fusion = "attention",
    heads: options.Heads = "",
    cvr_loss: options.CvrLoss = "conditional",
    ctr_scorer: options.CtrScorer = "bilinear",
    user_media: options.UserMedia = None,
    impute: options.Impute = "off",
    quarantine: options.Quarantine = 0.0,
    loss: options.Loss = "sampled_softmax",
    evaluate_every: options.EvaluateEvery = 0,
    evaluate_final: options.EvaluateFinal = False,
    scope: options.Scope = "fusion",
    tower: options.Tower = "attention",
    split: options.Split = None,
    pairs: options.Pairs = True,
    gate: options.Gate = True,
    activity_quantile: options.ActivityQuantile = 0.0,
    engine: options.Engine = "loopback",
    scenario: options.Scenario = None,
    only: options.Only = None,
    seeds: options.Seeds = 1,
    rivals: options.Rivals = None,
    overwrite: options.Overwrite = False,
    prepare: options.Prepare = False,
    finish: options.Finish = False,
) -> None:
    """Train one recommender over several partners under user-level privacy, and report what it cost and gave."""
    _check(epsilon, delta, silo, partners, clipping)
    if not 0.0 <= activity_quantile < 1.0:
        raise typer.BadParameter(f"{activity_quantile} is not 0, or between 0 and 1", param_hint="--activity-quantile")
    weights = _weights(heads)
    rule = None if split is None else SplitRule.parse(split)
    given = {name for name in context.params if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    _check_scenario(given)
    _check_stages(given)
    training = TrainingConfig(rounds=rounds, loss=loss)
    if scenario is not None:
        from simulations.scenarios import command  # noqa: PLC0415
        from simulations.workspace import Recipe  # noqa: PLC0415

        base = Recipe(data or out, out.resolve(), epsilon, delta, seed, training, silo, partners, clipping=clipping)
        command.run(
            scenario,
            base,
            embedded=data is None,
            rounds=rounds if "rounds" in given else None,
            seeds=seeds,
            only=only or (),
            rivals=rivals,
            given=given,
            overwrite=overwrite,
            command=_command(data, out),
            data_name=_name(data),
        )
        return
    from mmrec_model.bars import Bars  # noqa: PLC0415
    from simulations import federation, screen, workspace  # noqa: PLC0415
    from simulations.embedded import embedded_data  # noqa: PLC0415

    with Bars() as bars:
        watch = federation.Stopwatch()
        if finish:
            prepared = federation.reopen(out.resolve())
            record = federation.finish(prepared, _command(data, out), _name(data), bars, watch)
        else:
            workspace.claim(out, overwrite=overwrite)
            with watch.stage("data"):
                source = data or embedded_data(out, seed, bars)
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
                model=workspace.model_with_heads(
                    source,
                    weights,
                    fusion,
                    tower,
                    cvr_loss=cvr_loss,
                    ctr_scorer=ctr_scorer,
                    user_media=tuple(dict.fromkeys(user_media or ())),
                ),
                evaluation=EvaluationConfig(every=evaluate_every, final=evaluate_final),
                scope=scope,
                split=rule,
                pairs=pairs,
                gate=GATE_METRIC if gate else None,
                activity_quantile=activity_quantile,
                transform=workspace.transform_with(impute, quarantine),
            )
            if rule is not None:
                bars.say(f"split by {rule}, whatever the data pins")
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


def _check_scenario(given: set[str]) -> None:
    """Refuse options that would do nothing."""
    unread = given & ({"only", "seeds", "rivals"} if "scenario" not in given else NOT_IN_SCENARIOS)
    if unread:
        reason = "a scenario sets or has none of it" if "scenario" in given else "is read with --scenario alone"
        raise typer.BadParameter(reason, param_hint=_names(unread))


def _check_stages(given: set[str]) -> None:
    """Refuse options of another stage of a job that is done in two: all but the folders when it is finished."""
    unread = given - READ_WHEN_FINISHING if "finish" in given else given & {"engine"} if "prepare" in given else set()
    if unread:
        stage = "--finish reads the plan of the folder" if "finish" in given else "--prepare trains nothing"
        raise typer.BadParameter(f"{stage}, so this would do nothing", param_hint=_names(unread))


def _names(parameters: set[str]) -> str:
    """Options as they are typed."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(parameters))


def _weights(heads: str) -> dict[str, float]:
    """`ctr,cvr=0.5` as weights by name."""
    weights: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in heads.split(","))):
        name, _, text = part.partition("=")
        try:
            weight = float(text) if text else 1.0
        except ValueError:
            weight = math.nan
        if name not in HEADS or name in weights or not 0.0 < weight < math.inf:
            raise typer.BadParameter(
                f"{part!r} is not one of {', '.join(HEADS)}, each once, with a weight above 0 as in ctr=0.5",
                param_hint="--heads",
            )
        weights[name] = weight
    return weights


def _name(data: Path | None) -> str:
    return data.resolve().name if data else EMBEDDED


def _command(data: Path | None, out: Path) -> str:
    """The command line as it was typed, with folders by their last name: a report must not name a machine's paths."""
    import sys  # noqa: PLC0415

    places = {str(data): f"DATA/{_name(data)}" if data else "", str(out): "OUT"}
    return shlex.join(["mmrec", *(places.get(word, word) for word in sys.argv[1:])])
