"""MIND (Wu et al. 2020): news, impressions with clicks, and click histories.

An entry `N1-1` of an impression is a click, `N2-0` an impression without one. Clicks of the history have no time and
say nothing of what else was shown: they become positives without an event, in their order, in the seconds before the
set's first impression. A user's first history counts. Test parts have no labels and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmrec_model.data.columns import parsed_texts
from mmrec_model.data.importers.delimited import Layout, read_delimited
from mmrec_model.data.importers.source import Progress, Source, item_table, with_table
from mmrec_model.data.tables import RawTable

_TIME = "%m/%d/%Y %I:%M:%S %p"
_BEHAVIOURS, _NEWS = "behaviors.tsv", "news.tsv"
_BEHAVIOUR_COLUMNS = ("impression_id", "user_id", "time", "history", "impressions")
_NEWS_COLUMNS = ("id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")


class Mind(Source):
    """One part, or the unpacked parts beside each other."""

    name: ClassVar[str] = "mind"
    files: ClassVar[str] = "behaviors.tsv and news.tsv, in the folder or in folders such as MINDsmall_train"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By `behaviors.tsv`."""
        return bool(_parts(folder))

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """Behaviours, then news, of every part."""
        del silos
        parts = _parts(self.folder)
        if not parts:
            raise self.lacks(_BEHAVIOURS)
        missing = [part for part in parts if not (part / _NEWS).is_file()]
        if missing:
            raise self.lacks((missing[0] / _NEWS).relative_to(self.folder).as_posix())
        return [part / name for name in (_BEHAVIOURS, _NEWS) for part in parts]

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per shown item, then one per item of a history."""
        first = math.inf
        known: set[str] = set()
        histories: list[RawTable] = []
        for part in _parts(self.folder):
            for raw in read_delimited(part / _BEHAVIOURS, _layout(_BEHAVIOUR_COLUMNS, 1, 2, 3, 4), progress):
                seconds_R = parsed_texts(raw.table["time"].combine_chunks(), _seconds)
                first = min(first, float(np.fmin.reduce(seconds_R, initial=math.inf)))
                histories.append(_first_histories(raw, known))
                yield _impressions(raw, seconds_R)
        for raw in histories:
            yield _history_rows(raw, first)

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per article of every part."""
        for part in _parts(self.folder):
            for raw in read_delimited(part / _NEWS, _layout(_NEWS_COLUMNS, 0, 1, 3, 4), progress):
                names = {"item_id": "id", "title": "title", "text": "abstract", "category": "category"}
                yield with_table(
                    raw, item_table({name: raw.table[column].to_pylist() for name, column in names.items()})
                )


def _parts(folder: Path) -> list[Path]:
    """Folders with behaviours, train before dev, without test."""
    if (folder / _BEHAVIOURS).is_file():
        return [folder]
    found = (path for path in folder.iterdir() if (path / _BEHAVIOURS).is_file())
    return sorted(
        (path for path in found if "test" not in path.name.lower()), key=lambda path: ("dev" in path.name, path)
    )


def _layout(names: tuple[str, ...], *places: int) -> Layout:
    columns = {names[place]: names[place] for place in places}
    return Layout(columns, header=names, delimiter="\t", quoted=False)


def _seconds(text: str) -> float:
    try:
        return datetime.strptime(text.strip(), _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return math.nan


def _impressions(raw: RawTable, seconds_R: NDArray[np.float64]) -> RawTable:
    """Every entry of every impression; one without a label has an event that no rule accepts."""
    entries, owners = _exploded(raw.table["impressions"])
    labelled = pc.match_substring_regex(entries, "-[01]$")
    event = pc.if_else(pc.ends_with(entries, "-1"), "click", pc.if_else(labelled, "impression", "(no label)"))
    columns = {
        "user_id": raw.table["user_id"].combine_chunks().take(owners),
        "item_id": pc.replace_substring_regex(entries, "-[01]$", ""),
        "timestamp": pa.array(seconds_R).take(owners),
        "event": event,
    }
    return RawTable(raw.path, pa.table(columns), raw.rows_R[owners.to_numpy(zero_copy_only=False)], raw.ragged, ())


def _first_histories(raw: RawTable, known: set[str]) -> RawTable:
    """Users of this part who were not known before, with their histories; they are known afterwards."""
    new = []
    for place, user in enumerate(raw.table["user_id"].to_pylist()):
        if user not in known:
            known.add(user)
            new.append(place)
    table = raw.table.select(["user_id", "history"]).take(pa.array(new, pa.int64()))
    return RawTable(raw.path, table, raw.rows_R[new], (), ())


def _history_rows(raw: RawTable, first: float) -> RawTable:
    entries, owners = _exploded(raw.table["history"])
    owners_R = owners.to_numpy(zero_copy_only=False)
    ends = np.searchsorted(owners_R, owners_R, side="right")
    columns = {
        "user_id": raw.table["user_id"].combine_chunks().take(owners),
        "item_id": entries,
        "timestamp": pa.array(first - (ends - np.arange(len(owners_R)))),
        "event": pa.nulls(len(entries), pa.large_string()),
    }
    return RawTable(raw.path, pa.table(columns), raw.rows_R[owners_R], (), ())


def _exploded(column: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Words of every cell, and the place of the cell that each is from."""
    words = pc.split_pattern(column.combine_chunks(), " ")
    entries, owners = pc.list_flatten(words), pc.list_parent_indices(words)
    filled = pc.not_equal(entries, "")
    return entries.filter(filled), owners.filter(filled)
