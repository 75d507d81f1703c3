"""Any CSV or Parquet tables, with a mapping of their columns.

Times are seconds, milliseconds or ISO-8601 text; a Parquet date or timestamp needs no unit. Events are the four words
of the partner folder. Media are paths relative to the folder, or files named by item id.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmrec_model.data.columns import filled_text, numbers_of, parsed_texts, text_values
from mmrec_model.data.importers.delimited import Layout, read_delimited
from mmrec_model.data.importers.mapping import ColumnMapping, InteractionsMap, ItemsMap, UsersMap
from mmrec_model.data.importers.source import Progress, Source, item_table, matching, sentences, with_column, with_table
from mmrec_model.data.schema import MEDIA
from mmrec_model.data.tables import RawTable, readable
from mmrec_model.errors import DataError

_PART_ROWS = 1 << 17
_PATTERNS = ("*.csv", "*.csv.gz", "*.tsv", "*.parquet")


class Generic(Source):
    """A person's own tables."""

    name: ClassVar[str] = "generic"
    files: ClassVar[str] = "a CSV or Parquet file of interactions, with --map or --mapping"
    media_folders: ClassVar[Mapping[str, tuple[str, ...]]] = {medium: (f"{medium}s", medium) for medium in MEDIA}

    def __init__(self, folder: Path, mapping: ColumnMapping) -> None:
        super().__init__(folder)
        self._mapping = mapping
        self.silos = () if mapping.users is None else mapping.users.silo
        self.default_silo = self.silos[0] if self.silos else None
        items = mapping.items
        self.named_media = tuple(medium for medium in MEDIA if items is not None and getattr(items, medium))

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """Never: what columns mean cannot be guessed."""
        del folder
        return False

    @property
    def settings(self) -> dict[str, object]:
        """The mapping."""
        return {"mapping": self._mapping.model_dump(mode="json", exclude_defaults=True)}

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """The files that the mapping names."""
        named = [table.file for table in (self._mapping.items, self._mapping.users if silos else None) if table]
        return [self._interactions(), *self.needed(*named)]

    def media_folder(self, medium: str) -> Path | None:
        """None where the items name their files."""
        return None if medium in self.named_media else super().media_folder(medium)

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per record."""
        table = self._mapping.interactions
        columns = {table.user: "user_id", table.item: "item_id", table.time: "timestamp"}
        columns |= {name: to for name, to in ((table.rating, "rating"), (table.event, "event")) if name}
        for part in _read(self._interactions(), columns, table, progress):
            yield _with_seconds(part, table.time_unit)

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per record."""
        table = self._mapping.items
        if table is None:
            return
        named = {name: column for name in ("title", "category", *MEDIA) if (column := getattr(table, name))}
        wanted = dict.fromkeys([table.item, *named.values(), *table.text])
        for part in _read(self.folder / table.file, {name: name for name in wanted}, table, progress):
            cells = {name: filled_text(part, name).to_pylist() for name in wanted}
            blank = [""] * part.table.num_rows
            texts = [sentences(*values) for values in zip(*(cells[name] for name in table.text), strict=True)]
            columns = {"item_id": cells[table.item], "title": blank, "text": texts or blank, "category": blank}
            columns |= {name: cells[column] for name, column in named.items()}
            yield with_table(part, item_table(columns))

    def users(self, silos: Sequence[str], progress: Progress) -> Iterator[RawTable]:
        """One row per record."""
        table = self._mapping.users
        if table is None:
            return
        wanted = dict.fromkeys([table.user, *silos])
        for part in _read(self.folder / table.file, {name: name for name in wanted}, table, progress):
            columns = {"user_id": text_values(part, table.user)} | {name: filled_text(part, name) for name in silos}
            yield with_table(part, pa.table(columns))

    def _interactions(self) -> Path:
        """The file of interactions: the named one, or the one table that no other part of the mapping names."""
        named = self._mapping.interactions.file
        if named is not None:
            return self.needed(named)[0]
        taken = {table.file for table in (self._mapping.items, self._mapping.users) if table is not None}
        found = [path for pattern in _PATTERNS for path in matching(self.folder, pattern) if path.name not in taken]
        if len(found) != 1:
            raise DataError(
                f"{self.folder} holds {len(found)} tables that could be the interactions, and 1 is needed",
                remedy="Name it with `--map file=NAME`",
            )
        return found[0]


def _read(
    path: Path, columns: dict[str, str], table: InteractionsMap | ItemsMap | UsersMap, progress: Progress
) -> Iterator[RawTable]:
    """The columns under their new names, from CSV or Parquet."""
    if path.suffix != ".parquet":
        delimiter = "\t" if path.suffix == ".tsv" and table.delimiter == "," else table.delimiter
        layout = Layout(columns, delimiter=delimiter, encoding=table.encoding)
        yield from read_delimited(path, layout, progress)
        return
    with readable(path), pq.ParquetFile(path, page_checksum_verification=True) as source:
        missing = [name for name in columns if name not in source.schema_arrow.names]
        if missing:
            raise DataError(
                f"{path.name} lacks the column {missing[0]!r}; it has {', '.join(source.schema_arrow.names[:20])}",
                remedy="Correct the mapping",
            )
        total, done = source.metadata.num_rows, 0
        for batch in source.iter_batches(_PART_ROWS, columns=list(columns)):
            part = pa.Table.from_batches([batch]).select(list(columns)).rename_columns(list(columns.values()))
            numbers = np.arange(done + 1, done + part.num_rows + 1, dtype=np.int64)
            done += part.num_rows
            yield RawTable(path, part, numbers, (), ())
            progress(path.name, done, total)


def _with_seconds(part: RawTable, unit: str) -> RawTable:
    kind = part.table.schema.field("timestamp").type
    if unit == "s" or pa.types.is_temporal(kind):
        return part
    if unit == "ms":
        seconds_R = numbers_of(part, "timestamp") / 1000.0
    else:
        seconds_R = parsed_texts(text_values(part, "timestamp"), _seconds_of_iso)
    missing = part.table["timestamp"].is_null().combine_chunks()
    column = pc.if_else(missing, pa.scalar(None, pa.float64()), pa.array(seconds_R))
    return with_column(part, "timestamp", column)


def _seconds_of_iso(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
