"""`mmrec features`: encode a catalogue into a bundle, and say what is in one. No interaction is read, epsilon 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmrec_model.errors import ConfigError, FeatureError, UsageError

if TYPE_CHECKING:
    from mmrec_model.config import EncoderConfig, TransformConfig

LEFT_OUT = "off"


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Feature bundles of a catalogue.")
    group.command("build")(build)
    group.command("report")(report)
    app.add_typer(group, name="features")


def build(  # noqa: PLR0917 - one argument per option
    data: Annotated[Path, typer.Argument(help="Folder in partner format; only its items and media are read.")],
    out: Annotated[Path, typer.Argument(help="Folder for the bundle.")],
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="MEDIUM=SOURCE for a medium, instead of the embedded encoder; MEDIUM=off leaves it out."),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Frames taken from a film; 8 by default."),
    ] = None,
    dims: Annotated[int, typer.Option(help="PCA dimensions kept.")] = 128,
    whiten: Annotated[bool, typer.Option(help="Let strong and weak axes count alike.")] = True,
    select: Annotated[
        Literal["none", "variance", "importance", "l1"], typer.Option(help="Raw dimensions that the PCA sees.")
    ] = "none",
    select_dims: Annotated[int | None, typer.Option(help="How many of them at most; 256 by default.")] = None,
    impute: Annotated[
        Literal["off", "vector", "present"], typer.Option(help="Estimate missing vectors (docs/features.md).")
    ] = "off",
    quality: Annotated[bool, typer.Option(help="Look for duplicates and disagreeing media.")] = True,
    near_duplicate: Annotated[float | None, typer.Option(help="Cosine of near duplicates; 0.98 by default.")] = None,
    quarantine: Annotated[
        float, typer.Option(help="Largest share of a medium to be made missing for disagreeing; 0: report alone.")
    ] = 0.0,
    store: Annotated[
        Path | None, typer.Option(help="Folder of raw vectors; by default $MMREC_CACHE or the user's cache.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in the folder.")] = False,
) -> None:
    """Encode a catalogue and write its bundle."""
    asked: dict[str, object] = {"dims": dims, "whiten": whiten, "impute": impute, "select": select, "quality": quality}
    asked |= {"quarantine": quarantine}
    optional = {"select_dims": select_dims, "near_duplicate": near_duplicate}
    transform = _transform(asked | {name: value for name, value in optional.items() if value is not None})
    encoders = _encoders(encoder or [], frames)
    _claim(out, overwrite=overwrite)
    from mmrec_model.bars import Bars  # noqa: PLC0415
    from mmrec_model.data.catalogue import open_catalogue  # noqa: PLC0415
    from mmrec_model.features.bundle import build_bundle  # noqa: PLC0415
    from mmrec_model.features.store import vector_store  # noqa: PLC0415

    catalogue = open_catalogue(data)
    if frames is not None and not any(catalogue.media["video"]):
        raise UsageError(f"--frames {frames}, but no item of {data} has a film", remedy="Leave --frames out")
    with Bars() as bars:
        built = build_bundle(
            catalogue, out, encoders=encoders, transform=transform, store=store or vector_store(), progress=bars
        )
    typer.echo(f"{len(built.item_ids)} items, {built.encoded} media encoded anew: bundle {built.digest}")


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the digest and the whole manifest as JSON.")] = False,
) -> None:
    """Say what a bundle holds, after verifying every file of it."""
    from mmrec_model.features.folder import open_bundle  # noqa: PLC0415
    from mmrec_model.features.summary import show_bundle  # noqa: PLC0415

    bundle = open_bundle(folder)
    if as_json:
        typer.echo(json.dumps({"digest": bundle.digest, "manifest": bundle.manifest}, indent=2, sort_keys=True))
    else:
        show_bundle(bundle)


def _transform(asked: dict[str, object]) -> TransformConfig:
    from mmrec_model.config import TransformConfig  # noqa: PLC0415
    from mmrec_model.config_reader import parse_config  # noqa: PLC0415

    try:
        return parse_config(TransformConfig, asked, source="options")
    except ConfigError as error:
        raise UsageError(error.problem, remedy="See `mmrec features build --help`") from error


def _encoders(asked: list[str], frames: int | None) -> tuple[EncoderConfig, ...]:
    """The embedded encoders, with those replaced or left out that `asked` names; that of films reads `frames`."""
    from mmrec_model.config import MODALITIES, EncoderConfig  # noqa: PLC0415

    named = dict(one.partition("=")[::2] for one in asked)
    unknown = [one for one in asked if one.partition("=")[0] not in MODALITIES or not one.partition("=")[2]]
    if unknown or len(named) < len(asked):
        raise UsageError(
            f"--encoder {' '.join(unknown or asked)} is not one MEDIUM=SOURCE for each medium",
            remedy=f"The media are {', '.join(MODALITIES)}; the sources are in docs/features.md",
        )
    sources = {modality: named.get(modality, "embedded") for modality in MODALITIES}
    if frames is not None and sources["video"] == LEFT_OUT:
        raise UsageError(f"--frames {frames} with --encoder video=off", remedy="Leave one of them out")
    found = (EncoderConfig(modality=name, source=source) for name, source in sources.items() if source != LEFT_OUT)
    return tuple(
        EncoderConfig(modality=one.modality, source=one.source, frames=frames)
        if frames is not None and one.modality == "video"
        else one
        for one in found
    )


def _claim(out: Path, *, overwrite: bool) -> None:
    from mmrec_model.features.folder import MANIFEST  # noqa: PLC0415

    if (out / MANIFEST).exists() and not overwrite:
        raise FeatureError(f"{out} holds a bundle already", remedy="Name another folder, or give --overwrite")
