"""`partners.json`: who takes part, as the operator enrolled it, and who no longer does.

    {NAME: PUBLIC_KEY | {"key", "node_key", "users", "opening", "enrolled", "revoked": {"at", "reason"} | null}}

A partner that was enrolled by its key alone (`mmrec coordinator enrol FOLDER NAME KEY`, and every simulated one) is its
public key, 64 hexadecimal digits; one that brought an `enrolment.json` is an object. The list is replaced as a whole,
and only while `partners.lock` is held. A revocation needs no other lock, so that it can be made while a run is under
way; the run reads it before it uses the next reply (`RevocationList`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from mmrec_model.config_types import Count, Digest, Strict
from mmrec_model.enrolment_file import NodeKey
from mmrec_model.errors import ConfigError
from mmrec_model.federation_file import Moment
from mmrec_model.privacy.files import FileLock, file_faults
from mmrec_model.storage import write_atomically

PARTNERS: Final = "partners.json"
_LOCK: Final = "partners.lock"


class Revocation(Strict):
    """That a partner takes part no longer.

    Attributes:
        at: when.
        reason: the operator's words.
    """

    at: Moment
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class Partner(Strict):
    """One enrolled partner.

    Attributes:
        key: the public key that was enrolled; the ledger may have rotated to another since (`heads.json`).
        node_key: public key by which its node logs in; None if it was enrolled by its key alone.
        users: the public number of users that it enrolled with; None likewise.
        opening: hash of the first record of its ledger; None likewise.
        enrolled: when; None likewise.
        revoked: that it takes part no longer.
    """

    key: Digest
    node_key: NodeKey | None = None
    users: Count | None = None
    opening: Digest | None = None
    enrolled: Moment | None = None
    revoked: Revocation | None = None


def read_list(path: Path) -> dict[str, Partner]:
    """All partners by name, revoked ones too.

    Raises:
        ConfigError: not readable, not as above, or two partners with one key.
    """
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise TypeError("it is no object")
        partners = {str(name): _read(value) for name, value in values.items()}
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _unreadable(path, f"{place}: {first['msg']}, got {str(first['input'])[:80]!r}") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    for what, keys in (("key", [one.key for one in partners.values()]), ("node key", _node_keys(partners))):
        if len(set(keys)) < len(keys):
            raise ConfigError(f"{path} gives two partners one {what}", remedy="Every partner makes keys of its own")
    return partners


def write_list(path: Path, partners: Mapping[str, Partner]) -> None:
    """Replace the list.

    Raises:
        LedgerFault: it cannot be written.
    """
    values = {
        name: partner.key if partner == Partner(key=partner.key) else partner.model_dump()
        for name, partner in sorted(partners.items())
    }
    with file_faults(path):
        write_atomically(path, json.dumps(values, indent=1).encode() + b"\n")


@contextmanager
def changed_list(folder: Path) -> Iterator[dict[str, Partner]]:
    """The list of a coordinator's folder, to be changed; it is written when the block ends without an error.

    Raises:
        ConfigError: it cannot be read.
        LedgerFault: `LOCKED` while another command changes it; `FILE` if it cannot be written.
    """
    path = folder / PARTNERS
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder", remedy="Name the coordinator's folder")
    lock = FileLock(folder / _LOCK, remedy="Wait for the other `mmrec coordinator` command")
    try:
        partners = read_list(path) if path.exists() else {}
        yield partners
        write_list(path, partners)
    finally:
        lock.close()


def revoke(folder: Path, name: str, *, reason: str, now: datetime) -> Partner:
    """End a partner's part, also in a run that is under way: what it sends from now on is refused.

    Args:
        folder: the coordinator's.
        name: of the partner.
        reason: the operator's words.
        now: the time.

    Raises:
        ConfigError: no such partner, it is revoked already, or the reason is empty or above 500 characters.
        LedgerFault: see `changed_list`.
    """
    if not 1 <= len(reason.strip()) <= 500:
        raise ConfigError(
            f"the reason has {len(reason)} characters, the limits are 1 and 500", remedy="Say why in a sentence"
        )
    with changed_list(folder) as partners:
        if name not in partners:
            raise ConfigError(f"no partner '{name}' is enrolled", remedy="See `mmrec coordinator partners`")
        former = partners[name].revoked
        if former is not None:
            raise ConfigError(f"'{name}' was revoked at {former.at}: {former.reason}", remedy="Nothing is to be done")
        revocation = Revocation(at=moment(now), reason=reason.strip())
        partners[name] = partners[name].model_copy(update={"revoked": revocation})
        return partners[name]


def moment(now: datetime) -> str:
    """A time as files hold it: UTC, to the second."""
    return now.astimezone(UTC).isoformat(timespec="seconds")


class RevocationList:
    """The revocations of a list, read again whenever the file was replaced.

    Args:
        path: the list; if there is none, nobody is revoked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: _Mark | None = None
        self._revoked: dict[str, Revocation] = {}

    def of(self, name: str) -> Revocation | None:
        """The revocation of a partner, as the file says now.

        Raises:
            ConfigError: the file cannot be read.
        """
        mark = _mark(self._path)
        if mark != self._mark:
            partners = {} if mark is None else read_list(self._path)
            self._revoked = {known: one.revoked for known, one in partners.items() if one.revoked is not None}
            self._mark = mark
        return self._revoked.get(name)


@dataclass(frozen=True)
class _Mark:
    inode: int
    size: int
    changed: int


def _mark(path: Path) -> _Mark | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _Mark(status.st_ino, status.st_size, status.st_mtime_ns)


def _read(value: object) -> Partner:
    fields = {"key": value} if isinstance(value, str) else value
    return Partner.model_validate_json(json.dumps(fields))


def _node_keys(partners: Mapping[str, Partner]) -> list[str]:
    return [one.node_key for one in partners.values() if one.node_key is not None]


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be read: {why}", remedy="Write one object, name -> public key; see docs/coordinator.md"
    )
