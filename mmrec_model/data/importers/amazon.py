"""Amazon Reviews 2023 (McAuley Lab): reviews as JSON lines, or the 5-core as CSV, with `meta_*.jsonl` beside.

An item is a `parent_asin`. Several domains may lie in one folder. What users wrote (titles and texts of reviews) and
what comes of them (mean rating, number of ratings) is not read: an item's text is its features and description, its
category the second level of `categories`, because the first is the domain. Times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from mmrec_model.data.columns import numbers_of
from mmrec_model.data.importers.delimited import Layout, header_of, read_delimited
from mmrec_model.data.importers.json_lines import read_json_lines
from mmrec_model.data.importers.source import Progress, Source, item_table, matching, sentences, with_column, with_table
from mmrec_model.data.tables import RawTable

_MILLISECONDS = 1000.0
_REVIEW = pa.schema(
    [
        ("user_id", pa.large_string()),
        ("parent_asin", pa.large_string()),
        ("timestamp", pa.int64()),
        ("rating", pa.float64()),
    ]
)
_ITEM = pa.schema(
    [
        ("parent_asin", pa.large_string()),
        ("title", pa.large_string()),
        ("main_category", pa.large_string()),
        ("features", pa.list_(pa.large_string())),
        ("description", pa.list_(pa.large_string())),
        ("categories", pa.list_(pa.large_string())),
    ]
)


class _Amazon(Source):
    """What both forms share: the items."""

    media_folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"image": ("images",)}

    def items(self, progress: Progress) -> Iterator[RawTable]:
        """One row per product; without a `meta_*` file there is none."""
        for path in _meta(self.folder):
            for part in read_json_lines(path, _ITEM, progress):
                yield with_table(part, _products(part.table.to_pydict()))


class AmazonReviews(_Amazon):
    """Reviews as JSON lines."""

    name: ClassVar[str] = "amazon-2023"
    files: ClassVar[str] = "DOMAIN.jsonl or DOMAIN.jsonl.gz, with meta_DOMAIN.jsonl or .jsonl.gz for the items"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By a file of JSON lines beside the `meta_*` ones whose first line names a `parent_asin` and a `user_id`."""
        return any(_is_review_file(path) for path in _reviews(folder))

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """All domains."""
        del silos
        reviews = [path for path in _reviews(self.folder) if _is_review_file(path)]
        if not reviews:
            raise self.lacks("file of reviews (*.jsonl or *.jsonl.gz)")
        return [*reviews, *_meta(self.folder)]

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per review."""
        for path in _reviews(self.folder):
            if _is_review_file(path):
                for part in read_json_lines(path, _REVIEW, progress):
                    yield _in_seconds(part)


class AmazonCore(_Amazon):
    """The 5-core as CSV; its train, valid and test files, where these are given, are read together."""

    name: ClassVar[str] = "amazon-2023-5core"
    files: ClassVar[str] = "DOMAIN.csv or DOMAIN.csv.gz, with meta_DOMAIN.jsonl or .jsonl.gz for the items"

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """By a CSV file with the columns `user_id` and `parent_asin`."""
        return bool(_cores(folder))

    def tables(self, silos: Sequence[str]) -> list[Path]:
        """All domains."""
        del silos
        cores = _cores(self.folder)
        if not cores:
            raise self.lacks("CSV file with the columns user_id, parent_asin, rating, timestamp")
        return [*cores, *_meta(self.folder)]

    def rows(self, progress: Progress) -> Iterator[RawTable]:
        """One row per rating."""
        for path in _cores(self.folder):
            for part in read_delimited(path, Layout({name: name for name in _REVIEW.names}), progress):
                yield _in_seconds(part)


def _reviews(folder: Path) -> list[Path]:
    found = [*matching(folder, "*.jsonl"), *matching(folder, "*.jsonl.gz")]
    return [path for path in found if not path.name.startswith("meta_")]


def _is_review_file(path: Path) -> bool:
    """Read the first line: other JSON lines, such as plots, may lie beside."""
    first = ",".join(header_of(path, Layout({}, quoted=False)))
    return '"parent_asin"' in first and '"user_id"' in first


def _meta(folder: Path) -> list[Path]:
    return [*matching(folder, "meta_*.jsonl"), *matching(folder, "meta_*.jsonl.gz")]


def _cores(folder: Path) -> list[Path]:
    found = [*matching(folder, "*.csv"), *matching(folder, "*.csv.gz")]
    return [path for path in found if {"user_id", "parent_asin"} <= set(header_of(path))]


def _in_seconds(part: RawTable) -> RawTable:
    seconds = pc.divide(pa.array(numbers_of(part, "timestamp")), _MILLISECONDS)
    missing = part.table["timestamp"].is_null().combine_chunks()
    names = ["item_id" if name == "parent_asin" else name for name in part.table.column_names]
    timed = with_column(part, "timestamp", pc.if_else(missing, pa.scalar(None, pa.float64()), seconds))
    return with_table(timed, timed.table.rename_columns(names))


def _products(columns: dict[str, list[Any]]) -> pa.Table:
    features, descriptions = (
        [sentences(*(texts or [])) for texts in columns[name]] for name in ("features", "description")
    )
    return item_table(
        {
            "item_id": columns["parent_asin"],
            "title": columns["title"],
            "text": [sentences(*pair) for pair in zip(features, descriptions, strict=True)],
            "category": [
                _category(levels or [], main)
                for levels, main in zip(columns["categories"], columns["main_category"], strict=True)
            ],
        }
    )


def _category(levels: Sequence[str | None], main: str | None) -> str:
    named = [level for level in levels if level]
    return named[1] if len(named) > 1 else (named[0] if named else main or "")
