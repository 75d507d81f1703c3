"""Raw vectors, kept by what was encoded and by whom: nothing is ever encoded twice.

Promises:
1. The key of a vector is SHA-256 over the encoder's digest and the digest of the medium's bytes; names, folders and
   times play no part.
2. Files only grow. Vectors are made durable before the index names them, so after a crash at any moment the index
   names whole vectors only; an unfinished tail is dropped on the next opening. A chunk is made durable while the next
   one is encoded, so the encoder does not wait for the disk.
3. A vector whose checksum does not fit is encoded again, never returned.
4. A damaged medium is remembered as such; an absent one is not, because it may come back.

    ROOT/<encoder digest>/vectors.f32    little-endian float32 rows
    ROOT/<encoder digest>/index.jsonl    {"crc": ..., "key": ..., "row": ...} per medium; row null = not encodable
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmrec_model.canonical import sha256_hex
from mmrec_model.encoders.interface import Encoder, Mask, Vectors
from mmrec_model.encoders.streaming import parts_of
from mmrec_model.errors import FeatureError
from mmrec_model.storage import sha256_of_file

Progress = Callable[[int, int], None]
"""Told how many inputs are settled, and how many of them could not be read."""


def vector_store() -> Path:
    """Folder of raw vectors: `$MMREC_CACHE`, else `$XDG_CACHE_HOME/mmrec`, else `~/.cache/mmrec`."""
    if named := os.environ.get("MMREC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmrec"


class Entry(NamedTuple):
    """Where a medium's vector lies: row and CRC-32, or (None, 0) for a medium that could not be encoded."""

    row: int | None
    crc: int


class FeatureStore:
    """All raw vectors below one folder, shared by any number of catalogues and encoders."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get_or_encode(
        self, encoder: Encoder, inputs: Sequence[str | Path], *, progress: Progress | None = None, chunk: int = 256
    ) -> tuple[Vectors, Mask, int]:
        """Vectors of `inputs`, encoding what the store does not hold yet.

        Args:
            encoder: of the medium of all inputs.
            inputs: texts, or paths of media files.
            progress: told the numbers of settled and of unreadable inputs, first those that were known, then after
                each chunk.
            chunk: inputs encoded between two durable writes. A call that an exception ends keeps all finished chunks;
                one that is killed loses at most the last finished one beside the one at work.

        Returns:
            float32 [n, dim], bool [n] (False = not encodable, row of zeros), and how many inputs were encoded anew.

        Raises:
            FeatureError: the store cannot be read or written.
        """
        keys = [media_key(encoder.digest, medium) for medium in inputs]
        media = {key: medium for key, medium in zip(keys, inputs, strict=True) if key is not None}
        try:
            with _locked(self._root / encoder.digest) as folder:
                shard = _Shard(folder, encoder.dim)
                missing = shard.missing(media)
                tally = _Tally(Counter(keys), shard, progress)
                tally.settle(set(tally.repeats) - set(missing))
                parts = [missing[start : start + chunk] for start in range(0, len(missing), chunk)]
                encoded = parts_of(encoder, [[media[key] for key in part] for part in parts])
                _append_behind(shard, tally, zip(parts, encoded, strict=True))
                return *shard.read(keys), len(missing)
        except OSError as error:
            raise FeatureError(
                f"the feature store {self._root} cannot be used: {error.strerror or error}",
                remedy="Give a folder on a local disk that this process may write, with room for the vectors",
            ) from error


class _Shard:
    """The vectors of one encoder."""

    def __init__(self, folder: Path, dim: int) -> None:
        self._vectors, self._index, self._dim = folder / "vectors.f32", folder / "index.jsonl", dim
        self._vectors.touch()
        self._index.touch()
        self.entries: dict[str, Entry] = {}
        self._rows = 0
        self._mapped: Vectors | None = None
        self._recover()

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without an entry, and those whose vector no longer fits its checksum."""
        return [key for key in keys if key not in self.entries or not self._is_intact(self.entries[key])]

    def append(self, keys: Sequence[str], vectors: Vectors, ok: Mask) -> None:
        """Add new media: vectors first, then the index that names them, each made durable."""
        kept = np.ascontiguousarray(vectors[ok], dtype="<f4")
        rows = iter(range(self._rows, self._rows + len(kept)))
        entries = {
            key: Entry(next(rows), _checksum(vector)) if good else Entry(None, 0)
            for key, vector, good in zip(keys, vectors, ok, strict=True)
        }
        _append(self._vectors, kept.tobytes())
        _append(self._index, b"".join(_index_line(key, entry) for key, entry in entries.items()))
        self._rows += len(kept)
        self.entries.update(entries)

    def read(self, keys: Sequence[str | None]) -> tuple[Vectors, Mask]:
        """Rows by key; zeros and False where the medium was absent or could not be encoded."""
        found = [None if key is None else self.entries[key].row for key in keys]
        ok = np.array([row is not None for row in found], dtype=bool)
        vectors = np.zeros((len(keys), self._dim), dtype=np.float32)
        if ok.any():
            vectors[ok] = self._rows_on_disk()[[row for row in found if row is not None]]
        return vectors, ok

    def _recover(self) -> None:
        """Read the index up to its first damaged line, cut both files there."""
        content = self._index.read_bytes()
        whole_rows = self._vectors.stat().st_size // (4 * self._dim)
        intact = 0
        for line in content.splitlines(keepends=True):
            parsed = _parse_line(line)
            if parsed is None or (parsed[1].row is not None and parsed[1].row != self._rows):
                break
            if parsed[1].row is not None and parsed[1].row >= whole_rows:
                break
            self._rows += parsed[1].row is not None
            self.entries[parsed[0]] = parsed[1]
            intact += len(line)
        if intact < len(content):
            os.truncate(self._index, intact)
        os.truncate(self._vectors, self._rows * 4 * self._dim)

    def _is_intact(self, entry: Entry) -> bool:
        return entry.row is None or _checksum(self._rows_on_disk()[entry.row]) == entry.crc

    def _rows_on_disk(self) -> Vectors:
        if self._mapped is None or len(self._mapped) != self._rows:
            self._mapped = np.memmap(self._vectors, dtype="<f4", mode="r", shape=(self._rows, self._dim))
        return self._mapped


class _Tally:
    """Which inputs are settled; an input counts as often as it was given."""

    def __init__(self, repeats: Counter[str | None], shard: _Shard, progress: Progress | None) -> None:
        self.repeats, self._shard, self._progress = repeats, shard, progress
        self._settled = self._unreadable = 0

    def settle(self, keys: Iterable[str | None]) -> None:
        """Count `keys`, which the shard knows, or None for media that are absent, and report."""
        for key in keys:
            self._settled += self.repeats[key]
            self._unreadable += self.repeats[key] if key is None or self._shard.entries[key].row is None else 0
        if self._progress is not None:
            self._progress(self._settled, self._unreadable)


def _append_behind(shard: _Shard, tally: _Tally, chunks: Iterable[tuple[Sequence[str], tuple[Vectors, Mask]]]) -> None:
    """Append every chunk while the next one is encoded; on an exception all finished chunks are still written."""
    last: tuple[Sequence[str], Future[None]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="store") as disk:
        for keys, (vectors, ok) in chunks:
            if last is not None:
                last[1].result()
                tally.settle(last[0])
            last = keys, disk.submit(shard.append, keys, vectors, ok & np.isfinite(vectors).all(axis=1))
        if last is not None:
            last[1].result()
            tally.settle(last[0])


def media_key(encoder_digest: str, medium: str | Path) -> str | None:
    """The store's key of a medium, or None for a file that cannot be read."""
    content = content_digest(medium)
    return None if content is None else hashlib.sha256(f"{encoder_digest}:{content}".encode()).hexdigest()


def content_digest(medium: str | Path) -> str | None:
    """SHA-256 of a text or of a file's bytes, or None for a file that cannot be read."""
    if isinstance(medium, str):
        return sha256_hex(medium.encode("utf-8", "surrogatepass"))
    try:
        return sha256_of_file(medium)
    except OSError:
        return None


def _checksum(vector: Vectors) -> int:
    return zlib.crc32(np.ascontiguousarray(vector, dtype="<f4").tobytes())


def _index_line(key: str, entry: Entry) -> bytes:
    return json.dumps({"crc": entry.crc, "key": key, "row": entry.row}).encode() + b"\n"


def _parse_line(line: bytes) -> tuple[str, Entry] | None:
    """Key and entry of a whole, well-formed line, else None."""
    try:
        value = json.loads(line)
        key, row, crc = value["key"], value["row"], value["crc"]
    except (ValueError, KeyError, TypeError):
        return None
    plain = isinstance(key, str) and type(crc) is int and (row is None or type(row) is int)
    return (key, Entry(row, crc)) if plain and line.endswith(b"\n") else None


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Make `folder` and hold it alone: a second process waits, then finds the first one's vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield folder
