"""What a decoder is asked for, and the answer as plain arrays: the one door between media files and encoders.

Nothing here or below imports torch, so a process that decodes stays small. The answer travels between processes as a
line of JSON (element type and shapes) and raw bytes, never as a pickle: a decoder that a hostile file has taken over
can send wrong numbers and nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Arrays: TypeAlias = list[npt.NDArray[np.uint8]] | list[npt.NDArray[np.float32]]
"""One array per picture, sound or frame; never empty."""

MAX_ANSWER_BYTES = 1 << 36
_TYPES = ("uint8", "float32")


@dataclass(frozen=True)
class Reading:
    """One way to read a file.

    Attributes:
        kind: `picture` (uint8 [H, W, 3]), `sound` (float32 [L], without the silence at its end), `levels` (float32
            [F, 64], log-mel up to the last frame that is heard), `heard` (the same without silent frames), or `film`
            (frames, each as a picture).
        rate: samples per second of `sound`.
        frames: frames of a `film`.
        stride: distance between two frames of a `film`, or 0 for an even spread.
    """

    kind: Literal["picture", "sound", "levels", "heard", "film"]
    rate: int = 16_000
    frames: int = 8
    stride: int = 0


def read(reading: Reading, path: Path) -> Arrays | None:
    """The arrays of a file, or None if it is unreadable, empty or silent."""
    if reading.kind == "picture":
        from mmrec_model.encoders.pictures import read_picture  # noqa: PLC0415 - each decoder loads its own library

        picture = read_picture(path)
        return None if picture is None else [np.asarray(picture)]
    if reading.kind == "film":
        from mmrec_model.encoders.films import read_frames  # noqa: PLC0415 - ffmpeg

        return read_frames(path, reading.frames, reading.stride) or None
    from mmrec_model.encoders import sounds  # noqa: PLC0415 - libsndfile and scipy

    sound_L = sounds.read_sound(path, reading.rate)
    if sound_L is None:
        return None
    if reading.kind == "sound":
        answer = sounds.without_tail(sound_L, reading.rate)
    else:
        answer = (sounds.log_mel if reading.kind == "levels" else sounds.heard_log_mel)(sound_L)
    return None if answer is None else [answer]


def write_request(stream: IO[bytes], reading: Reading, path: Path) -> None:
    """Ask for a file.

    Raises:
        OSError: nobody reads.
    """
    request = [reading.kind, reading.rate, reading.frames, reading.stride, str(path)]
    stream.write(json.dumps(request).encode() + b"\n")
    stream.flush()


def parse_request(line: bytes) -> tuple[Reading, Path]:
    """What `write_request` wrote."""
    *fields, path = json.loads(line)
    return Reading(*fields), Path(path)


def write_answer(stream: IO[bytes], arrays: Arrays | None) -> None:
    """Send the arrays of a file, or that it has none."""
    shapes = [array.shape for array in arrays or []]
    header = {"type": str(arrays[0].dtype) if arrays else _TYPES[0], "shapes": shapes}
    stream.write(json.dumps(header).encode() + b"\n")
    for array in arrays or []:
        stream.write(np.ascontiguousarray(array).data)
    stream.flush()


def read_answer(stream: IO[bytes]) -> Arrays | None:
    """What `write_answer` sent.

    Raises:
        EOFError: the other side ended in the middle.
        ValueError: it sent something else.
    """
    line = stream.readline(1 << 20)
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    kind, shapes = header["type"], header["shapes"]
    sizes = [math.prod(shape) * np.dtype(kind).itemsize for shape in shapes] if kind in _TYPES else [-1]
    if any(size < 0 for size in sizes) or sum(sizes) > MAX_ANSWER_BYTES:
        raise ValueError(str(line[:80]))
    arrays = []
    for shape, size in zip(shapes, sizes, strict=True):
        content = stream.read(size)
        if len(content) < size:
            raise EOFError
        arrays.append(np.frombuffer(content, dtype=kind).reshape(shape))
    return arrays or None
