"""Write a partner folder as parquet; every file is whole or absent."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmrec_model.data.schema import INTERACTIONS, ITEMS, USERS, FileSchema
from mmrec_model.errors import DataError
from mmrec_model.storage import write_atomically


def write_partner(
    folder: Path, *, interactions: pa.Table, items: pa.Table | None = None, users: pa.Table | None = None
) -> None:
    """Write the tables as `interactions.parquet`, `items.parquet` and `users.parquet`; None writes no file.

    The same tables give the same bytes. Media that `items` names are the caller's to copy.

    Raises:
        DataError: a required column is missing, or a CSV file of the same name already lies in the folder.
    """
    tables = [(INTERACTIONS, interactions), (ITEMS, items), (USERS, users)]
    given = [(schema, table) for schema, table in tables if table is not None]
    for schema, table in given:
        _check(folder, schema, table)
    for schema, table in given:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        write_atomically(folder / f"{schema.stem}.parquet", buffer.getvalue().to_pybytes())


def _check(folder: Path, schema: FileSchema, table: pa.Table) -> None:
    missing = [column for column in schema.required if column not in table.column_names]
    if missing:
        raise DataError(
            f"The table {schema.stem} lacks the required column {missing[0]!r}",
            remedy=f"Give it the columns {', '.join(schema.required)}",
        )
    other = folder / f"{schema.stem}.csv"
    if other.exists():
        raise DataError(f"{folder} already holds {other.name}", remedy="Write to another folder or remove it")
