"""What a value in a ledger record may be: a small, closed vocabulary of field kinds.

A field is checked in its *stored* form, the JSON that is hashed, so that writing and reading apply the same check.
There a float is a decimal string; `read` gives it back as a float. Every value has one stored form only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from mmrec_model.canonical import JsonValue
from mmrec_model.privacy.faults import FaultCode, LedgerFault

LARGEST_WHOLE: Final = 2**53 - 1
"""Largest whole number that every JSON reader keeps exactly."""

_LEAKS: Final = re.compile(
    r"batch_sizes?|(.*_)?(losses|loss|seeds?|norms|ids|clipped|clip_fraction|sampled|reali[sz]ed|abort)(_.*)?"
    r"|(gradient|grad|update)_norm"
)


def is_leak(name: str) -> bool:
    """Whether `name` is one of the facts that never enter a ledger, because they depend on who was in a batch.

    These are realised batch sizes, sampled ids, clipped fractions, losses, norms, seeds and reasons of an abort.
    `max_grad_norm` and other public limits are not.
    """
    return _LEAKS.fullmatch(name.lower()) is not None


class Field(Protocol):
    """One kind of value."""

    def read(self, value: JsonValue, place: str) -> object:
        """Check the stored `value` and return it typed.

        Args:
            value: stored form.
            place: where it stands, for the message.

        Raises:
            LedgerFault: `SCHEMA`, or `LEAK`.
        """


@dataclass(frozen=True)
class Text:
    """Printable text that matches `pattern` as a whole."""

    pattern: str = r"[^\x00-\x1f\x7f]{1,200}"

    def read(self, value: JsonValue, place: str) -> str:
        """See `Field.read`."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise _refused(place, value, f"text like {self.pattern}")
        return value


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `least`."""

    least: int = 0

    def read(self, value: JsonValue, place: str) -> int:
        """See `Field.read`."""
        if type(value) is not int or not self.least <= value <= LARGEST_WHOLE:
            raise _refused(place, value, f"a whole number from {self.least} to 2^53 - 1")
        return value


@dataclass(frozen=True)
class Number:
    """A finite float, stored as the shortest decimal string that reads back to it.

    Attributes:
        above: limit below, not included.
        least: limit below, included.
        most: limit above, included.
    """

    above: float = -math.inf
    least: float = -math.inf
    most: float = math.inf

    def read(self, value: JsonValue, place: str) -> float:
        """See `Field.read`."""
        number = _decimal(value)
        if number is None or not (self.above < number and self.least <= number <= self.most):
            limits = f"above {self.above}, from {self.least} to {self.most}"
            raise _refused(place, value, f"a float {limits}, in its shortest form")
        return number


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, value: JsonValue, place: str) -> bool:
        """See `Field.read`."""
        if not isinstance(value, bool):
            raise _refused(place, value, "true or false")
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    options: tuple[str, ...]

    def read(self, value: JsonValue, place: str) -> str:
        """See `Field.read`."""
        if not isinstance(value, str) or value not in self.options:
            raise _refused(place, value, f"one of {', '.join(self.options)}")
        return value


@dataclass(frozen=True)
class Nullable:
    """A value or null; the field itself is never absent."""

    kind: Field

    def read(self, value: JsonValue, place: str) -> object:
        """See `Field.read`."""
        return None if value is None else self.kind.read(value, place)


@dataclass(frozen=True)
class Setting:
    """A configuration value: text, whole number, float as decimal string, flag or null."""

    def read(self, value: JsonValue, place: str) -> object:
        """See `Field.read`."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return Whole(-LARGEST_WHOLE).read(value, place)
        return Text().read(value, place)


@dataclass(frozen=True)
class Table:
    """Exactly the named fields."""

    fields: Mapping[str, Field]

    def read(self, value: JsonValue, place: str) -> dict[str, object]:
        """See `Field.read`."""
        if not isinstance(value, dict):
            raise _refused(place, value, "an object")
        _refuse_leaks(set(value) - set(self.fields), place)
        odd = sorted(set(value) ^ set(self.fields))
        if odd:
            raise LedgerFault(
                FaultCode.SCHEMA,
                f"{place} has missing or unknown fields {odd[:5]}",
                remedy=f"Give exactly {', '.join(sorted(self.fields)) or 'no field'}",
            )
        return {name: kind.read(value[name], f"{place}.{name}") for name, kind in self.fields.items()}


@dataclass(frozen=True)
class Entries:
    """Any number of named values of one kind."""

    kind: Field

    def read(self, value: JsonValue, place: str) -> dict[str, object]:
        """See `Field.read`."""
        if not isinstance(value, dict):
            raise _refused(place, value, "an object")
        _refuse_leaks(value.keys(), place)
        return {Text().read(name, place): self.kind.read(item, f"{place}.{name}") for name, item in value.items()}


@dataclass(frozen=True)
class Rows:
    """A list of values of one kind."""

    kind: Field

    def read(self, value: JsonValue, place: str) -> tuple[object, ...]:
        """See `Field.read`."""
        if not isinstance(value, list):
            raise _refused(place, value, "a list")
        return tuple(self.kind.read(item, f"{place}[{index}]") for index, item in enumerate(value))


@dataclass(frozen=True)
class Variants:
    """An object whose field `type` says which other fields it has."""

    tables: Mapping[str, Mapping[str, Field]]

    def read(self, value: JsonValue, place: str) -> dict[str, object]:
        """See `Field.read`."""
        tag = value.get("type") if isinstance(value, dict) else None
        if not isinstance(tag, str) or tag not in self.tables:
            raise _refused(f"{place}.type", tag, f"one of {', '.join(self.tables)}")
        return Table({"type": Choice((tag,)), **self.tables[tag]}).read(value, place)


def _decimal(value: JsonValue) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and repr(number) == value else None


def _refuse_leaks(names: Iterable[str], place: str) -> None:
    leaks = sorted(name for name in names if is_leak(name))
    if leaks:
        raise LedgerFault(
            FaultCode.LEAK,
            f"{place} holds {leaks[:5]}, which tells something about the users of a batch",
            remedy="Keep it in a local file; a ledger holds public facts only",
        )


def _refused(place: str, value: JsonValue, limit: str) -> LedgerFault:
    return LedgerFault(
        FaultCode.SCHEMA, f"{place} is {str(value)[:80]!r}, the ledger takes {limit}", remedy="Correct the field"
    )
