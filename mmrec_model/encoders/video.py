"""Film to vectors: evenly spread frames through the image encoder, then their mean.

The frames of a film are counted by walking its packets, not by believing its header, so a truncated film is spread
over what is really there. Frame number `(2 i + 1) n / (2 k)` is taken for i of k; order does not matter to a mean.
At most `MAX_FRAMES` are read. Shapes: k frames, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from PIL import Image

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.image import MAX_PIXELS, ImageEncoder
from mmrec_model.encoders.interface import Mask, Recipe, Vectors, recipe_digest
from mmrec_model.encoders.vision import load_image_encoder

MAX_FRAMES = 20_000
CONTAINERS = "avi,flv,gif,matroska,mov,mpeg,mpegts,ogg"
"""Demuxers that read one file. Playlists (hls, concat) are refused: they would open other files and the network."""


class VideoEncoder:
    """Mean over frames of a frozen image encoder."""

    modality: Modality = "video"

    def __init__(self, image: ImageEncoder, *, frames: int) -> None:
        self._image, self._frames = image, frames
        self.dim = image.dim
        self.name = f"{frames}-frames-of-{image.name}"
        self.note = f"mean of {frames} frames; pictures: {image.note}"
        self.licence = image.licence
        self.recipe: Recipe = {
            "kind": "video", "image": image.digest, "frames": frames, "spread": "midpoints", "limit": MAX_FRAMES,
            "pool": "mean",
        }  # fmt: skip
        self.digest = recipe_digest(self.recipe)

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Films to float32 [n, dim] and bool [n]; see `Encoder.encode`."""
        vectors = np.zeros((len(inputs), self.dim), dtype=np.float32)
        ok = np.zeros(len(inputs), dtype=bool)
        for row, path in enumerate(inputs):
            pictures = read_frames(Path(path), self._frames)
            if pictures:
                vectors[row] = self._image.encode_pictures(pictures).mean(axis=0, dtype=np.float64)
                ok[row] = True
        return vectors, ok


def load_video_encoder(config: EncoderConfig) -> VideoEncoder:
    """Film frames through the image encoder that `config.source` names.

    Raises:
        EncoderError: the image encoder cannot be loaded.
    """
    image = load_image_encoder(config.model_copy(update={"modality": "image"}))
    return VideoEncoder(image, frames=config.frames)


def read_frames(path: Path, count: int) -> list[Image.Image]:
    """Up to `count` evenly spread RGB frames; empty if the film is unreadable.

    A film that breaks off gives the frames before the break; one with fewer than `count` frames gives all of them.
    """
    try:
        total = _count_frames(path)
        return _decode(path, spread(total, count))
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


def _decode(path: Path, wanted: list[int]) -> list[Image.Image]:
    pictures: list[Image.Image] = []
    with _open(path) as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        if not 0 < stream.codec_context.width * stream.codec_context.height <= MAX_PIXELS:
            return pictures
        try:
            for number, frame in enumerate(film.decode(stream)):
                if len(pictures) == len(wanted):
                    break
                if number == wanted[len(pictures)]:
                    pictures.append(frame.to_image())  # type: ignore[no-untyped-call]
        except av.error.FFmpegError:
            return pictures
    return pictures
