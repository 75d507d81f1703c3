"""JSON lines in parts, plain or gzip: one object per line, of which the wanted fields are taken.

A line that is no JSON object, or holds another type in a wanted field, is left out and reported with its number. A
missing field is null, a whole number in a field of text is its decimal text, and other fields are not looked at.
Memory is that of a block of 8 MiB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from mmrec_model.data.importers.delimited import estimate, unpacked
from mmrec_model.data.importers.source import Progress
from mmrec_model.data.tables import RaggedRecord, RawTable, readable

_BLOCK_BYTES = 1 << 23
_SHOWN_CHARS = 80


def read_json_lines(path: Path, fields: pa.Schema, progress: Progress) -> Iterator[RawTable]:
    """The fields as a table, part by part; a row's number is that of its line.

    Args:
        path: `.jsonl` or `.jsonl.gz`.
        fields: text, whole numbers, numbers, and lists of text.
        progress: told the lines after every part.

    Raises:
        DataError: the file cannot be read.
    """
    line = 1
    with readable(path), path.open("rb") as raw:
        stream = unpacked(raw, path)
        while block := stream.read(_BLOCK_BYTES) + stream.readline():
            count = block.count(b"\n") + (not block.endswith(b"\n"))
            yield _fast(path, block, count, line, fields) or _careful(path, block, line, fields)
            line += count
            progress(path.name, line - 1, estimate(raw, path, line - 1))


def _fast(path: Path, block: bytes, count: int, line: int, fields: pa.Schema) -> RawTable | None:
    """The whole block at once, or None where a line of it needs a closer look."""
    parsing = pa_json.ParseOptions(explicit_schema=fields, unexpected_field_behavior="ignore")
    try:
        table = pa_json.read_json(
            pa.BufferReader(block), pa_json.ReadOptions(use_threads=False, block_size=len(block) + 1), parsing
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != count:
        return None
    return RawTable(path, table.select(fields.names), np.arange(line, line + count, dtype=np.int64), (), ())


def _careful(path: Path, block: bytes, line: int, fields: pa.Schema) -> RawTable:
    good: list[dict[str, object]] = []
    rows: list[int] = []
    ragged: list[RaggedRecord] = []
    for number, text in enumerate(block.removesuffix(b"\n").split(b"\n"), start=line):
        if not text.strip():
            continue
        record = _record(text, fields)
        if record is None:
            ragged.append(RaggedRecord(number, 1, text[:_SHOWN_CHARS].decode("utf-8", errors="replace")))
        else:
            good.append(record)
            rows.append(number)
    table = pa.Table.from_pylist(good, schema=fields)
    return RawTable(path, table, np.asarray(rows, dtype=np.int64), tuple(ragged), ())


def _record(text: bytes, fields: pa.Schema) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    record = {field.name: _as_text(value.get(field.name), field.type) for field in fields}
    return record if all(_fits(record[field.name], field.type) for field in fields) else None


def _as_text(value: object, kind: pa.DataType) -> object:
    """A whole number where text is wanted is an id that lost its quotes."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole and pa.types.is_large_string(kind) else value


def _fits(value: object, kind: pa.DataType) -> bool:
    if value is None:
        return True
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(entry, pa.large_string()) for entry in value)
    if isinstance(value, bool):
        return False
    if pa.types.is_floating(kind):
        return isinstance(value, int | float)
    if pa.types.is_integer(kind):
        return isinstance(value, int) and abs(value) < 2**63
    return isinstance(value, str) and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    """False for half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
