"""The `users` table of an import: one `silo_*` column for each natural partition that was asked for.

A column comes from the set's file of users, from the label of a user's rows, or from the category of the items. Of
labels and categories a user has the commonest among the positives, the first in order of text where two are equally
common. A user without a value has "".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmrec_model.data.importers.intake import Rows
from mmrec_model.data.importers.source import CATEGORY_SILO, Source
from mmrec_model.data.schema import SILO_PREFIX
from mmrec_model.data.tables import RawTable
from mmrec_model.errors import UsageError

NO_SILO = "none"


def chosen_silos(source: Source, asked: Sequence[str]) -> tuple[str, ...]:
    """The silo columns to write: those asked for, the format's own by default, nothing for `none`.

    Raises:
        UsageError: the set has no such column, or `none` stands beside one.
    """
    if not asked:
        return () if source.default_silo is None else (source.default_silo,)
    if list(asked) == [NO_SILO]:
        return ()
    known = (*source.silos, CATEGORY_SILO)
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UsageError(
            f"--silo {unknown[0]} is no silo of the format {source.name}",
            remedy=f"It has {', '.join(known)}, or give --silo {NO_SILO} alone",
        )
    return tuple(dict.fromkeys(asked))


def filed_silos(source: Source, silos: Sequence[str]) -> tuple[str, ...]:
    """Those of the columns that a file of users gives."""
    derived = ({CATEGORY_SILO} - set(source.silos)) | {source.label_silo}
    return tuple(name for name in silos if name not in derived)


def users_table(
    source: Source, rows: Rows, silos: Sequence[str], categories: Mapping[str, str], filed: Iterable[RawTable]
) -> pa.Table:
    """Users with a kept row, in order of first appearance, with their silos.

    Args:
        source: the set.
        rows: kept rows.
        silos: from `chosen_silos`.
        categories: of items, by id.
        filed: parts of the file of users with the columns `filed_silos`; of two rows of a user the first counts.
    """
    present = np.unique(rows.users_R)
    ids = rows.user_ids.take(present).to_pylist()
    names = filed_silos(source, silos)
    columns = _from_file(filed, names, ids) if names else {}
    if CATEGORY_SILO in silos and CATEGORY_SILO not in names:
        texts = [categories.get(item, "") for item in rows.item_ids.to_pylist()]
        columns[CATEGORY_SILO] = _of_codes(texts, rows.items_R, rows, present)
    label = source.label_silo
    if label is not None and label in silos and rows.labels_R is not None:
        columns[label] = _of_codes(rows.labels.to_pylist(), rows.labels_R, rows, present)
    table = {"user_id": ids} | {f"{SILO_PREFIX}{name}": columns[name] for name in silos}
    return pa.table({name: pa.array(values, pa.large_string()) for name, values in table.items()})


def commonest(owners_R: NDArray[np.integer], labels_R: NDArray[np.integer], n_owners: int) -> NDArray[np.int64]:
    """The commonest label of each owner [n_owners], the smallest of equals, -1 for an owner without rows."""
    width = int(labels_R.max(initial=0)) + 1
    pairs, counts = np.unique(owners_R.astype(np.int64) * width + labels_R, return_counts=True)
    order = np.lexsort((pairs % width, -counts, pairs // width))
    owners, first = np.unique(pairs[order] // width, return_index=True)
    result = np.full(n_owners, -1, dtype=np.int64)
    result[owners] = pairs[order][first] % width
    return result


def _of_codes(texts: Sequence[str], codes_R: NDArray[np.int32], rows: Rows, present: NDArray[np.int32]) -> list[str]:
    """For each present user the commonest of `texts[codes_R]` over the positive rows that have one."""
    names = sorted(set(texts) - {""})
    places = {name: place for place, name in enumerate(names)} | {"": -1}
    labels_R = np.array([places[text] for text in texts], dtype=np.int64)[codes_R]
    told_R = rows.positive_mask() & (labels_R >= 0)
    result = commonest(rows.users_R[told_R], labels_R[told_R], len(rows.user_ids))[present]
    return [names[label] if label >= 0 else "" for label in result.tolist()]


def _from_file(parts: Iterable[RawTable], names: Sequence[str], ids: list[str]) -> dict[str, list[str]]:
    place = {user: index for index, user in enumerate(ids)}
    columns = {name: [""] * len(ids) for name in names}
    for part in parts:
        for row in part.table.to_pylist():
            index = place.pop(row["user_id"], None)
            if index is not None:
                for name in names:
                    columns[name][index] = row[name] or ""
    return columns
