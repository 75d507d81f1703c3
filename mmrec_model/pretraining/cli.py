"""`mmrec pretrain`: train an encoder on the items of a catalogue, at no privacy cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

if TYPE_CHECKING:
    from mmrec_model.pretraining.loop import History
    from mmrec_model.pretraining.settings import PretrainingSettings

Task = Literal["mlm", "nsp", "mlm+nsp", "align", "masked-feature"]
_TEXT = ("mlm", "nsp", "mlm+nsp")
_ONLY_FOR = {
    "max_tokens": (_TEXT, "--max-tokens"),
    "temperature": (("align",), "--temperature"),
    "train_encoder": (("align",), "--train-encoder"),
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pretrain")(pretrain)


def pretrain(  # noqa: PLR0917 - one argument per option
    data: Annotated[Path, typer.Argument(help="Folder in partner format; only its items and their media are read.")],
    task: Annotated[Task, typer.Option(help="What is learned.")],
    out: Annotated[Path, typer.Option(help="Folder for the encoder; must not exist.")],
    base: Annotated[
        list[str] | None,
        typer.Option(
            help="Encoder to start from: a folder, a hub id, 'embedded' or, for mlm and nsp, 'small' (the default). "
            "For align and masked-feature MODALITY=SOURCE, once per modality; by default all, embedded."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Most passes over the items.")] = 20,
    batch_size: Annotated[int, typer.Option(min=2, help="Items of a step.")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest rate; by default 1e-3, 5e-5 for a published text network.")
    ] = None,
    width: Annotated[int, typer.Option(help="Of the small text network, or of the shared space.")] = 128,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens kept of a text (mlm, nsp); by default 128.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the contrastive loss (align); by default 0.1.")] = None,
    train_encoder: Annotated[
        Literal["audio", "video"] | None, typer.Option(help="Train this recurrent encoder too (align).")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the items that never train, at most 0.5.")] = 0.1,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without progress that end the training.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order, masks and held-out items.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode media.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder, or an unfinished training.")
    ] = False,
) -> None:
    """Pretrain an encoder on a public catalogue; an interrupted training goes on where it stopped."""
    chosen = {"max_tokens": max_tokens, "temperature": temperature, "train_encoder": train_encoder}
    for name, (tasks, option) in _ONLY_FOR.items():
        if chosen[name] is not None and task not in tasks:
            raise typer.BadParameter(f"is for {', '.join(tasks)}, the task is {task}", param_hint=option)
    bases = _bases(task, base or [])
    if learning_rate is None:
        learning_rate = 5e-5 if task in _TEXT and bases.get("text", "small") != "small" else 1e-3
    given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    given |= {
        "task": task, "bases": bases, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "width": width, "held_out": held_out, "patience": patience, "seed": seed, "workers": workers, "device": device,
    }  # fmt: skip
    from mmrec_model.bars import Bars  # noqa: PLC0415
    from mmrec_model.config_reader import parse_config  # noqa: PLC0415
    from mmrec_model.pretraining.run import run_pretraining  # noqa: PLC0415
    from mmrec_model.pretraining.settings import PretrainingSettings  # noqa: PLC0415

    settings = parse_config(PretrainingSettings, given, source="the options")
    with Bars() as bars:
        history = run_pretraining(data, out, settings, overwrite=overwrite, progress=bars)
    _show(history, settings, out)


def _bases(task: str, given: list[str]) -> dict[str, str]:
    """Sources by modality; a source without a modality is the text task's."""
    from mmrec_model.config import Modality  # noqa: PLC0415 - pydantic

    bases = {}
    for one in given:
        modality, named, source = one.partition("=")
        if not named or modality not in get_args(Modality):
            modality, source = "text", one
            if task not in _TEXT:
                raise typer.BadParameter(f"{one!r} names no modality, such as image={one}", param_hint="--base")
        if task in _TEXT and modality != "text":
            raise typer.BadParameter(f"{task} reads texts alone, not {modality}", param_hint="--base")
        if modality in bases or not source:
            raise typer.BadParameter(f"{modality} needs one source, got {one!r}", param_hint="--base")
        bases[modality] = source
    return bases


def _show(history: History, settings: PretrainingSettings, out: Path) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=f"{settings.task}: {history.epochs} epochs, kept {history.best_epoch}")
    for heading in ("held out", "before", "after"):
        table.add_column(heading, justify="left" if heading == "held out" else "right")
    for name, value in sorted(history.best.items()):
        table.add_row(name, f"{history.before[name]:.4g}", f"{value:.4g}")
    console = Console()
    console.print(table)
    console.print(f"encoder: {out}", highlight=False, soft_wrap=True)
