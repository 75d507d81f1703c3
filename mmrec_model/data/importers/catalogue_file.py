"""The items of an import: streamed from the set's files into `items.parquet`, with their texts and media.

An item is written once, under its first record. Items that users met but that no file describes are written last,
without text. Memory is that of the kept ids, of the further texts, and of one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmrec_model.data.importers.media_files import MediaFiles, MediaMode
from mmrec_model.data.importers.source import item_table, sentences
from mmrec_model.data.schema import DEFAULT_LIMITS, MEDIA, MISSING_IDS
from mmrec_model.data.tables import RawTable

COLUMNS = ("item_id", "title", "text", "category", *MEDIA)


@dataclass
class ItemCounts:
    """What became of the items.

    Attributes:
        read: records of the set's files.
        kept: items written.
        unused: records left out because no kept row names them.
        repeated: records of an item that had one already.
        bad_id: records without a usable id.
        undescribed: items written without a record.
        with_text: items with further text.
    """

    read: int = 0
    kept: int = 0
    unused: int = 0
    repeated: int = 0
    bad_id: int = 0
    undescribed: int = 0
    with_text: int = 0


@dataclass
class CatalogueFile:
    """Writes the items.

    Attributes:
        out: the partner folder in the making.
        met: ids of items that kept rows name.
        keep_all: whether other items are written too.
        texts: further texts by id.
        media: one entry for every medium of the set.
        mode: how files of media get into the folder.
        counts: filled by `write`.
        categories: category of every written item that has one, filled by `write`.
    """

    out: Path
    met: frozenset[str]
    keep_all: bool
    texts: Mapping[str, str]
    media: Mapping[str, MediaFiles]
    mode: MediaMode
    counts: ItemCounts = field(default_factory=ItemCounts)
    categories: dict[str, str] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)

    def write(self, parts: Iterable[RawTable]) -> None:
        """Write `items.parquet`; equal parts give equal bytes.

        Raises:
            DataError: a file of media cannot be linked or copied.
        """
        schema = pa.schema([(name, pa.large_string()) for name in COLUMNS])
        path = self.out / "items.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for part in parts:
                self._add(part.table, writer)
            rest = sorted(self.met - self._written)
            if rest:
                self.counts.undescribed = len(rest)
                blank = [""] * len(rest)
                self._add(item_table({"item_id": rest, "title": blank, "text": blank, "category": blank}), writer)
                self.counts.read -= len(rest)

    def _add(self, part: pa.Table, writer: pq.ParquetWriter) -> None:
        columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
        self.counts.read += part.num_rows
        for row in part.to_pylist():
            item = row["item_id"]
            if self._is_wanted(item):
                self._written.add(item)
                for name, value in self._cells(row).items():
                    columns[name].append(value)
        if columns["item_id"]:
            writer.write_table(item_table(columns).select(COLUMNS))
            self.counts.kept += len(columns["item_id"])

    def _is_wanted(self, item: str) -> bool:
        if item.strip().lower() in MISSING_IDS or len(item) > DEFAULT_LIMITS.id_chars:
            self.counts.bad_id += 1
        elif item in self._written:
            self.counts.repeated += 1
        elif not self.keep_all and item not in self.met:
            self.counts.unused += 1
        else:
            return True
        return False

    def _cells(self, row: Mapping[str, str]) -> dict[str, str]:
        item = row["item_id"]
        further = self.texts.get(item, "")
        self.counts.with_text += bool(further)
        if row["category"]:
            self.categories[item] = row["category"]
        cells = {name: row[name] for name in ("item_id", "title", "category")}
        cells["text"] = sentences(row["text"], further)
        for medium in MEDIA:
            files = self.media.get(medium)
            cells[medium] = "" if files is None else files.place(item, row.get(medium, ""), self.out, self.mode)
        return cells
