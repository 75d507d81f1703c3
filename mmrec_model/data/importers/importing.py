"""The import: source folder in, validated partner folder with `import.json` out, or nothing.

1. The files that are missing are named before anything is written.
2. Rows are checked, chosen and counted (`intake`, `selection`), items follow the rows, silos follow both.
3. The finished folder is opened as any partner folder is; what cannot be opened is not kept.
4. Equal files and options give equal bytes; `import.json` holds counts, names of files and options, no id and no time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from mmrec_model.data.dataset import open_partner
from mmrec_model.data.importers.catalogue_file import CatalogueFile
from mmrec_model.data.importers.folder import RECORD, check_target, made_whole, write_interactions
from mmrec_model.data.importers.intake import Intake, Rows
from mmrec_model.data.importers.malformed import Malformed
from mmrec_model.data.importers.media_files import MediaFiles, MediaMode, index_media
from mmrec_model.data.importers.selection import Selection, select
from mmrec_model.data.importers.silos import chosen_silos, filed_silos, users_table
from mmrec_model.data.importers.source import Progress, Source
from mmrec_model.data.importers.texts import read_texts
from mmrec_model.data.schema import DEFAULT_LIMITS, MEDIA
from mmrec_model.data.validation import ValidationReport
from mmrec_model.errors import DataError, UsageError
from mmrec_model.storage import sha256_of_file, write_atomically

RECORD_VERSION = 1
_TABLES = ("interactions.parquet", "items.parquet", "users.parquet")


@dataclass(frozen=True)
class ImportOptions:
    """What is asked for beside the source.

    Attributes:
        selection: which rows.
        silos: silo columns, `none` alone for none; empty for the format's own.
        media: how files of media get into the folder.
        folders: by medium, a folder of files named by item id, instead of the set's own.
        texts: a file of further texts, instead of the set's own.
        items: the items that kept rows name, or all of the set.
        malformed_share: share of unusable rows above which the set is refused, 0 to 1.
        seed_given: whether the seed was chosen, so that another draw of users than before is meant.
        overwrite: replace the folder that an earlier import made.
    """

    selection: Selection = field(default_factory=Selection)
    silos: tuple[str, ...] = ()
    media: MediaMode = "link"
    folders: Mapping[str, Path] = field(default_factory=dict)
    texts: Path | None = None
    items: Literal["met", "all"] = "met"
    malformed_share: float = 0.01
    seed_given: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Imported:
    """A finished import: what `import.json` says, and what validation found, which may hold ids of users."""

    record: dict[str, Any]
    found: ValidationReport


def import_set(source: Source, out: Path, options: ImportOptions, progress: Progress) -> Imported:
    """Make the partner folder `out`.

    Raises:
        DataError: a file is missing, damaged or not of the format, no row is left, or `out` may not be written to.
        UsageError: options do not fit the set.
    """
    before = check_target(out, source.folder, overwrite=options.overwrite)
    if before is not None:
        _same_draw(before, options)
    job = _Job.of(source, options, progress)
    intake = Intake(time.time())
    for part in source.rows(progress):
        intake.add(part)
    rows, lost = select(intake.close(options.malformed_share), options.selection)
    _check_rows(rows, lost)
    with made_whole(out) as folder:
        counts = job.write(folder, rows)
        report, n_users = _opened(folder, len(rows), progress)
        record = job.record() | {
            "rows": {"read": intake.rows_read, "kept": len(rows), "lost": {**intake.report.quarantined, **lost}},
            "items": counts,
            "users": n_users,
            "tables": {name: sha256_of_file(folder / name) for name in _TABLES if (folder / name).exists()},
            "validation": {"rows_read": report.rows_read, "quarantined": report.quarantined},
        }
        write_atomically(folder / RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    return Imported(record, ValidationReport.merged([intake.report, report]))


@dataclass(frozen=True)
class _Job:
    """What is settled before the first row is read; a missing file has been named by then."""

    source: Source
    options: ImportOptions
    silos: tuple[str, ...]
    texts: Path | None
    files: tuple[Path, ...]
    media: Mapping[str, MediaFiles]
    malformed: Malformed
    progress: Progress

    @classmethod
    def of(cls, source: Source, options: ImportOptions, progress: Progress) -> _Job:
        silos = chosen_silos(source, options.silos)
        texts = options.texts or source.text_file()
        files = (*source.tables(silos), *(() if texts is None else (texts,)))
        media = _media(source, options)
        return cls(source, options, silos, texts, files, media, Malformed(options.malformed_share), progress)

    def write(self, folder: Path, rows: Rows) -> dict[str, int]:
        """Write the tables and the media; returns the counts of items."""
        met = frozenset(rows.item_ids.take(np.unique(rows.items_R)).to_pylist())
        keep_all = self.options.items == "all"
        wanted = None if keep_all else met
        texts = {} if self.texts is None else read_texts(self.texts, wanted, self.malformed, self.progress)
        catalogue = CatalogueFile(folder, met, keep_all, texts, self.media, self.options.media)
        catalogue.write(self.malformed.counted(self.source.items(self.progress)))
        write_interactions(folder / "interactions.parquet", rows)
        if self.silos:
            filed = self.malformed.counted(self.source.users(filed_silos(self.source, self.silos), self.progress))
            users = users_table(self.source, rows, self.silos, catalogue.categories, filed)
            pq.write_table(users, folder / "users.parquet", compression="zstd", write_page_checksum=True)
        self.malformed.close()
        return asdict(catalogue.counts)

    def record(self) -> dict[str, Any]:
        """What `import.json` says of the source and of what was asked."""
        chosen = asdict(self.options.selection)
        unused = {"seed": self.options.selection.max_users, "below": self.options.selection.min_rating}
        options = {name: value for name, value in chosen.items() if name not in unused or unused[name] is not None}
        options |= {name: getattr(self.options, name) for name in ("media", "items", "malformed_share")}
        return {
            "version": RECORD_VERSION,
            "format": self.source.name,
            "source": [_file(path, self.source.folder, self.progress) for path in self.files],
            "options": options | {"silos": list(self.silos)} | self.source.settings,
            "media": {name: files.counts() for name, files in self.media.items()},
            "malformed": self.malformed.counts,
        }


def _opened(folder: Path, n_rows: int, progress: Progress) -> tuple[ValidationReport, int]:
    """Open the folder as the project will; what validation found, and the number of users."""
    progress("check", 0, n_rows)
    partner = open_partner(folder)
    progress("check", n_rows, n_rows)
    return partner.report, len(partner)


def _media(source: Source, options: ImportOptions) -> dict[str, MediaFiles]:
    unused = sorted(options.folders) if options.media == "none" else []
    if unused:
        raise UsageError(f"a folder of {unused[0]} is given beside --media none", remedy="Leave one of the two out")
    found = {}
    for medium in MEDIA if options.media != "none" else ():
        folder = options.folders.get(medium) or source.media_folder(medium)
        if folder is not None:
            found[medium] = index_media(medium, folder)
        elif medium in source.named_media:
            found[medium] = MediaFiles(medium, source.folder)
    return found


def _same_draw(before: Mapping[str, object], options: ImportOptions) -> None:
    """Refuse to replace a folder by another draw of users that nobody asked for.

    Raises:
        UsageError: the folder's draw has another seed, and none was given.
    """
    known = before.get("options")
    seed = known.get("seed") if isinstance(known, dict) else None
    wanted = options.selection
    if wanted.max_users is not None and not options.seed_given and seed not in {None, wanted.seed}:
        raise UsageError(
            f"the folder holds users drawn with --seed {seed}, and no seed is given",
            remedy=f"Give --seed {seed} to keep them, or another --seed to draw anew",
        )


def _check_rows(rows: Rows, lost: Mapping[str, int]) -> None:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in lost.items())
    if not len(rows):
        raise DataError(
            f"0 rows are left, at least 1 is needed ({reasons})", remedy="Ask for a smaller --k-core, or more rows"
        )
    if len(rows) > DEFAULT_LIMITS.rows:
        raise DataError(
            f"{len(rows):,} rows are left, above the limit of {DEFAULT_LIMITS.rows:,} of a partner folder",
            remedy="Keep fewer with --since, --k-core or --max-users",
        )


def _file(path: Path, folder: Path, progress: Progress) -> dict[str, object]:
    inside = path.resolve().is_relative_to(folder.resolve())
    name = path.resolve().relative_to(folder.resolve()).as_posix() if inside else path.name
    size = path.stat().st_size
    progress(f"sha256 {path.name}", 0, size)
    digest = sha256_of_file(path)
    progress(f"sha256 {path.name}", size, size)
    return {"file": name, "bytes": size, "sha256": digest}
