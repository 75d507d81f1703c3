"""What a format must say of itself: its files, its rows, its items, and what it knows of users.

Everything is read in parts, so that no file has to fit into memory; ids stay text, so that leading zeros survive.
Nothing that users wrote or did becomes part of an item: reviews, tags and counts of views are not read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, TypeAlias

import pyarrow as pa

from mmrec_model.data.tables import RawTable
from mmrec_model.errors import DataError

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a stage, the rows done and an estimate of all rows."""

LABEL = "label"
"""Column of rows that says something of the user, such as the shop's channel; a user's commonest one is a silo."""

CATEGORY_SILO = "category"
"""Silo that every format has whose items have a category: the commonest category of the user's positives."""


class Source(ABC):
    """A data set in a folder.

    Attributes:
        name: what `--format` calls it.
        files: which files the format needs, for messages and the page.
        silos: silo columns that it can give, beside `category`.
        default_silo: the one that is taken where nothing else is asked for, or None.
        label_silo: the one that is the commonest `label` of a user's rows, or None.
        media_folders: for a medium, patterns of folders whose files are named by item id.
        named_media: media whose paths, relative to the folder, are a column of the items.
        text_files: patterns of files with further text by item id.
        folder: where the set lies.
    """

    name: ClassVar[str]
    files: ClassVar[str]
    silos: tuple[str, ...] = ()
    default_silo: str | None = None
    label_silo: ClassVar[str | None] = None
    media_folders: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    named_media: tuple[str, ...] = ()
    text_files: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @abstractmethod
    def recognises(cls, folder: Path) -> bool:
        """Tell whether the folder looks like this format; other files of it may still be missing."""

    @abstractmethod
    def tables(self, silos: Sequence[str]) -> list[Path]:
        """The files that will be read, in order.

        Args:
            silos: silo columns that are asked for; they may need a further file.

        Raises:
            DataError: one is missing.
        """

    @abstractmethod
    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """Interactions in parts with the columns `user_id`, `item_id`, `timestamp`, and maybe more of the format's.

        Raises:
            DataError: a file cannot be read or lacks a column.
        """

    @abstractmethod
    def items(self, progress: Progress) -> Iterator[RawTable]:
        """Items in parts as text columns `item_id`, `title`, `text`, `category`, and maybe paths of media.

        Raises:
            DataError: a file cannot be read or lacks a column.
        """

    def users(self, silos: Sequence[str], progress: Progress) -> Iterator[RawTable]:
        """Users in parts: `user_id` and one text column for each of `silos` that a file of users gives."""
        del silos, progress
        return iter(())

    @property
    def settings(self) -> dict[str, object]:
        """What the format was told beside the folder, for `import.json`."""
        return {}

    def media_folder(self, medium: str) -> Path | None:
        """The set's own folder of this medium, whose files are named by item id."""
        found = (path for pattern in self.media_folders.get(medium, ()) for path in matching(self.folder, pattern))
        return next((path for path in found if path.is_dir()), None)

    def text_file(self) -> Path | None:
        """The set's own file of further texts."""
        found = (path for pattern in self.text_files for path in matching(self.folder, pattern))
        return next((path for path in found if path.is_file()), None)

    def needed(self, *names: str) -> list[Path]:
        """These files of the folder.

        Raises:
            DataError: one is missing.
        """
        for name in names:
            if not (self.folder / name).is_file():
                raise self.lacks(name)
        return [self.folder / name for name in names]

    def lacks(self, name: str) -> DataError:
        """The error for a missing file."""
        return DataError(
            f"{self.folder} holds no {name}", remedy=f"The format {self.name} needs {self.files}; unpack them there"
        )


def matching(folder: Path, pattern: str) -> list[Path]:
    """Entries of the folder whose names match a lower-case pattern, in order of name; capitals do not matter."""
    return sorted(path for path in folder.iterdir() if fnmatchcase(path.name.lower(), pattern))


def item_table(columns: Mapping[str, Sequence[str | None]]) -> pa.Table:
    """A part of the items: text columns, "" where a value is missing."""
    return pa.table(
        {name: pa.array([value or "" for value in values], pa.large_string()) for name, values in columns.items()}
    )


def with_table(part: RawTable, table: pa.Table) -> RawTable:
    """The same part with other columns, one row for each of its rows."""
    return replace(part, table=table)


def with_column(part: RawTable, name: str, column: pa.Array) -> RawTable:
    """The same part with the column replaced."""
    return with_table(part, part.table.set_column(part.table.column_names.index(name), name, column))


def sentences(*parts: str | None) -> str:
    """The parts that say something, white space made single, each ended by a full stop."""
    told = (" ".join((part or "").split()) for part in parts)
    return " ".join(part if part[-1] in ".!?…" else f"{part}." for part in told if part)
