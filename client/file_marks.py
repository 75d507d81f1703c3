"""Whether files are still those that were read: inode, size and times of each, without reading them again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

Marks: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Path, and what its file is recognised by; nothing for a file that is absent."""


def marks_of(paths: Iterable[Path]) -> Marks:
    """Marks of files; equal to an earlier call's if none was changed, replaced, added or removed since."""
    return tuple((str(path), _mark(path)) for path in paths)


def _mark(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
