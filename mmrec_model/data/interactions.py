"""The rows of `interactions`, each checked: what is left is numbers that every later step can trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec_model.data.columns import filled_text, missing_of, numbers_of, seconds_of, text_values
from mmrec_model.data.schema import EVENTS, IMPRESSION, INTERACTIONS, SPLITS, Limits
from mmrec_model.data.tables import RawTable, read_table
from mmrec_model.data.validation import Ids, Quarantine, ValidationReport, check_ids

_NO_CODE = -1
Column: TypeAlias = "NDArray[np.int64] | NDArray[np.float64] | NDArray[np.int32] | NDArray[np.int8]"


@dataclass(frozen=True)
class Interactions:
    """Usable rows in file order; R rows.

    Attributes:
        user_ids: ids of the users with at least one usable row, sorted as text: U of them.
        users_R: index into `user_ids`.
        items_R: index into the catalogue.
        seconds_R: Unix time.
        positive_R: False for an impression.
        events_R: index into `schema.EVENTS`, -1 for an interaction of no named kind.
        ratings_R: finite, or NaN where there is none.
        splits_R: index into `schema.SPLITS`, or None where no split is pinned.
        rows_R: row number in the file.
        file: name of the file.
        report: what was quarantined.
    """

    user_ids: tuple[str, ...]
    users_R: NDArray[np.int64]
    items_R: NDArray[np.int64]
    seconds_R: NDArray[np.float64]
    positive_R: NDArray[np.bool_]
    events_R: NDArray[np.int64]
    ratings_R: NDArray[np.float64]
    splits_R: NDArray[np.int64] | None
    rows_R: NDArray[np.int64]
    file: str
    report: ValidationReport


def read_interactions(folder: Path, item_ids: tuple[str, ...], *, now: float, limits: Limits) -> Interactions:
    """Read and check `interactions`.

    Args:
        folder: the partner folder.
        item_ids: the catalogue; rows with another item are quarantined.
        now: Unix seconds; later rows are quarantined.
        limits: bounds of the file.

    Raises:
        DataError: the file cannot be used as a whole.
    """
    raw = read_table(folder, INTERACTIONS, limits)
    quarantine = Quarantine(raw)
    users = check_ids(text_values(raw, "user_id"), "user_id", quarantine, limits)
    items = check_ids(text_values(raw, "item_id"), "item_id", quarantine, limits)
    seconds_R = check_times(raw, quarantine, now)
    events_R = check_choice(raw, "event", EVENTS, quarantine, "unknown_event")
    ratings_R = check_ratings(raw, quarantine)
    positive_R = events_R != IMPRESSION
    splits_R = _check_splits(raw, quarantine, positive_R)
    items_R = _look_up(items, item_ids)
    quarantine.reject("unknown_item", items_R < 0, "item_id")
    columns: list[Column] = [users.codes_R, items_R, seconds_R, events_R, ratings_R]
    columns += [] if splits_R is None else [splits_R]
    quarantine.reject("duplicate_row", repeated_rows(columns, quarantine.kept_R), "user_id")
    report = quarantine.report(limits)
    kept_R = quarantine.kept_R
    user_ids, users_R = _sorted_users(users, kept_R)
    return Interactions(
        user_ids=user_ids,
        users_R=users_R,
        items_R=items_R[kept_R],
        seconds_R=seconds_R[kept_R],
        positive_R=positive_R[kept_R],
        events_R=events_R[kept_R],
        ratings_R=np.where(np.isneginf(ratings_R), np.nan, ratings_R)[kept_R],
        splits_R=None if splits_R is None else splits_R[kept_R],
        rows_R=raw.rows_R[kept_R],
        file=raw.name,
        report=report,
    )


def check_times(raw: RawTable, quarantine: Quarantine, now: float) -> NDArray[np.float64]:
    """Unix seconds [R]; rows whose time is missing, no time, before 1970 or after `now` are quarantined."""
    seconds_R, missing_R = seconds_of(raw, "timestamp")
    quarantine.reject("missing_timestamp", missing_R, "timestamp")
    quarantine.reject("timestamp_not_a_time", ~np.isfinite(seconds_R), "timestamp")
    quarantine.reject("negative_timestamp", seconds_R < 0.0, "timestamp")
    quarantine.reject("future_timestamp", seconds_R > now, "timestamp")
    return seconds_R


def check_choice(
    raw: RawTable, column: str, choices: tuple[str, ...], quarantine: Quarantine, code: str
) -> NDArray[np.int64]:
    """Index into `choices`, -1 where the cell is blank; other values are quarantined."""
    text = filled_text(raw, column)
    found = pc.fill_null(pc.index_in(text, value_set=pa.array(choices, pa.large_string())), _NO_CODE)
    codes_R = np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)
    if raw.has(column):
        quarantine.reject(code, (codes_R < 0) & ~missing_of(raw, column), column)
    return codes_R


def check_ratings(raw: RawTable, quarantine: Quarantine) -> NDArray[np.float64]:
    """Ratings, -inf where there is none (so that rows without one compare as equal)."""
    missing_R = missing_of(raw, "rating")
    if not raw.has("rating"):
        return np.full(len(missing_R), -np.inf)
    ratings_R = numbers_of(raw, "rating")
    quarantine.reject("rating_not_finite", ~np.isfinite(ratings_R) & ~missing_R, "rating")
    return np.where(missing_R, -np.inf, ratings_R)


def _check_splits(raw: RawTable, quarantine: Quarantine, positive_R: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Pinned splits; None without a filled `loo` column. Impressions belong to no split."""
    if not raw.has("loo"):
        return None
    missing_R = missing_of(raw, "loo")
    if missing_R.all():
        quarantine.notice(f"{raw.name}: the column 'loo' is blank; the split is computed")
        return None
    splits_R = check_choice(raw, "loo", SPLITS, quarantine, "unknown_split")
    quarantine.reject("missing_split", missing_R & positive_R, "loo")
    return np.where(positive_R, splits_R, _NO_CODE)


def _look_up(items: Ids, item_ids: tuple[str, ...]) -> NDArray[np.int64]:
    catalogue = pa.array(item_ids, pa.large_string())
    found = pc.fill_null(pc.index_in(items.values, value_set=catalogue, skip_nulls=True), _NO_CODE)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)[items.codes_R]


def repeated_rows(columns_R: Sequence[Column], kept_R: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Kept rows that equal an earlier kept row in every column."""
    rows = np.flatnonzero(kept_R)
    order = np.lexsort([column[rows] for column in columns_R])  # stable: equal rows stay in file order
    ordered = rows[order]
    same = np.ones(max(len(rows) - 1, 0), dtype=np.bool_)
    for column in columns_R:
        same &= column[ordered[1:]] == column[ordered[:-1]]
    repeated_R = np.zeros(len(kept_R), dtype=np.bool_)
    repeated_R[ordered[1:][same]] = True
    return repeated_R


def _sorted_users(users: Ids, kept_R: NDArray[np.bool_]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    present, codes_R = np.unique(users.codes_R[kept_R], return_inverse=True)
    texts = users.values.take(pa.array(present)).to_pylist()
    rank = np.empty(len(texts), dtype=np.int64)
    order = sorted(range(len(texts)), key=texts.__getitem__)
    rank[order] = np.arange(len(texts))
    return tuple(texts[position] for position in order), rank[codes_R]
