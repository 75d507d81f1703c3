"""Every format, by name, and which of them a folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mmrec_model.data.importers.amazon import AmazonCore, AmazonReviews
from mmrec_model.data.importers.generic import Generic
from mmrec_model.data.importers.hm import HAndM
from mmrec_model.data.importers.mapping import ColumnMapping
from mmrec_model.data.importers.microlens import MicroLens
from mmrec_model.data.importers.mind import Mind
from mmrec_model.data.importers.movielens import MovieLens1M, MovieLens100K, MovieLensCsv
from mmrec_model.data.importers.source import Source
from mmrec_model.errors import DataError, UsageError

AUTO: Final = "auto"

SETS: Final[tuple[type[Source], ...]] = (
    MovieLens100K,
    MovieLens1M,
    MovieLensCsv,
    AmazonReviews,
    AmazonCore,
    MicroLens,
    HAndM,
    Mind,
)
"""Formats that are recognised by their files."""

NAMES: Final = (AUTO, *(kind.name for kind in SETS), Generic.name)


def source_of(folder: Path, name: str, mapping: ColumnMapping | None) -> Source:
    """The set in `folder`.

    Args:
        folder: where it is unpacked.
        name: one of `NAMES`; `auto` looks at the files, or takes the generic format where there is a mapping.
        mapping: of the generic format.

    Raises:
        UsageError: the name is not known, or name and mapping do not fit together.
        DataError: it is no folder, or its files are those of no format or of several.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", remedy="Unpack the set and name its folder")
    if name not in NAMES:
        raise UsageError(f"--format {name} is not known", remedy=f"The formats are {', '.join(NAMES)}")
    if mapping is not None and name in {AUTO, Generic.name}:
        return Generic(folder, mapping)
    if mapping is not None:
        raise UsageError(f"--format {name} needs no mapping", remedy="Leave --map and --mapping out")
    if name == Generic.name:
        raise UsageError("--format generic needs a mapping", remedy="Give --map user=... --map item=... --map time=...")
    if name != AUTO:
        return next(kind for kind in SETS if kind.name == name)(folder)
    found = [kind for kind in SETS if kind.recognises(folder)]
    if len(found) == 1:
        return found[0](folder)
    if found:
        raise DataError(
            f"{folder} holds files of {' and of '.join(kind.name for kind in found)}",
            remedy="Choose one of them with --format",
        )
    known = "; ".join(f"{kind.name}: {kind.files}" for kind in SETS)
    raise DataError(f"{folder} holds the files of no known set", remedy=f"Known are {known}; for others give --map")
