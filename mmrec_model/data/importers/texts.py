"""Further text by item id, such as plots: a CSV, TSV or JSON-lines file with a column of ids and one of texts."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mmrec_model.data.importers.delimited import Layout, header_of, read_delimited
from mmrec_model.data.importers.json_lines import read_json_lines
from mmrec_model.data.importers.malformed import Malformed
from mmrec_model.data.importers.source import Progress, with_table
from mmrec_model.data.tables import RawTable
from mmrec_model.errors import DataError

ID_COLUMNS = ("movieId", "item_id", "item", "id")
TEXT_COLUMNS = ("text", "plot", "overview", "description")
_JSON = (".jsonl", ".jsonl.gz", ".ndjson", ".json")


def read_texts(path: Path, wanted: Container[str] | None, malformed: Malformed, progress: Progress) -> dict[str, str]:
    """Texts of the wanted items (None: all); of two texts of one item the first counts.

    Raises:
        DataError: the file cannot be read, or has no column of ids or of texts under a known name.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file", remedy="Name a CSV, TSV or JSON-lines file with ids and texts")
    texts: dict[str, str] = {}
    for part in malformed.counted(_parts(path, progress)):
        for item, text in zip(part.table["item_id"].to_pylist(), part.table["text"].to_pylist(), strict=True):
            if item is not None and text and (wanted is None or item in wanted):
                texts.setdefault(item, text)
    return texts


def _parts(path: Path, progress: Progress) -> Iterator[RawTable]:
    if path.name.lower().endswith(_JSON):
        names = (*ID_COLUMNS, *TEXT_COLUMNS)
        for part in read_json_lines(path, pa.schema([(name, pa.large_string()) for name in names]), progress):
            ids, texts = (_first_filled(part, names) for names in (ID_COLUMNS, TEXT_COLUMNS))
            yield with_table(part, pa.table({"item_id": ids, "text": texts}))
        return
    layout = Layout({}, delimiter="\t" if ".tsv" in path.suffixes else ",")
    header = header_of(path, layout)
    columns = {_known(path, header, ID_COLUMNS): "item_id", _known(path, header, TEXT_COLUMNS): "text"}
    yield from read_delimited(path, Layout(columns, delimiter=layout.delimiter), progress)


def _known(path: Path, names: list[str], known: tuple[str, ...]) -> str:
    found = [name for name in known if name in names]
    if not found:
        raise DataError(
            f"{path.name} has the columns {', '.join(map(repr, names[:20]))} and none of {', '.join(known)}",
            remedy="Name a column of ids and a column of texts so",
        )
    return found[0]


def _first_filled(part: RawTable, names: tuple[str, ...]) -> pa.Array:
    return pc.coalesce(*(part.table[name].combine_chunks() for name in names))
