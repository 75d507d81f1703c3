"""Quarantine: rows that cannot be used are left out, counted by (file, code), and shown by their first examples.

A row counts once, under the first rule it breaks. A file that loses more than `Limits.quarantined_share` of its rows
is refused, because a partner who exported the wrong column should hear it rather than train on the rest.

Reports name users' ids and values: they are for the partner's own screen and never leave the site.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec_model.data.schema import MISSING_IDS, Limits
from mmrec_model.data.tables import RawTable
from mmrec_model.errors import DataError

_EXAMPLES_PER_CODE = 3
_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Example:
    """One quarantined row or cell: where it is and what it holds.

    `row` counts from 1 after the header; it is None where the value itself names its place.
    """

    file: str
    row: int | None
    column: str
    value: str
    code: str


@dataclass(frozen=True)
class ValidationReport:
    """What validation found in files that can be used.

    Attributes:
        notices: things worth knowing that cost no row.
        quarantined: rows (for media: cells) left out, by "file/code", for instance "interactions/unknown_item".
        examples: the first few of each code.
        rows_read: rows of each file, by its name.
    """

    notices: tuple[str, ...] = ()
    quarantined: dict[str, int] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    rows_read: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def merged(reports: Iterable[ValidationReport]) -> ValidationReport:
        """One report of several; counts of the same code add up."""
        notices: list[str] = []
        quarantined: dict[str, int] = {}
        examples: list[Example] = []
        rows_read: dict[str, int] = {}
        for report in reports:
            notices += report.notices
            examples += report.examples
            rows_read |= report.rows_read
            for key, count in report.quarantined.items():
                quarantined[key] = quarantined.get(key, 0) + count
        return ValidationReport(tuple(notices), quarantined, tuple(examples), rows_read)

    def to_text(self) -> str:
        """The report as lines for a screen."""
        lines = [f"{name}: {count:,} rows read" for name, count in self.rows_read.items()]
        lines += [f"quarantined {key}: {count:,}" for key, count in self.quarantined.items()]
        for one in self.examples:
            place = one.file if one.row is None else f"{one.file} row {one.row}"
            lines.append(f"  {place}, {one.column} = {one.value} ({one.code})")
        lines += [f"notice: {notice}" for notice in self.notices]
        return "\n".join(lines)


class Quarantine:
    """Collects what is wrong with the rows of one file.

    Attributes:
        kept_R: rows that broke no rule so far.
    """

    def __init__(self, raw: RawTable) -> None:
        self._raw = raw
        self._stem = raw.path.stem
        self._counts: dict[str, int] = {}
        self._rows_lost = 0
        self._examples: list[Example] = []
        self._notices: list[str] = []
        self.kept_R = np.ones(len(raw.rows_R), dtype=np.bool_)
        if raw.ignored:
            names = ", ".join(repr(name[:40]) for name in raw.ignored[:20])
            self.notice(f"{raw.name}: columns that are not of the format are ignored: {names}")
        self._reject_ragged()

    def notice(self, text: str) -> None:
        """Add something worth knowing that costs no row."""
        self._notices.append(text)

    def reject(self, code: str, broken_R: NDArray[np.bool_], column: str) -> None:
        """Quarantine the rows of `broken_R` that were still kept; examples show their value of `column`."""
        positions = np.flatnonzero(broken_R & self.kept_R)
        self.kept_R[positions] = False
        self._rows_lost += len(positions)
        self._count(code, positions, column)

    def drop_cells(self, code: str, positions: NDArray[np.int64], column: str) -> None:
        """Count cells that are left out while their rows stay; `positions` index the rows of the file."""
        self._count(code, positions, column)

    def report(self, limits: Limits) -> ValidationReport:
        """Close the books.

        Raises:
            DataError: no row is left, or the share of quarantined rows is above the limit.
        """
        tally = self.tally()
        total = tally.rows_read[self._raw.name]
        share = self._rows_lost / total
        if share > limits.quarantined_share or not self.kept_R.any():
            raise self._too_many(share, total, limits)
        return tally

    def tally(self) -> ValidationReport:
        """What was found so far, without judging its share: for a file that is read in parts."""
        total = len(self.kept_R) + sum(bad.lines for bad in self._raw.ragged)
        return ValidationReport(
            tuple(self._notices), dict(self._counts), tuple(self._examples), {self._raw.name: total}
        )

    def _too_many(self, share: float, total: int, limits: Limits) -> DataError:
        worst = max(self._counts, key=lambda key: self._counts[key])
        first = next(one for one in self._examples if f"{self._stem}/{one.code}" == worst)
        return DataError(
            f"{self._raw.name}: {self._rows_lost:,} of {total:,} rows ({share:.0%}) cannot be used, above the limit of "
            f"{limits.quarantined_share:.0%}; most often {first.code}, first in row {first.row}, column "
            f"{first.column!r}, value {first.value}",
            remedy="Check how the column is exported; docs/partner-folder.md lists what each code means",
        )

    def _reject_ragged(self) -> None:
        ragged = self._raw.ragged
        if ragged:
            self._counts[f"{self._stem}/ragged_record"] = sum(bad.lines for bad in ragged)
            self._rows_lost += sum(bad.lines for bad in ragged)
        self._examples += [
            Example(self._raw.name, bad.row, "(whole record)", repr(bad.text[:_SHOWN_CHARS]), "ragged_record")
            for bad in ragged[:_EXAMPLES_PER_CODE]
        ]

    def _count(self, code: str, positions: NDArray[np.int64], column: str) -> None:
        if not len(positions):
            return
        key = f"{self._stem}/{code}"
        shown = max(0, _EXAMPLES_PER_CODE - self._counts.get(key, 0))
        self._counts[key] = self._counts.get(key, 0) + len(positions)
        for position in positions[:shown]:
            row = int(self._raw.rows_R[position])
            value = _shown(self._raw.table.column(column)[int(position)])
            self._examples.append(Example(self._raw.name, row, column, value, code))


@dataclass(frozen=True)
class Ids:
    """An id column as numbers: `values[codes_R[r]]` is the id of row r.

    Attributes:
        values: distinct ids, in order of first appearance; null for a missing one.
        codes_R: index into `values`.
    """

    values: pa.Array
    codes_R: NDArray[np.int64]


def check_ids(text: pa.Array, column: str, quarantine: Quarantine, limits: Limits) -> Ids:
    """Quarantine missing ids (null, blank, or a program's word for missing) and ids above `Limits.id_chars`."""
    encoded = pc.dictionary_encode(text, null_encoding="encode")
    values = encoded.dictionary
    codes_R = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(values, "")))
    missing = pc.is_in(plain, value_set=pa.array(sorted(MISSING_IDS), pa.large_string()))
    quarantine.reject(f"missing_{column}", _mask(missing)[codes_R], column)
    too_long = pc.greater(pc.utf8_length(pc.fill_null(values, "")), limits.id_chars)
    quarantine.reject(f"overlong_{column}", _mask(too_long)[codes_R], column)
    return Ids(values, codes_R)


def first_positions(codes_R: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a code appears for the first time [R]."""
    first_R = np.zeros(len(codes_R), dtype=np.bool_)
    first_R[np.unique(codes_R, return_index=True)[1]] = True
    return first_R


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _shown(cell: pa.Scalar) -> str:
    try:
        return repr(cell.as_py())[:_SHOWN_CHARS]
    except (ValueError, OverflowError, pa.ArrowException):
        return f"a {cell.type} outside its range"
