"""Paths of pictures, sound and film: only files inside the partner folder, and pictures that a decoder accepts.

A cell that names an absolute path or one that leaves the folder, also by way of a symbolic link, is dropped; so is
one whose file is missing. The item stays in the catalogue without that medium.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmrec_model.data.columns import filled_text
from mmrec_model.data.schema import DEFAULT_LIMITS, Limits
from mmrec_model.data.tables import RawTable
from mmrec_model.data.validation import Example, Quarantine

if TYPE_CHECKING:
    from mmrec_model.data.catalogue import Catalogue

_SHOWN_PICTURES = 3
_THUMBNAIL = (64, 64)

Refusal = Literal["outside_folder", "missing"]


def media_paths(raw: RawTable, column: str, quarantine: Quarantine) -> list[Path | None]:
    """Absolute resolved path of each of the R cells, None where blank or dropped; drops are counted."""
    root = raw.path.parent.resolve()
    paths: list[Path | None] = []
    dropped: dict[Refusal, list[int]] = {"outside_folder": [], "missing": []}
    for position, text in enumerate(filled_text(raw, column).to_pylist()):
        found = resolve_inside(root, text) if text.strip() else None
        if isinstance(found, str) and quarantine.kept_R[position]:
            dropped[found].append(position)
        paths.append(found if isinstance(found, Path) else None)
    for reason, positions in dropped.items():
        quarantine.drop_cells(f"{column}_{reason}", np.asarray(positions, dtype=np.int64), column)
    return paths


def resolve_inside(root: Path, text: str) -> Path | Refusal:
    """The file that `text` names inside the resolved folder `root`, or why it may not be opened."""
    absolute = PurePosixPath(text).is_absolute() or bool(PureWindowsPath(text).anchor)
    if absolute or "\0" in text:
        return "outside_folder"
    try:
        path = (root / text).resolve()
        if not path.is_relative_to(root):
            return "outside_folder"
        return path if path.is_file() else "missing"
    except (OSError, RuntimeError):  # a name too long, or symbolic links in a circle
        return "missing"


def check_pictures(catalogue: Catalogue, *, limits: Limits = DEFAULT_LIMITS) -> Catalogue:
    """Decode every picture once; the same catalogue without the unreadable ones, counted in its report.

    A truncated, damaged or oversized picture, or a file that is no picture, is unreadable. Never raises for a
    picture's content.
    """
    pictures = list(catalogue.media["image"])
    examples: list[Example] = []
    unreadable = 0
    for position, path in enumerate(pictures):
        problem = None if path is None else _picture_problem(path, limits.picture_pixels)
        if problem is None:
            continue
        unreadable += 1
        pictures[position] = None
        if len(examples) < _SHOWN_PICTURES:
            value = f"{path} of item {catalogue.item_ids[position]!r}: {problem}"
            examples.append(Example("items", None, "image", value, "image_unreadable"))
    if not unreadable:
        return catalogue
    counts = catalogue.report.quarantined
    key = "items/image_unreadable"
    report = replace(
        catalogue.report,
        quarantined={**counts, key: counts.get(key, 0) + unreadable},
        examples=(*catalogue.report.examples, *examples),
    )
    return replace(catalogue, media={**catalogue.media, "image": tuple(pictures)}, report=report)


def _picture_problem(path: Path, pixels: int) -> str | None:
    from PIL import Image  # noqa: PLC0415  (pictures are optional; tables alone need no decoder)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                if picture.width * picture.height > pixels:
                    return f"{picture.width} x {picture.height} pixels, above the limit of {pixels}"
                picture.verify()
            with Image.open(path) as picture:  # verify() closes the file and misses truncated JPEG data
                picture.draft("RGB", _THUMBNAIL)
                picture.load()
    except Exception as error:  # decoders of hostile files raise anything
        return f"{type(error).__name__}: {error}"[:80]
    return None
