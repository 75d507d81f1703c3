"""The rows of `users.*`: what a partner may say about its users, by user id. The file is optional."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmrec_model.data.columns import filled_text, text_values
from mmrec_model.data.media import media_paths
from mmrec_model.data.schema import DEFAULT_LIMITS, SILO_PREFIX, USERS, Limits
from mmrec_model.data.tables import RawTable, find_file, read_table
from mmrec_model.data.validation import Quarantine, ValidationReport, check_ids, first_positions


def read_user_columns(folder: Path, *, limits: Limits = DEFAULT_LIMITS) -> dict[str, dict[str, str]]:
    """Columns of `users.*` by user id: those named `silo_*`, and `text` and `image`.

    Returns:
        An empty dictionary without such a file. A missing value is "". `image` is an absolute path inside the
        folder. Of two rows with one user id the first counts.

    Raises:
        DataError: the file exists and cannot be used as a whole.
    """
    if find_file(Path(folder), USERS) is None:
        return {}
    raw, quarantine, ids = _checked(Path(folder), limits)
    columns = {name: filled_text(raw, name).to_pylist() for name in raw.table.column_names if _is_plain(name)}
    if raw.has("image"):
        columns["image"] = [str(path) if path else "" for path in media_paths(raw, "image", quarantine)]
    quarantine.report(limits)
    kept = quarantine.kept_R.tolist()
    return {user: {name: values[row] for name, values in columns.items()} for row, user in enumerate(ids) if kept[row]}


def check_users(folder: Path, active: Iterable[str], *, limits: Limits) -> ValidationReport:
    """Report on `users.*`: its quarantine, and how many of its users have no interaction.

    Args:
        folder: the partner folder.
        active: ids of the users with a usable interaction.
        limits: bounds of the file.

    Raises:
        DataError: the file exists and cannot be used as a whole.
    """
    if find_file(folder, USERS) is None:
        return ValidationReport()
    raw, quarantine, ids = _checked(folder, limits)
    if raw.has("image"):
        media_paths(raw, "image", quarantine)
    known = {user for user, kept in zip(ids, quarantine.kept_R.tolist(), strict=True) if kept}
    idle = len(known.difference(active))
    if idle:
        quarantine.notice(f"{raw.name}: {idle:,} users have no usable interaction and take no part")
    return quarantine.report(limits)


def _checked(folder: Path, limits: Limits) -> tuple[RawTable, Quarantine, list[str]]:
    raw = read_table(folder, USERS, limits)
    quarantine = Quarantine(raw)
    ids = check_ids(text_values(raw, "user_id"), "user_id", quarantine, limits)
    quarantine.reject("duplicate_user_id", ~first_positions(ids.codes_R), "user_id")
    return raw, quarantine, ids.values.take(ids.codes_R).to_pylist()


def _is_plain(column: str) -> bool:
    return column == "text" or column.startswith(SILO_PREFIX)
