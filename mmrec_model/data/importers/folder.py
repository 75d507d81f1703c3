"""A partner folder that is whole or absent: made beside its place, synced, then renamed.

Interactions are written in parts of a million rows. A folder that was not made by an import is never replaced.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmrec_model.data.importers.intake import Rows
from mmrec_model.data.schema import EVENTS, INTERACTIONS, ITEMS, MEDIA, USERS
from mmrec_model.errors import DataError, UsageError
from mmrec_model.storage import fsync_folder

RECORD = "import.json"
_OWN = {RECORD, *MEDIA, *(f"{schema.stem}.parquet" for schema in (INTERACTIONS, ITEMS, USERS))}
_PART_ROWS = 1_000_000


def check_target(out: Path, source: Path, *, overwrite: bool) -> dict[str, object] | None:
    """Refuse a place that may not be written to; the record of the import that would be replaced, if there is one.

    Raises:
        UsageError: the set lies in `out`.
        DataError: `out` exists and is not to be replaced, or is no folder that an import made.
    """
    if source.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"the set {source} lies in --out {out}", remedy="Name another folder for the import")
    if not out.exists():
        return None
    foreign = sorted(path.name for path in out.iterdir() if path.name not in _OWN) if out.is_dir() else [out.name]
    record = _record_of(out)
    if foreign or (record is None and any(out.iterdir())):
        what = f"holds {foreign[0]!r}" if foreign else f"holds no {RECORD}"
        raise DataError(f"{out} exists and {what}: no import made it", remedy="Name another folder with --out")
    if not overwrite:
        raise DataError(f"{out} exists already", remedy="Name another folder with --out, or give --overwrite")
    return record


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A folder to fill; on a good end it takes the place of `out`, on any other it is removed.

    Raises:
        DataError: the disk is full, or does not let itself be written to.
    """
    out = out.absolute()
    making = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.importing-"))
        making.chmod(0o755)
        yield making
        _sync(making)
        _take_place(making, out)
    except BaseException as error:
        if making is not None:
            shutil.rmtree(making, ignore_errors=True)
        if isinstance(error, OSError):
            raise DataError(
                f"{out} cannot be written: {error.strerror or error}",
                remedy="Free the space, or name another folder with --out",
            ) from error
        raise


def _take_place(making: Path, out: Path) -> None:
    """Rename; what stood there before is removed last and comes back if the rename fails."""
    if not out.exists():
        making.replace(out)
        fsync_folder(out.parent)
        return
    old = making.with_name(f"{making.name}.old")
    out.replace(old)
    try:
        making.replace(out)
    except OSError:
        old.replace(out)
        raise
    fsync_folder(out.parent)
    shutil.rmtree(old)


def write_interactions(path: Path, rows: Rows) -> None:
    """Write `interactions.parquet`; equal rows give equal bytes."""
    whole = bool(np.all(rows.seconds_R == np.floor(rows.seconds_R)))
    columns = [("user_id", pa.large_string()), ("item_id", pa.large_string())]
    columns += [("timestamp", pa.int64() if whole else pa.float64())]
    columns += [("event", pa.large_string())] if rows.events_R is not None else []
    columns += [("rating", pa.float64())] if rows.ratings_R is not None else []
    schema = pa.schema(columns)
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, len(rows), _PART_ROWS):
            writer.write_table(_part(rows, slice(start, start + _PART_ROWS), schema))


def _part(rows: Rows, part: slice, schema: pa.Schema) -> pa.Table:
    columns = [rows.user_ids.take(pa.array(rows.users_R[part])), rows.item_ids.take(pa.array(rows.items_R[part]))]
    columns += [pa.array(rows.seconds_R[part]).cast(schema.field("timestamp").type)]
    if rows.events_R is not None:
        events = rows.events_R[part]
        columns += [pa.array(EVENTS, pa.large_string()).take(pa.array(events, pa.int64(), mask=events < 0))]
    if rows.ratings_R is not None:
        ratings = rows.ratings_R[part]
        columns += [pa.array(ratings, mask=~np.isfinite(ratings))]
    return pa.table(columns, schema=schema)


def _record_of(folder: Path) -> dict[str, object] | None:
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _sync(folder: Path) -> None:
    """Make everything in the folder durable; media that are links lie on the disk already, copies are synced."""
    for place, _, names in os.walk(folder):
        for name in names if Path(place) == folder else ():
            with (Path(place) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        fsync_folder(Path(place))
