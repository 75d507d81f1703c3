"""`mmrec data`: a public set becomes a partner folder, and a folder is described. Nothing leaves the machine."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmrec_model.errors import UsageError

if TYPE_CHECKING:
    from mmrec_model.data.importers.importing import Imported
    from mmrec_model.data.importers.mapping import ColumnMapping

FOR_THE_PARTNER = "For the partner alone: these figures come from private data and have no privacy guarantee."


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Partner folders: import a public set, describe a folder.")
    group.command("import")(import_)
    group.command("describe")(describe)
    app.add_typer(group, name="data")


def import_(  # noqa: PLR0917 - one argument per option
    source: Annotated[Path, typer.Argument(help="Folder of the unpacked set.")],
    out: Annotated[Path, typer.Option(help="Folder to make, in partner format.")],
    name: Annotated[
        str, typer.Option("--format", help="Format of the set (docs/data.md); auto looks at its files.")
    ] = ("auto"),
    pairs: Annotated[
        list[str] | None, typer.Option("--map", help="KEY=COLUMN of your own tables, such as user=customer.")
    ] = None,
    mapping: Annotated[Path | None, typer.Option(help="The same as a TOML file.")] = None,
    min_rating: Annotated[float | None, typer.Option(help="Rating from which a row is a positive; all by default.")] = (
        None
    ),
    below: Annotated[
        Literal["drop", "impression"], typer.Option(help="Lower rated rows: left out, or shown but not clicked.")
    ] = "drop",
    k_core: Annotated[int, typer.Option(min=0, help="Keep users and items with so many of each other; 0: all.")] = 0,
    max_users: Annotated[int | None, typer.Option(min=1, help="Draw so many users at most.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of that draw, public; 0 by default.")] = None,
    since: Annotated[str | None, typer.Option(help="Earliest time: ISO-8601 (UTC) or Unix seconds.")] = None,
    silo: Annotated[
        list[str] | None, typer.Option(help="Column of natural partners, repeatable; none for no users table.")
    ] = None,
    media: Annotated[Literal["link", "copy", "none"], typer.Option(help="Hard links to media, copies, or neither.")] = (
        "link"
    ),
    images: Annotated[Path | None, typer.Option(help="Pictures named by item id, instead of the set's folder.")] = None,
    audios: Annotated[Path | None, typer.Option(help="The same for sound.")] = None,
    videos: Annotated[Path | None, typer.Option(help="The same for film.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Further texts by item id: CSV, TSV or JSON lines.")] = None,
    items: Annotated[Literal["met", "all"], typer.Option(help="Items that kept rows name, or all of the set.")] = "met",
    malformed_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of unusable rows above which the set is refused.")
    ] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an import made there.")] = False,
) -> None:
    """Turn an unpacked public set into a partner folder."""
    _refuse_unread(min_rating, below, max_users, seed)
    from mmrec_model.bars import Bars  # noqa: PLC0415
    from mmrec_model.data.importers.importing import ImportOptions, import_set  # noqa: PLC0415
    from mmrec_model.data.importers.registry import source_of  # noqa: PLC0415
    from mmrec_model.data.importers.selection import Selection  # noqa: PLC0415

    folders = {"image": images, "audio": audios, "video": videos}
    options = ImportOptions(
        Selection(_moment(since), min_rating, below, k_core, max_users, seed or 0),
        silos=tuple(silo or ()),
        media=media,
        folders={medium: folder for medium, folder in folders.items() if folder is not None},
        texts=texts,
        items=items,
        malformed_share=malformed_share,
        seed_given=seed is not None,
        overwrite=overwrite,
    )
    opened = source_of(source, name, _mapping(pairs or [], mapping))
    with Bars() as bars:
        imported = import_set(opened, out, options, bars)
    _say(imported, out)


def describe(
    folder: Annotated[Path, typer.Argument(help="Folder in partner format.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say on one screen what a partner folder holds. For the partner alone, not to be shared."""
    from mmrec_model.data.description import describe_folder  # noqa: PLC0415
    from mmrec_model.data.description_screen import show_description  # noqa: PLC0415

    figures = describe_folder(folder)
    if as_json:
        typer.echo(json.dumps({"notice": FOR_THE_PARTNER, **figures}, indent=1))
    else:
        show_description(figures, folder.resolve().name, FOR_THE_PARTNER)


def _refuse_unread(min_rating: float | None, below: str, max_users: int | None, seed: int | None) -> None:
    """Refuse options that would do nothing."""
    if below != "drop" and min_rating is None:
        raise UsageError(f"--below {below} says what becomes of low ratings", remedy="Give --min-rating beside it")
    if seed is not None and max_users is None:
        raise UsageError(f"--seed {seed} is that of the draw of users", remedy="Give --max-users beside it")


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise UsageError(
                f"--since {text} is no time", remedy="Write it as 2019-05-01 or as Unix seconds"
            ) from error
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise UsageError(f"--since {text} is no time", remedy="Write it as 2019-05-01 or as Unix seconds")
    return seconds


def _mapping(pairs: list[str], path: Path | None) -> ColumnMapping | None:
    from mmrec_model.data.importers.mapping import mapping_of, read_mapping  # noqa: PLC0415

    if pairs and path is not None:
        raise UsageError("--map and --mapping are both given", remedy="Leave one of the two out")
    if path is not None:
        return read_mapping(path)
    return mapping_of(pairs) if pairs else None


def _say(imported: Imported, out: Path) -> None:
    record = imported.record
    rows, items = record["rows"], record["items"]
    typer.echo(f"{record['format']}: {rows['read']:,} rows read, {rows['kept']:,} kept")
    for reason, count in rows["lost"].items():
        typer.echo(f"  lost, {reason}: {count:,}")
    typer.echo(f"{record['users']:,} users, {items['kept']:,} items, {items['undescribed']:,} of them undescribed")
    for medium, counts in record["media"].items():
        typer.echo(f"{medium}: {counts['files']:,} files, {counts['missing']:,} missing")
    for notice in imported.found.notices:
        typer.echo(f"notice: {notice}")
    typer.echo(f"Ready: {out}. Look at it with `mmrec data describe {out}`.")
