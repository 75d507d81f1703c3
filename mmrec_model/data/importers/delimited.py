"""Delimited files in parts: any separator (also `::`), any encoding, plain or gzip, with or without a header.

Every value is read as text. A record with the wrong number of values is left out and reported with its row, which
counts from 1 for the first record after the header; blank lines do not count. Memory is that of a block of 16 MiB.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from mmrec_model.data.importers.source import Progress
from mmrec_model.data.tables import RaggedRecord, RawTable, readable
from mmrec_model.errors import DataError

_BLOCK_BYTES = 1 << 24
_SHOWN_CHARS = 80
_WIDE, _NARROW = b"::", b"\x1f"


@dataclass(frozen=True)
class Layout:
    """How a file is written, and which of its columns are wanted.

    Attributes:
        columns: name in the file -> name it gets.
        optional: names in the file that may be absent.
        header: names in the file where it has no header row, or None.
        delimiter: one character, or `::`.
        quoted: whether double quotes enclose values.
        encoding: of the text.
    """

    columns: Mapping[str, str]
    optional: frozenset[str] = field(default=frozenset())
    header: tuple[str, ...] | None = None
    delimiter: str = ","
    quoted: bool = True
    encoding: str = "utf-8"


def read_delimited(path: Path, layout: Layout, progress: Progress) -> Iterator[RawTable]:
    """The wanted columns, part by part.

    Raises:
        DataError: the file is empty, damaged, in another encoding, or lacks a wanted column.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty (0 bytes)", remedy="Download or unpack it again")
    wanted = _wanted(path, layout)
    ragged: list[RaggedRecord] = []
    before = 1 if layout.header is None else 0

    def skip(row: pa_csv.InvalidRow) -> str:
        ragged.append(RaggedRecord(int(row.number) - before, row.text.count("\n") + 1, row.text[:_SHOWN_CHARS]))
        return "skip"

    converting = pa_csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.large_string()), strings_can_be_null=False
    )
    names = [layout.columns[name] for name in wanted]
    start = 1
    with readable(path), path.open("rb") as raw:
        stream = _narrow(raw, path, layout)
        with pa_csv.open_csv(stream, _reading(layout), _parsing(layout, skip), converting) as reader:
            for batch in reader:
                rows_R = _numbers(start, batch.num_rows, ragged)
                end = int(rows_R[-1]) + 1 if len(rows_R) else start
                here = tuple(bad for bad in ragged if bad.row < end)
                ragged = [bad for bad in ragged if bad.row >= end]
                yield RawTable(path, pa.table(batch.columns, names), rows_R, here, ())
                start = end
                progress(path.name, start - 1, estimate(raw, path, start - 1))
        if ragged:
            nothing = pa.table({name: pa.array([], pa.large_string()) for name in names})
            yield RawTable(path, nothing, np.zeros(0, dtype=np.int64), tuple(ragged), ())


def header_of(path: Path, layout: Layout | None = None) -> list[str]:
    """Names in the header row, also of a gzip file; empty where the first line cannot be read as one.

    Raises:
        DataError: the file cannot be opened.
    """
    layout = layout or Layout({})
    with readable(path), path.open("rb") as raw:
        line = _narrow(raw, path, layout).readline().decode(layout.encoding, errors="replace").removeprefix("\ufeff")
    delimiter = _NARROW.decode() if layout.delimiter == _WIDE.decode() else layout.delimiter
    line = line.rstrip("\r\n")
    return next(csv.reader([line], delimiter=delimiter), []) if layout.quoted else line.split(delimiter)


def text_encoding(path: Path) -> str:
    """`utf-8` where the whole file is that, otherwise `latin-1`; for small files of sets that come in both."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    """The stream's bytes without gzip, where the file's name says so."""
    return cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw


def estimate(raw: BinaryIO, path: Path, rows: int) -> int:
    """An estimate of all rows of a file, from the bytes in which the first `rows` lie."""
    size = max(path.stat().st_size, 1)
    return max(rows, round(rows * size / min(max(raw.tell(), 1), size)))


def _narrow(raw: BinaryIO, path: Path, layout: Layout) -> BinaryIO:
    """Bytes that the reader takes: unpacked, with separators of one byte."""
    stream = unpacked(raw, path)
    return cast("BinaryIO", _Narrowed(stream)) if layout.delimiter == _WIDE.decode() else stream


class _Narrowed(io.RawIOBase):
    """A stream in which every `::` is one control character, because the reader takes separators of one byte."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> bytes:
        return self._stream.readline(-1 if size is None else size).replace(_WIDE, _NARROW)

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; a separator is never cut in two."""
        content = self._stream.read(size - 1 if size > 1 else size)
        if content.endswith(_WIDE[:1]):
            content += self._stream.read(1)
        return content.replace(_WIDE, _NARROW)


def _reading(layout: Layout) -> pa_csv.ReadOptions:
    names = None if layout.header is None else list(layout.header)
    return pa_csv.ReadOptions(
        use_threads=False,
        block_size=_BLOCK_BYTES,
        column_names=names,
        encoding=layout.encoding.replace("utf-8", "utf8"),
    )


def _parsing(layout: Layout, skip: object) -> pa_csv.ParseOptions:
    return pa_csv.ParseOptions(
        delimiter=_NARROW.decode() if layout.delimiter == _WIDE.decode() else layout.delimiter,
        quote_char='"' if layout.quoted else False,
        newlines_in_values=layout.quoted,
        invalid_row_handler=skip,
    )


def _wanted(path: Path, layout: Layout) -> list[str]:
    """Names in the file of the columns to read."""
    names = list(layout.header) if layout.header is not None else header_of(path, layout)
    missing = [name for name in layout.columns if name not in names and name not in layout.optional]
    if missing:
        found = ", ".join(repr(name[:40]) for name in names[:20])
        raise DataError(
            f"{path.name} lacks the column {missing[0]!r}; it has {found}",
            remedy="Check that the file is the published one, or import with `--map` and your own column names",
        )
    return [name for name in layout.columns if name in names]


def _numbers(start: int, count: int, ragged: list[RaggedRecord]) -> NDArray[np.int64]:
    """Row numbers of `count` good records from `start` on, between which the ragged ones lie."""
    candidates = np.arange(start, start + count + len(ragged), dtype=np.int64)
    return np.setdiff1d(candidates, [bad.row for bad in ragged], assume_unique=True)[:count]
