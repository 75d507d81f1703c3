"""MicroLens 50K and 100K (Ni et al. 2023): micro-videos with titles, covers, sound and film.

The pairs are `user,item,timestamp`, in milliseconds. Titles come with or without a header row, and with commas that
nobody quoted. Covers, audios and videos are folders of files named by item. Likes and views are what users did and
are not read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from mmrec_model.data.columns import missing_of, numbers_of
from mmrec_model.data.importers.delimited import Layout, header_of, read_delimited
from mmrec_model.data.importers.source import Progress, Source, item_table, matching, with_column
from mmrec_model.data.tables import RaggedRecord, RawTable, readable

_PAIR = ("user", "item", "timestamp")
_NAMES = {"user": "user_id", "item": "item_id", "timestamp": "timestamp"}
_FIRST_MILLISECONDS = 1e11
"""As seconds this is the year 5138: what is above it is milliseconds."""
_PART_ROWS = 50_000


class MicroLens(Source):
    """Both sizes."""

    name: ClassVar[str] = "microlens"
    files: ClassVar[str] = "*_pairs.csv, with *titles*.csv for the texts and folders *covers*, *audios*, *videos*"
    media_folders: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("*cover*", "images"),
        "audio": ("*audio*",),
        "video": ("*video*",),
    }

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By `*_pairs.csv`."""
        return bool(matching(folder, "*_pairs.csv"))

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """Pairs and titles."""
        del silos
        pairs = matching(self.folder, "*_pairs.csv")
        if not pairs:
            raise self.lacks("*_pairs.csv")
        return [pairs[0], *self._titles()]

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per pair."""
        path = matching(self.folder, "*_pairs.csv")[0]
        bare = header_of(path)[:1] != [_PAIR[0]]
        for part in read_delimited(path, Layout(_NAMES, header=_PAIR if bare else None), progress):
            times_R = numbers_of(part, "timestamp")
            seconds_R = np.where(times_R > _FIRST_MILLISECONDS, times_R / 1000.0, times_R)
            seconds = pa.array(seconds_R, mask=missing_of(part, "timestamp"))
            yield with_column(part, "timestamp", seconds)

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per title."""
        for path in self._titles():
            with readable(path), path.open(encoding="utf-8-sig", newline="") as stream:
                records, line = csv.reader(stream), 1
                while part := list(islice(records, _PART_ROWS)):
                    yield _titled(path, part, line)
                    line += len(part)
                    progress(path.name, line - 1, line - 1)

    def _titles(self) -> list[Path]:
        return matching(self.folder, "*title*.csv")[:1]


def _titled(path: Path, records: Sequence[Sequence[str]], line: int) -> RawTable:
    """Items of records that begin in this line, with or without a header."""
    headed = line == 1 and bool(records[0]) and records[0][0].strip().lower() == "item"
    numbered = [(number, record) for number, record in enumerate(records[headed:], start=line + headed) if record]
    good = [(number, record) for number, record in numbered if len(record) > 1]
    ragged = tuple(RaggedRecord(number, 1, ",".join(record)) for number, record in numbered if len(record) == 1)
    blank = [""] * len(good)
    titles = [" ".join(",".join(record[1:]).split()) for _, record in good]
    ids = [record[0] for _, record in good]
    table = item_table({"item_id": ids, "title": titles, "text": blank, "category": blank})
    return RawTable(path, table, np.array([number for number, _ in good], dtype=np.int64), ragged, ())
