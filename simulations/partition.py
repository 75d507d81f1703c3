"""Users to partners, and one partner-format folder to one folder per site.

Laws: every user is at exactly one partner; partner names are folder-safe and unique; the same input gives the same
partners. Sites hold interactions and users, with the users' own pictures: the catalogue (items and media) is public and
stays where it is, its path is recorded in `workspace/catalogue.json`.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmrec_model.data.columns import filled_text, text_values
from mmrec_model.data.media import resolve_inside
from mmrec_model.data.schema import DEFAULT_LIMITS, INTERACTIONS, ITEMS, SILO_PREFIX, USERS
from mmrec_model.data.split_rules import SplitRule
from mmrec_model.data.tables import RawTable, find_file, read_table
from mmrec_model.errors import DataError, UsageError
from mmrec_model.storage import write_atomically
from simulations.pinning import pin_split

Groups: TypeAlias = dict[str, list[str]]
"""Partner name to its users, both in sorted order."""

MINIMUM_USERS = 50
"""Below this a partner's noise drowns its signal, and its small size says too much about who is in it."""
UNKNOWN, OTHERS = "unknown", "others"
LONGEST_NAME = 40
CATALOGUE_FILE = "catalogue.json"


def read_users(source: Path) -> dict[str, dict[str, str]]:
    """Every user of a partner-format folder with the `silo_*` values that the users table gives; "" where missing.

    Users with interactions but without a row in the users table are there too, without values.

    Raises:
        DataError: a table is missing or unreadable.
    """
    interactions = read_table(source, INTERACTIONS, DEFAULT_LIMITS)
    ids = pc.unique(pc.drop_null(text_values(interactions, "user_id"))).to_pylist()
    users: dict[str, dict[str, str]] = {user: {} for user in ids}
    if find_file(source, USERS) is not None:
        raw = read_table(source, USERS, DEFAULT_LIMITS)
        columns = [name for name in raw.table.column_names if name.startswith(SILO_PREFIX)]
        cells = [filled_text(raw, column).to_pylist() for column in columns]
        for user, *values in zip(text_values(raw, "user_id").to_pylist(), *cells, strict=True):
            if user is not None:
                users[user] = dict(zip(columns, values, strict=True))
    return users


def partition_by_column(
    users: Mapping[str, Mapping[str, str]], column: str, *, minimum_users: int = MINIMUM_USERS
) -> Groups:
    """Group users by their value of `column`.

    Args:
        users: per user id, the values of the columns; a user may lack the column or have an empty value.
        column: such as `silo_region`.
        minimum_users: partners with fewer are merged into one named `others`, which may itself stay smaller. Users
            without a value form the partner `unknown`, which is kept or merged like any other.

    Raises:
        UsageError: no user has a value of the column, or `minimum_users` is below 1.
    """
    if minimum_users < 1:
        raise UsageError(f"minimum_users is {minimum_users}, the least is 1", remedy="Ask for 1 or more")
    by_value: dict[str, list[str]] = defaultdict(list)
    for user in sorted(users):
        by_value[(users[user].get(column) or "").strip()].append(user)
    if users and set(by_value) == {""}:
        columns = sorted({name for values in users.values() for name in values})
        raise UsageError(
            f"no user has a value in column {column!r}, the columns are {columns}",
            remedy="Name one of these columns, or ask for a number of partners",
        )
    large: dict[str, list[str]] = {}
    small: list[str] = []
    for value, members in by_value.items():
        if len(members) < minimum_users:
            small += members
        else:
            large[value] = members
    names = _unique_slugs(large, taken={OTHERS} if small else set())
    groups = {names[value]: members for value, members in large.items()}
    if small:
        groups[OTHERS] = sorted(small)
    return dict(sorted(groups.items()))


def partition_evenly(user_ids: Collection[str], partners: int, seed: int) -> Groups:
    """Shuffle users into `partners` groups whose sizes differ by at most one, named `partner-1` and so on.

    Raises:
        UsageError: fewer than one partner, or more partners than users.
    """
    ordered = sorted(set(user_ids))
    if not 1 <= partners <= len(ordered):
        raise UsageError(
            f"{partners} partners for {len(ordered)} users, the number must lie in 1..{len(ordered)}",
            remedy="Ask for fewer partners, at least 1",
        )
    random.Random(seed).shuffle(ordered)  # noqa: S311 - who is where in a simulation is not a secret
    width = len(str(partners))
    return {f"partner-{place + 1:0{width}d}": sorted(ordered[place::partners]) for place in range(partners)}


def slug(text: str) -> str:
    """Lower-case ASCII letters, digits and single hyphens, at most 40; `partner` where nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST_NAME].strip("-") or "partner"


def write_sites(
    source: Path, workspace: Path, groups: Mapping[str, Sequence[str]], split: SplitRule | None = None
) -> list[Path]:
    """Split a partner-format folder into `workspace/sites/<name>/data/`, one folder per partner.

    Each site gets its own users' interactions and, where the source has them, its rows of the users table, as Parquet,
    with the pictures that they name.
    Interactions of users in no group reach no site.

    Args:
        source: partner-format folder; columns outside the format are left behind.
        workspace: created if absent.
        groups: partner name to user ids, as the functions above return it.
        split: pinned in every site's interactions, in place of what the source pins; by default nothing is changed.

    Returns:
        The data folders, in the order of `groups`.

    Raises:
        DataError: a table is missing or unreadable, or a user is in two groups.
        UsageError: a partner's name is not folder-safe.
    """
    _check_groups(groups)
    if find_file(source, ITEMS) is None:
        raise DataError(f"{source} holds no items.parquet or items.csv", remedy="Name a folder in the partner format")
    interactions = read_table(source, INTERACTIONS, DEFAULT_LIMITS)
    if split is not None:
        interactions = pin_split(source, interactions, split)
    users = read_table(source, USERS, DEFAULT_LIMITS) if find_file(source, USERS) is not None else None
    folders = []
    for name, members in groups.items():
        folder = workspace / "sites" / name / "data"
        _write_table(folder / "interactions.parquet", _rows_of(interactions, members))
        if users is not None:
            own = _rows_of(users, members)
            _copy_pictures(source, folder, own)
            _write_table(folder / "users.parquet", own)
        folders.append(folder)
    record = json.dumps({"catalogue": str(source.resolve())}, indent=2) + "\n"
    write_atomically(workspace / CATALOGUE_FILE, record.encode())
    return folders


def catalogue_of(workspace: Path) -> Path:
    """The folder with the public items and media that the sites of `workspace` share.

    Raises:
        DataError: `write_sites` has not run here, or the folder has gone.
    """
    path = workspace / CATALOGUE_FILE
    try:
        catalogue = Path(json.loads(path.read_bytes())["catalogue"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} names no catalogue ({type(error).__name__})", remedy="Write the sites again"
        ) from error
    if not catalogue.is_dir():
        raise DataError(f"the catalogue {catalogue} named by {path} is not a folder", remedy="Write the sites again")
    return catalogue


def _unique_slugs(values: Collection[str], taken: set[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    used = set(taken)
    for value in sorted(values):
        stem = slug(value) if value else UNKNOWN
        name, number = stem, 2
        while name in used:
            name, number = f"{stem}-{number}", number + 1
        used.add(name)
        names[value] = name
    return names


def _check_groups(groups: Mapping[str, Sequence[str]]) -> None:
    home: dict[str, str] = {}
    for name, members in groups.items():
        if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) is None:
            raise UsageError(f"{name!r} is no safe folder name", remedy=f"Call the partner {slug(name)!r}")
        for user in members:
            if home.setdefault(user, name) != name:
                raise DataError(
                    f"a user is at two partners, {home[user]} and {name}", remedy="Give every user one partner"
                )


def _rows_of(raw: RawTable, members: Sequence[str]) -> pa.Table:
    wanted = pa.array(members, pa.large_string())
    return raw.table.filter(pc.is_in(text_values(raw, "user_id"), value_set=wanted))


def _copy_pictures(source: Path, folder: Path, users: pa.Table) -> None:
    """Copy the users' pictures to the same places below `folder`; what leaves the source's folder is no picture."""
    if "image" not in users.column_names:
        return
    root = source.resolve()
    for cell in {str(cell) for cell in users.column("image").to_pylist() if cell}:
        found = resolve_inside(root, cell)
        if isinstance(found, Path):
            (folder / cell).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, folder / cell)


def _write_table(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())
