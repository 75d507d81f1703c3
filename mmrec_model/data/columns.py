"""Columns of any type that exporters produce, as text, seconds or numbers.

Integer ids become their decimal text, also where a missing value made the exporter store them as floating point.
A time is Unix seconds, or ISO-8601 text, or a date or timestamp type; without a zone it is UTC.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec_model.data.tables import RawTable
from mmrec_model.errors import DataError

_EXACT_INTEGERS = 2.0**53
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_DAY = 86_400.0


def text_values(raw: RawTable, column: str) -> pa.Array:
    """The column as text, null where missing.

    Raises:
        DataError: the type is neither text nor a number, or bytes are not UTF-8.
    """
    values = _flat(raw, column)
    kind = values.type
    if pa.types.is_floating(kind):
        values = _integers_of(values)
    elif not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise _wrong_type(raw, column, kind, "text or whole numbers")
    try:
        return pc.cast(values, pa.large_string())
    except pa.ArrowInvalid as error:
        raise DataError(f"{raw.name}, column {column!r}: not UTF-8", remedy="Export it as UTF-8 text") from error


def filled_text(raw: RawTable, column: str) -> pa.Array:
    """The column as text, "" where missing or where the file has no such column."""
    if not raw.has(column):
        return pa.repeat(pa.scalar("", pa.large_string()), len(raw.rows_R))
    return pc.fill_null(text_values(raw, column), "")


def seconds_of(raw: RawTable, column: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Unix seconds [R], NaN where the value is no time, and which of them are missing [R].

    Raises:
        DataError: the type is neither a number, text, a date nor a timestamp.
    """
    values = _flat(raw, column)
    kind = values.type
    if pa.types.is_timestamp(kind):
        return _numbers(pc.cast(values, pa.int64())) / _UNITS[kind.unit], _nulls(values)
    if pa.types.is_date32(kind):
        return _numbers(pc.cast(values, pa.int32())) * _DAY, _nulls(values)
    if pa.types.is_date64(kind):
        return _numbers(pc.cast(values, pa.int64())) / _UNITS["ms"], _nulls(values)
    if _is_text(kind):
        text = text_values(raw, column)
        blank = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(text, "")), "")
        return parsed_texts(text, _seconds_of_text), _mask(blank)
    return numbers_of(raw, column), _nulls(values)


def numbers_of(raw: RawTable, column: str) -> NDArray[np.float64]:
    """The column as float64 [R]; NaN where missing or no number.

    Raises:
        DataError: the type is neither a number nor text.
    """
    values = _flat(raw, column)
    kind = values.type
    if _is_text(kind):
        return parsed_texts(text_values(raw, column), _number_of_text)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return _numbers(values)
    raise _wrong_type(raw, column, kind, "a number")


def missing_of(raw: RawTable, column: str) -> NDArray[np.bool_]:
    """Where the cell holds nothing: null, or text of white space alone; all True where there is no such column."""
    if not raw.has(column):
        return np.ones(len(raw.rows_R), dtype=np.bool_)
    values = _flat(raw, column)
    if not _is_text(values.type):
        return _nulls(values)
    return _mask(pc.equal(pc.utf8_trim_whitespace(filled_text(raw, column)), ""))


def _flat(raw: RawTable, column: str) -> pa.Array:
    values = raw.table.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)


def _is_text(kind: pa.DataType) -> bool:
    views = pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(plain or pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or views)


def _integers_of(values: pa.Array) -> pa.Array:
    numbers_R = _numbers(values)
    with np.errstate(invalid="ignore"):
        whole_R = (np.abs(numbers_R) < _EXACT_INTEGERS) & (np.floor(numbers_R) == numbers_R)
    return pa.array(np.where(whole_R, numbers_R, 0.0).astype(np.int64), mask=~whole_R)


def _numbers(values: pa.Array) -> NDArray[np.float64]:
    wide = pc.fill_null(pc.cast(values, pa.float64(), safe=False), math.nan)
    return np.asarray(wide.to_numpy(zero_copy_only=False), dtype=np.float64)


def _nulls(values: pa.Array) -> NDArray[np.bool_]:
    return _mask(pc.is_null(values))


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def parsed_texts(text: pa.Array, parse: Callable[[str], float]) -> NDArray[np.float64]:
    """Numbers of texts [R]: plain ones at once, otherwise by `parse`, which is called once per distinct text."""
    try:
        return _numbers(pc.cast(text, pa.float64()))
    except pa.ArrowInvalid:
        # At least one value is not a plain number: take the slow way for the column.
        encoded = pc.dictionary_encode(text)
        parsed = pa.array([parse(value) for value in encoded.dictionary.to_pylist()], pa.float64())
        return _numbers(parsed.take(encoded.indices))


def _number_of_text(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds_of_text(text: str) -> float:
    number = _number_of_text(text)
    if not math.isnan(number):
        return number
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _wrong_type(raw: RawTable, column: str, kind: pa.DataType, wanted: str) -> DataError:
    return DataError(
        f"{raw.name}, column {column!r} has the type {str(kind)[:80]}, and {wanted} is needed",
        remedy=f"Export {column!r} as {wanted}",
    )
