"""Files that must not be overwritten, and one append-only file with a single writer.

Promise: when `AppendFile.append` returns, the bytes are on disk; while the object lives no other process can open the
file for writing (flock on the file itself); a file that changed under the object is noticed before the next write.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmrec_model.privacy.faults import FaultCode, LedgerFault
from mmrec_model.storage import fsync_folder


def create_file(path: Path, content: bytes, *, mode: int) -> None:
    """Make a file that is whole from its first moment.

    Raises:
        LedgerFault: `EXISTS` if anything is at `path`, `FILE` if it cannot be written.
    """
    with file_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _link_new(path, content, mode)


def _link_new(path: Path, content: bytes, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)
    except FileExistsError as error:
        raise LedgerFault(
            FaultCode.EXISTS, f"{path} exists and is never overwritten", remedy="Open it, or choose another path"
        ) from error
    finally:
        Path(temporary).unlink()
    fsync_folder(path.parent)


@contextmanager
def file_faults(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a `LedgerFault`: `MISSING` or `FILE`."""
    try:
        yield
    except FileNotFoundError as error:
        raise LedgerFault(
            FaultCode.MISSING, f"{path} does not exist", remedy="Check the path, or restore the file from a backup"
        ) from error
    except OSError as error:
        raise LedgerFault(
            FaultCode.FILE,
            f"{path} cannot be read or written: {error.strerror}",
            remedy="Free space, or repair the disk or the permissions",
        ) from error


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Let one process at a time create files in `folder`; made if it is missing."""
    with file_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class FileLock:
    """A lock that is held from the making of the object until `close`; the file is empty and stays.

    Args:
        path: the lock file; made if it is missing.
        remedy: what to do if it is held.

    Raises:
        LedgerFault: `FILE`, or `LOCKED` by another process or object.
    """

    def __init__(self, path: Path, *, remedy: str) -> None:
        self._path = path
        self._process = os.getpid()
        with file_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._stream = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise LedgerFault(
                FaultCode.LOCKED, f"{path} is held by another process or object", remedy=remedy
            ) from error

    def require_held(self) -> None:
        """Refuse work that only the holder may do.

        Raises:
            LedgerFault: `BROKEN` after `close`, or in a child process.
        """
        if self._stream.closed or os.getpid() != self._process:
            raise LedgerFault(
                FaultCode.BROKEN, f"{self._path} is not held by this process", remedy="Open what it protects again"
            )

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        self._stream.close()


class AppendFile:
    """One open, locked file that only grows.

    Raises:
        LedgerFault: `MISSING`, `FILE`, or `LOCKED` by another writer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process = os.getpid()
        with file_faults(path):
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._stream = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stream.close()
            raise LedgerFault(
                FaultCode.LOCKED,
                f"{path} is open in another process or object",
                remedy="End the other session first; a ledger has one writer",
            ) from error
        self._size = os.fstat(descriptor).st_size

    @property
    def is_open(self) -> bool:
        """Whether `append` may still be called."""
        return not self._stream.closed

    def read(self) -> bytes:
        """All bytes."""
        with file_faults(self.path):
            return self.path.read_bytes()

    def append(self, content: bytes) -> None:
        """Write `content` at the end and make it durable.

        A failed write closes the file: what is on disk is unknown until the ledger is opened again.

        Raises:
            LedgerFault: `BROKEN`.
        """
        self._require_unchanged()
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError as error:
            self.close()
            raise _broken(f"writing {self.path} failed: {error.strerror}", "Free space or repair the disk") from error
        self._size += len(content)

    def cut(self, size: int) -> None:
        """Drop everything after the first `size` bytes; only a torn last line is ever cut."""
        self._require_unchanged()
        with file_faults(self.path):
            os.ftruncate(self._stream.fileno(), size)
            os.fsync(self._stream.fileno())
        self._size = size

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        self._stream.close()

    def _require_unchanged(self) -> None:
        if self._stream.closed or os.getpid() != self._process:
            raise _broken(f"{self.path} is not open in this process", "Use a ledger in the process that opened it")
        held = os.fstat(self._stream.fileno())
        try:
            at_path = self.path.stat()
            same = (at_path.st_dev, at_path.st_ino, held.st_size) == (held.st_dev, held.st_ino, self._size)
        except OSError:
            same = False
        if not same:
            self.close()
            raise _broken(f"{self.path} was changed by someone else while it was open", "Find out who wrote to it")


def _broken(problem: str, remedy: str) -> LedgerFault:
    return LedgerFault(FaultCode.BROKEN, problem, remedy=f"{remedy}, then open the ledger again")
