"""Pictures, sound and film of a set: found by item id, linked or copied into the partner folder, never led outside.

A folder of media is searched once, with its subfolders; a file belongs to the item whose id is its name without
suffix. A link that leads out of the folder is not followed.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmrec_model.data.media import resolve_inside
from mmrec_model.errors import DataError

MediaMode = Literal["link", "copy", "none"]

SUFFIXES = {
    "image": (".jpg", ".jpeg", ".png", ".webp"),
    "audio": (".mp3", ".wav", ".flac", ".ogg", ".m4a"),
    "video": (".mp4", ".webm", ".mkv", ".avi"),
}
"""Of the files that count as a medium; of two files of one item the first in order of path counts."""


@dataclass
class MediaFiles:
    """One medium of a set.

    Attributes:
        medium: "image", "audio" or "video".
        root: folder that holds the files.
        paths: item id -> path below `root`; None where the item table names its own paths.
        placed: files put into the partner folder.
        placed_bytes: their bytes.
        missing: paths that the item table names and that are no file inside `root`.
    """

    medium: str
    root: Path
    paths: dict[str, str] | None = None
    placed: int = 0
    placed_bytes: int = 0
    missing: int = 0
    _known: set[str] = field(default_factory=set)

    def place(self, item_id: str, named: str, out: Path, mode: MediaMode) -> str:
        """Put the item's file into `out`; returns its path there, or "" where there is none.

        Raises:
            DataError: the file cannot be linked or copied.
        """
        relative = named if self.paths is None else self.paths.get(item_id, "")
        if not relative.strip():
            return ""
        found = resolve_inside(self.root.resolve(), relative)
        if not isinstance(found, Path):
            self.missing += 1
            return ""
        below = found.relative_to(self.root.resolve()).as_posix()
        target = f"{self.medium}/{below}"
        if target not in self._known:
            _put(found, out / target, mode)
            self._known.add(target)
            self.placed += 1
            self.placed_bytes += found.stat().st_size
        return target

    def counts(self) -> dict[str, int]:
        """Figures without names."""
        return {"files": self.placed, "bytes": self.placed_bytes, "missing": self.missing}


def index_media(medium: str, root: Path) -> MediaFiles:
    """Search a folder for files of the medium.

    Raises:
        DataError: it is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", remedy=f"Name the folder that holds the {medium} files")
    paths: dict[str, str] = {}
    for place, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a Path per file would be slow for 100,000
            if suffix.lower() in SUFFIXES[medium]:
                paths.setdefault(stem, os.path.relpath(os.path.join(place, name), root))  # noqa: PTH118
    return MediaFiles(medium, root, paths)


def _put(source: Path, target: Path, mode: MediaMode) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if mode == "copy":
        with source.open("rb") as reading, target.open("wb") as writing:
            shutil.copyfileobj(reading, writing, 1 << 20)
            writing.flush()
            os.fsync(writing.fileno())
        return
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
        raise DataError(
            f"{source} cannot be linked as {target}: {os.strerror(error.errno)}",
            remedy="Choose --out on the same file system as the set, or give --media copy or --media none",
        ) from error
