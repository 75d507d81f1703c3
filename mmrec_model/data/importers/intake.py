"""Rows of any format, checked by the rules of the partner folder and kept as numbers.

The rules and their codes are those of `docs/partner-folder.md`. A row costs 24 bytes, 1 more where there are events
and 4 more where there are labels; an id costs its text once. A set that loses more than a share of its rows is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec_model.data.columns import filled_text, text_values
from mmrec_model.data.importers.source import LABEL
from mmrec_model.data.interactions import check_choice, check_ratings, check_times
from mmrec_model.data.schema import DEFAULT_LIMITS, EVENTS, IMPRESSION
from mmrec_model.data.tables import RawTable
from mmrec_model.data.validation import Example, Quarantine, ValidationReport, check_ids
from mmrec_model.errors import DataError

_EXAMPLES_PER_CODE = 3
_SMALLEST_COMPACTION = 1 << 20


NumberT = TypeVar("NumberT", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Rows:
    """R interactions as numbers, in the order of the files.

    Attributes:
        user_ids: distinct ids; a row's user is an index into them.
        item_ids: distinct ids; a row's item is an index into them.
        labels: distinct labels, or empty.
        users_R: index of the user.
        items_R: index of the item.
        seconds_R: Unix time.
        ratings_R: -inf where there is none; None where no row of the set has one.
        events_R: index into `schema.EVENTS`, -1 for none; None where no row of the set has one.
        labels_R: index of the label; None where the format has none.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    labels: pa.Array
    users_R: NDArray[np.int32]
    items_R: NDArray[np.int32]
    seconds_R: NDArray[np.float64]
    ratings_R: NDArray[np.float64] | None
    events_R: NDArray[np.int8] | None
    labels_R: NDArray[np.int32] | None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.users_R)

    def positive_mask(self) -> NDArray[np.bool_]:
        """Rows [R] that are more than an impression."""
        return np.ones(len(self), dtype=np.bool_) if self.events_R is None else self.events_R != IMPRESSION

    def where(self, kept_R: NDArray[np.bool_]) -> Rows:
        """The rows of the mask, with the same ids."""
        columns = {part.name: getattr(self, part.name) for part in fields(self) if part.name.endswith("_R")}
        return replace(self, **{name: column[kept_R] for name, column in columns.items() if column is not None})


class Intake:
    """Takes parts of any size.

    Attributes:
        rows_read: rows of all parts so far.
        report: what was left out so far; its examples hold users' ids.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._users, self._items, self._labels = _Coded(), _Coded(), _Coded()
        self._seconds: list[NDArray[np.float64]] = []
        self._ratings: list[NDArray[np.float64]] = []
        self._events: list[NDArray[np.int8]] = []
        self._labelled = False
        self.rows_read = 0
        self.report = ValidationReport()

    def add(self, raw: RawTable) -> None:
        """Check one part and keep what can be used."""
        quarantine = Quarantine(raw)
        users = check_ids(text_values(raw, "user_id"), "user_id", quarantine, DEFAULT_LIMITS)
        items = check_ids(text_values(raw, "item_id"), "item_id", quarantine, DEFAULT_LIMITS)
        seconds_R = check_times(raw, quarantine, self._now)
        events_R = check_choice(raw, "event", EVENTS, quarantine, "unknown_event")
        ratings_R = check_ratings(raw, quarantine)
        kept_R = quarantine.kept_R
        self._users.add(users.values, users.codes_R[kept_R])
        self._items.add(items.values, items.codes_R[kept_R])
        self._seconds.append(seconds_R[kept_R])
        self._ratings.append(ratings_R[kept_R])
        self._events.append(events_R[kept_R].astype(np.int8))
        if raw.has(LABEL):
            self._labelled = True
            labels = pc.dictionary_encode(filled_text(raw, LABEL))
            codes_R = np.asarray(labels.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
            self._labels.add(labels.dictionary, codes_R[kept_R])
        tally = quarantine.tally()
        self.rows_read += tally.rows_read[raw.name]
        self.report = _bounded(ValidationReport.merged([self.report, tally]))

    def close(self, largest_share: float) -> Rows:
        """All rows.

        Raises:
            DataError: no usable row, or a share of the rows above `largest_share` cannot be used.
        """
        _judge(self.report, self.rows_read, largest_share)
        user_ids, users_R = self._users.close()
        item_ids, items_R = self._items.close()
        labels, labels_R = self._labels.close()
        ratings_R, events_R = _joined(self._ratings), _joined(self._events)
        return Rows(
            user_ids=user_ids,
            item_ids=item_ids,
            labels=labels,
            users_R=users_R,
            items_R=items_R,
            seconds_R=_joined(self._seconds),
            ratings_R=ratings_R if np.isfinite(ratings_R).any() else None,
            events_R=events_R if (events_R >= 0).any() else None,
            labels_R=labels_R if self._labelled else None,
        )


class _Coded:
    """A column of texts as codes; the texts of its parts are made one dictionary before they fill the memory."""

    def __init__(self) -> None:
        self._chunks: list[pa.DictionaryArray] = []
        self._loose = 0
        self._joined = 0

    def add(self, values: pa.Array, codes_R: NDArray[np.int64]) -> None:
        used, codes_R = np.unique(codes_R, return_inverse=True)
        dictionary = pc.cast(values.take(pa.array(used, pa.int64())), pa.large_string())
        self._chunks.append(pa.DictionaryArray.from_arrays(pa.array(codes_R.astype(np.int32)), dictionary))
        self._loose += len(used)
        if self._loose > max(_SMALLEST_COMPACTION, 2 * self._joined):
            self._compact()

    def close(self) -> tuple[pa.Array, NDArray[np.int32]]:
        if not self._chunks:
            return pa.array([], pa.large_string()), np.zeros(0, dtype=np.int32)
        self._compact()
        whole = self._chunks.pop()
        return whole.dictionary, np.asarray(whole.indices.to_numpy(zero_copy_only=False), np.int32)

    def _compact(self) -> None:
        parts = pa.chunked_array(self._chunks).unify_dictionaries().chunks
        indices = pa.concat_arrays([part.indices for part in parts])
        self._chunks = [pa.DictionaryArray.from_arrays(indices, parts[0].dictionary)]
        self._joined = len(self._chunks[0].dictionary)
        self._loose = 0


def _joined(parts: list[NDArray[NumberT]]) -> NDArray[NumberT]:
    """One array of at least one part; the parts are let go."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _bounded(report: ValidationReport) -> ValidationReport:
    """The report with the first few examples of each code, whatever the number of parts."""
    kept: list[Example] = []
    seen: dict[tuple[str, str], int] = {}
    for example in report.examples:
        key = (example.file, example.code)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= _EXAMPLES_PER_CODE:
            kept.append(example)
    return replace(report, examples=tuple(kept), notices=(), rows_read={})


def _judge(report: ValidationReport, read: int, largest_share: float) -> None:
    lost = sum(report.quarantined.values())
    if read == lost or lost / read > largest_share:
        places = "; ".join(_places(report)) or "the files hold no row"
        raise DataError(
            f"{lost:,} of {read:,} rows ({lost / max(read, 1):.1%}) cannot be used, above the limit of "
            f"{largest_share:.1%}: {places}",
            remedy="Check that the files are complete and of the format that --format names, or raise "
            "--malformed-share; docs/partner-folder.md lists what each code means",
        )


def _places(report: ValidationReport) -> Iterator[str]:
    """`FILE CODE in row 3, 17, 20` for each file and code."""
    rows: dict[tuple[str, str], list[str]] = {}
    for example in report.examples:
        rows.setdefault((example.file, example.code), []).append(str(example.row))
    for (file, code), numbers in rows.items():
        yield f"{file}: {code}, first in row {', '.join(numbers)}"
