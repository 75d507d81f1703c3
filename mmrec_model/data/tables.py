"""Read one file of a partner folder into a table of its known columns, or say what is wrong with it.

Whatever the bytes are, the outcome is a `RawTable` or a `DataError` that names the file and the remedy. CSV is
comma-separated UTF-8 with a header row and RFC 4180 quotes; every CSV value is read as text. Records of a CSV file
with the wrong number of values are left out and counted. Row numbers start at 1 for the first row after the header;
blank lines of a CSV file are not counted.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmrec_model.data.schema import SUFFIXES, FileSchema, Limits
from mmrec_model.errors import DataError

_BLOCK_BYTES = 1 << 24
_SHOWN_COLUMNS = 20
_SHOWN_CHARS = 80


@dataclass(frozen=True)
class RaggedRecord:
    """A CSV record that does not have the header's number of values; `lines` is what it spans in the file."""

    row: int
    lines: int
    text: str


@dataclass(frozen=True)
class RawTable:
    """The known columns of one file, unchecked.

    Attributes:
        path: the file.
        table: R rows; columns are those of the schema that the file has.
        rows_R: number of each row in the file, from 1.
        ragged: records that could not be read as a row.
        ignored: names of columns that are not of the format.
    """

    path: Path
    table: pa.Table
    rows_R: NDArray[np.int64]
    ragged: tuple[RaggedRecord, ...]
    ignored: tuple[str, ...]

    @property
    def name(self) -> str:
        """File name, as messages call it."""
        return self.path.name

    def has(self, column: str) -> bool:
        """Tell whether the file has this optional column."""
        return column in self.table.column_names


def find_file(folder: Path, schema: FileSchema) -> Path | None:
    """The one file of `folder` that carries `schema`, or None.

    Raises:
        DataError: the folder does not exist, or the parquet and the CSV form lie side by side.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", remedy="Name the folder that holds the interactions and items")
    found = [path for suffix in SUFFIXES if (path := folder / f"{schema.stem}{suffix}").exists()]
    if len(found) > 1:
        raise DataError(
            f"{folder} holds both {found[0].name} and {found[1].name}, and 1 is the limit",
            remedy="Remove the one that is out of date",
        )
    return found[0] if found else None


def read_table(folder: Path, schema: FileSchema, limits: Limits) -> RawTable:
    """Read the file of `schema`.

    Raises:
        DataError: missing, both forms present, empty, not UTF-8, unreadable, too large, or without a required column.
    """
    path = find_file(folder, schema)
    if path is None:
        names = " or ".join(f"{schema.stem}{suffix}" for suffix in SUFFIXES)
        raise DataError(f"{folder} holds no {names}", remedy=f"Add it with the columns {', '.join(schema.required)}")
    with readable(path):
        _check_size(path, limits)
        raw = _read_parquet(path, schema, limits) if path.suffix == ".parquet" else _read_csv(path, schema, limits)
    if not len(raw.rows_R) and not raw.ragged:
        raise DataError(f"{path.name} has a header but 0 rows", remedy="Export it again; at least 1 row is needed")
    return raw


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a reader throws at damaged bytes into a `DataError`."""
    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        KeyError,
        OverflowError,
        MemoryError,
        EOFError,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{path.name} cannot be read: {reason}",
            remedy="The file is damaged, incomplete or in another encoding than its name says; export it again",
        ) from error


def _check_size(path: Path, limits: Limits) -> None:
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path.name} is empty (0 bytes)", remedy="Export it again")
    if size > limits.file_bytes:
        raise _too_large(path, size, "bytes", limits.file_bytes)


def _too_large(path: Path, value: int, unit: str, limit: int) -> DataError:
    return DataError(
        f"{path.name} has {value:,} {unit}, above the limit of {limit:,}",
        remedy="Split the folder into several partners, keep fewer rows, or raise the limit",
    )


def _choose_columns(path: Path, schema: FileSchema, names: list[str]) -> tuple[list[str], tuple[str, ...]]:
    known = [name for name in names if schema.reads(name)]
    repeated = sorted({name for name in known if known.count(name) > 1})
    if repeated:
        raise DataError(f"{path.name} has the column {repeated[0]!r} twice", remedy="Keep one of the two")
    missing = [name for name in schema.required if name not in known]
    if missing:
        found = ", ".join(repr(name[:40]) for name in names[:_SHOWN_COLUMNS])
        raise DataError(
            f"{path.name} lacks the required column {missing[0]!r}; it has {found}",
            remedy=f"Name the columns {', '.join(schema.required)}; a CSV file is separated by commas",
        )
    return known, tuple(name for name in names if not schema.reads(name))


def _read_parquet(path: Path, schema: FileSchema, limits: Limits) -> RawTable:
    with pq.ParquetFile(path, page_checksum_verification=True) as source:
        metadata = source.metadata
        if metadata.num_rows > limits.rows:
            raise _too_large(path, metadata.num_rows, "rows", limits.rows)
        unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
        if unpacked > limits.file_bytes:
            raise _too_large(path, unpacked, "bytes once decompressed", limits.file_bytes)
        known, ignored = _choose_columns(path, schema, list(source.schema_arrow.names))
        table = source.read(columns=known).select(known)
    table.validate(full=True)
    return RawTable(path, table, np.arange(1, table.num_rows + 1, dtype=np.int64), (), ignored)


def _read_csv(path: Path, schema: FileSchema, limits: Limits) -> RawTable:
    _check_utf8(path)
    ragged: list[RaggedRecord] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        ragged.append(RaggedRecord(int(row.number) - 1, row.text.count("\n") + 1, row.text[:_SHOWN_CHARS]))
        return "skip"

    reading = pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)
    lenient = pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _row: "skip")
    with pa_csv.open_csv(path, reading, lenient) as header:
        known, ignored = _choose_columns(path, schema, list(header.schema.names))
    parsing = pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
    as_text = pa_csv.ConvertOptions(
        include_columns=known, column_types=dict.fromkeys(known, pa.large_string()), strings_can_be_null=False
    )
    batches, count = [], 0
    with pa_csv.open_csv(path, reading, parsing, as_text) as source:
        for batch in source:
            count += batch.num_rows
            if count > limits.rows:
                raise _too_large(path, count, "rows or more", limits.rows)
            batches.append(batch)
        table = pa.Table.from_batches(batches, source.schema)
    numbers_R = np.delete(np.arange(1, count + len(ragged) + 1, dtype=np.int64), [bad.row - 1 for bad in ragged])
    return RawTable(path, table, numbers_R, tuple(ragged), ignored)


def _check_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as stream:
        while chunk := stream.read(_BLOCK_BYTES):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, line + error.object[: error.start].count(b"\n"), error) from error
            line += chunk.count(b"\n")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, line, error) from error


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{path.name} is not UTF-8: byte 0x{error.object[error.start]:02x} in line {line}",
        remedy="Save it as UTF-8, for instance with `iconv -f WINDOWS-1252 -t UTF-8`",
    )
