"""The catalogue: the items of `items.*` in file order, which is the index every later array uses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path

import numpy as np

from mmrec_model.data.columns import filled_text, text_values
from mmrec_model.data.media import media_paths
from mmrec_model.data.schema import DEFAULT_LIMITS, ITEMS, MEDIA, Limits
from mmrec_model.data.tables import RawTable, read_table
from mmrec_model.data.validation import Ids, Quarantine, ValidationReport, check_ids, first_positions
from mmrec_model.errors import DataError


@dataclass(frozen=True)
class Catalogue:
    """N items.

    Attributes:
        item_ids: distinct ids, in file order.
        titles: one per item, "" where missing.
        texts: one per item, "" where missing.
        categories: one per item, "" where missing.
        media: for "image", "audio" and "video", one absolute resolved path inside the folder or None per item.
        report: what validation found in the file.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    categories: tuple[str, ...]
    media: dict[str, tuple[Path | None, ...]]
    report: ValidationReport

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each item id."""
        return {item: position for position, item in enumerate(self.item_ids)}


def open_catalogue(folder: Path, *, limits: Limits = DEFAULT_LIMITS) -> Catalogue:
    """Read `items.*` of `folder`, and nothing else.

    Raises:
        DataError: the file cannot be used as a whole: missing, damaged, above a limit, without a required column,
            two rows with one item id, or too many rows in quarantine.
    """
    raw = read_table(Path(folder), ITEMS, limits)
    quarantine = Quarantine(raw)
    ids = check_ids(text_values(raw, "item_id"), "item_id", quarantine, limits)
    _refuse_repeated(raw, ids, quarantine)
    kept = quarantine.kept_R.tolist()
    titles, texts, categories = (
        tuple(compress(filled_text(raw, column).to_pylist(), kept)) for column in ("title", "text", "category")
    )
    media = {column: tuple(compress(media_paths(raw, column, quarantine), kept)) for column in MEDIA}
    bare = sum(not (title.strip() or text.strip()) for title, text in zip(titles, texts, strict=True))
    if bare:
        quarantine.notice(f"{raw.name}: {bare:,} of {len(titles):,} items have neither title nor text")
    item_ids = compress(ids.values.take(ids.codes_R).to_pylist(), kept)
    return Catalogue(tuple(item_ids), titles, texts, categories, media, quarantine.report(limits))


def _refuse_repeated(raw: RawTable, ids: Ids, quarantine: Quarantine) -> None:
    positions = np.flatnonzero(quarantine.kept_R)
    codes = ids.codes_R[positions]
    repeated = np.flatnonzero(~first_positions(codes))
    if not len(repeated):
        return
    second = repeated[0]
    first = np.flatnonzero(codes == codes[second])[0]
    rows = raw.rows_R[positions]
    raise DataError(
        f"{raw.name} has the item_id {ids.values[int(codes[second])].as_py()!r} in row {rows[first]} and in row "
        f"{rows[second]}, and once is the limit",
        remedy="Keep one row per item",
    )
