"""Film files to a few RGB frames, evenly spread or a fixed stride apart; needs PyAV and no torch.

For an even spread the frames of a film are counted by walking its packets, not by believing its header, so a truncated
film is spread over what is really there: frame number `(2 i + 1) n / (2 k)` is taken for i of k. With a stride s it is
frame `i s`, from the beginning. At most `MAX_FRAMES` are decoded. A film that breaks off gives the frames before the
break.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from mmrec_model.encoders.pictures import MAX_PIXELS

MAX_FRAMES = 20_000
CONTAINERS = "avi,flv,gif,matroska,mov,mpeg,mpegts,ogg"
"""Demuxers that read one file. Playlists (hls, concat) are refused: they would open other files and the network."""

PixelArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Taken:
    """Which frames of a film are read, in words.

    Attributes:
        count: how many.
        stride: 0 for an even spread, else the distance between two of them.
    """

    count: int
    stride: int

    @property
    def name(self) -> str:
        """For an encoder's name."""
        return f"{self.count}-frames" + (f"-{self.stride}-apart" if self.stride else "")

    @property
    def note(self) -> str:
        """For an encoder's note."""
        placed = f"every {self.stride}th from the beginning" if self.stride else "spread evenly"
        return f"{self.count} frames, {placed}"

    @property
    def rule(self) -> str:
        """For an encoder's recipe."""
        return f"stride {self.stride}" if self.stride else "midpoints"


def read_frames(path: Path, count: int, stride: int = 0) -> list[PixelArray]:
    """Up to `count` RGB frames (H, W, 3) in the order of the film; empty if it is unreadable.

    Args:
        path: the film.
        count: frames wanted; a film with fewer gives all it has.
        stride: 0 for frames spread evenly over the film, else the distance between two frames.
    """
    try:
        wanted = [n for n in range(0, count * stride, stride) if n < MAX_FRAMES] if stride else None
        return _decode(path, spread(_count_frames(path), count) if wanted is None else wanted)
    except (OSError, ValueError, IndexError, RuntimeError, MemoryError, av.error.FFmpegError):
        return []


def spread(total: int, count: int) -> list[int]:
    """Midpoints of `count` equal parts of `total` frames, each frame at most once."""
    return sorted({(2 * part + 1) * total // (2 * count) for part in range(count)} if total else set())


def _open(path: Path) -> InputContainer:
    return av.open(str(path.absolute()), options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"})


def _count_frames(path: Path) -> int:
    with _open(path) as film:
        packets = film.demux(film.streams.video[0])
        count = 0
        for packet in packets:
            count += bool(packet.size)
            if count == MAX_FRAMES:
                break
        return count


def _decode(path: Path, wanted: list[int]) -> list[PixelArray]:
    frames: list[PixelArray] = []
    with _open(path) as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        if not 0 < stream.codec_context.width * stream.codec_context.height <= MAX_PIXELS:
            return frames
        try:
            for number, frame in enumerate(film.decode(stream)):
                if len(frames) == len(wanted):
                    break
                if number == wanted[len(frames)]:
                    frames.append(np.asarray(frame.to_image()))  # type: ignore[no-untyped-call]
        except av.error.FFmpegError:
            return frames
    return frames
