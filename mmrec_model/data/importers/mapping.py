"""Which file and column of a person's own tables means what: from a TOML file, or from `--map KEY=COLUMN`.

The keys are `user`, `item`, `time`, `rating`, `event`, `file`, `time_unit`, `delimiter` and `encoding` of the
interactions, `items.*` and `users.*` of the other tables. A key that is not known is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmrec_model.errors import UsageError

_TABLES = ("interactions", "items", "users")
_LISTS = frozenset({"items.text", "users.silo"})
_REMEDY = "The keys are in docs/data.md"


class _Table(BaseModel):
    """What every table has."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    delimiter: str = Field(default=",", min_length=1, max_length=2, pattern=r"^(.|\t|::)$")
    encoding: str = "utf-8"


class InteractionsMap(_Table):
    """The table of interactions; `file` may be left out where the folder holds one table."""

    file: str | None = None
    user: str
    item: str
    time: str
    rating: str | None = None
    event: str | None = None
    time_unit: Literal["s", "ms", "iso"] = "s"

    @model_validator(mode="after")
    def _one_meaning_each(self) -> Self:
        columns = [name for name in (self.user, self.item, self.time, self.rating, self.event) if name is not None]
        if len(set(columns)) < len(columns):
            raise ValueError(f"a column is mapped twice in {', '.join(columns)}")
        return self


class ItemsMap(_Table):
    """The table of items; `text` is one or several columns."""

    file: str
    item: str
    title: str | None = None
    text: tuple[str, ...] = ()
    category: str | None = None
    image: str | None = None
    audio: str | None = None
    video: str | None = None


class UsersMap(_Table):
    """The table of users; `silo` is one or several columns."""

    file: str
    user: str
    silo: tuple[str, ...] = Field(min_length=1)


class ColumnMapping(BaseModel):
    """All tables."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    interactions: InteractionsMap
    items: ItemsMap | None = None
    users: UsersMap | None = None


def read_mapping(path: Path) -> ColumnMapping:
    """The mapping of a TOML file.

    Raises:
        UsageError: it cannot be read, or a key or value of it is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the mapping {path} cannot be read: {error}", remedy=_REMEDY) from error
    return _checked(document, path.name)


def mapping_of(pairs: Sequence[str]) -> ColumnMapping:
    """The mapping of `KEY=COLUMN` pairs; a key of a list can be given more than once.

    Raises:
        UsageError: a pair has no `=`, a key is given twice, or a key or value is wrong.
    """
    document: dict[str, dict[str, object]] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        table, _, name = key.rpartition(".")
        table = table or _TABLES[0]
        if not name or not value:
            raise UsageError(f"--map {pair} is not KEY=COLUMN", remedy=_REMEDY)
        values = document.setdefault(table, {})
        if f"{table}.{name}" in _LISTS:
            values[name] = [*_listed(values.get(name)), value]
        elif name in values:
            raise UsageError(f"--map gives {key} twice", remedy="Give it once")
        else:
            values[name] = value
    return _checked(document, "--map")


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _checked(document: dict[str, dict[str, object]], name: str) -> ColumnMapping:
    for table, key in (entry.split(".") for entry in _LISTS):
        value = document.get(table, {}).get(key)
        if isinstance(value, str | list):
            document[table][key] = (value,) if isinstance(value, str) else tuple(value)
    try:
        return ColumnMapping.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{name}: {place}: {first['msg']}", remedy=_REMEDY) from error
