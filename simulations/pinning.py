"""A split by a rule as the column `loo` of a folder's interactions, so that real sites find it pinned in their data.

Sites, their policies and the wire know of no rules: they open what their folder pins. A column that the source has is
replaced, because a rule was asked for.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.data.interactions import read_interactions
from mmrec_model.data.schema import DEFAULT_LIMITS, SPLITS
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.splits import part_of_rows, split_interactions
from mmrec_model.data.tables import RawTable

COLUMN = "loo"


def pin_split(source: Path, raw: RawTable, rule: SplitRule) -> RawTable:
    """The interactions of `source` with the part of every row in the column `loo`.

    Args:
        source: partner-format folder with its items.
        raw: its interactions as read.
        rule: the split.

    Raises:
        DataError: a file cannot be used as a whole.
    """
    item_ids = open_catalogue(source).item_ids
    rows = read_interactions(source, item_ids, now=time.time(), limits=DEFAULT_LIMITS)
    part_R = part_of_rows(rows, split_interactions(rows, item_ids, rule))
    place_R = np.searchsorted(raw.rows_R, rows.rows_R)
    words = np.full(len(raw.rows_R), None, dtype=object)
    words[place_R] = np.asarray([*SPLITS, None], dtype=object)[part_R]
    column = pa.array(words, pa.large_string())
    names = raw.table.column_names
    if COLUMN in names:
        return replace(raw, table=raw.table.set_column(names.index(COLUMN), COLUMN, column))
    return replace(raw, table=raw.table.append_column(COLUMN, column))
