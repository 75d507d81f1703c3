"""`mmrec site check`: whether a site can take part, found out before it does, in a numbered list.

Every check stands alone: it says what it found, the limit, and what to do, and one that fails stops no other. Reads the
site's own files and, unless told otherwise, connects to the one address that `federation.json` names; sends nothing of
the site there. Nothing is charged and nothing is changed. Chance, time and the machine are in `Surroundings`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from mmrec_model.canonical import JsonValue
from mmrec_model.errors import MmrecError

logger = logging.getLogger(__name__)

Level = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        level: `skipped` if there is nothing to check here, with the reason as value.
        value: what was found.
        limit: what it was compared with; empty where that says nothing.
        remedy: what to do; empty if it is ok.
    """

    level: Level
    value: str
    limit: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Result:
    """A finding with its place in the list."""

    number: int
    name: str
    finding: Finding

    def to_json(self) -> dict[str, JsonValue]:
        """The flat mapping."""
        return {"number": self.number, "name": self.name, **asdict(self.finding)}


def ok(value: str, limit: str = "") -> Finding:
    """Nothing is to be done."""
    return Finding("ok", value, limit)


def warning(value: str, limit: str, remedy: str) -> Finding:
    """The site can take part, and somebody should look at this."""
    return Finding("warning", value, limit, remedy)


def failed(value: str, limit: str, remedy: str) -> Finding:
    """The site cannot take part, or must not."""
    return Finding("failed", value, limit, remedy)


def skipped(why: str) -> Finding:
    """There is nothing to check."""
    return Finding("skipped", why)


@dataclass(frozen=True)
class Surroundings:
    """What the checks ask of the machine.

    Attributes:
        now: the moment, with a time zone.
        free_bytes: free space of the file system that a folder lies on.
        timeout: seconds to wait for the network, per connection.
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    timeout: float = 5.0


Check: TypeAlias = tuple[str, Callable[[], Finding]]
"""A name and what to call."""


def run_checks(checks: Iterable[Check]) -> tuple[Result, ...]:
    """Run all checks in order; what one raises is its finding."""
    return tuple(Result(number, name, _found(name, check)) for number, (name, check) in enumerate(checks, 1))


def passed(results: Iterable[Result]) -> bool:
    """Whether none failed."""
    return all(result.finding.level != "failed" for result in results)


def _found(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except MmrecError as error:
        return failed(error.problem, "", error.remedy)
    except Exception as error:
        logger.exception("the check '%s' failed unexpectedly", name)
        return failed(f"unexpected {type(error).__name__}: {error}", "", "Report it with the site's log")
