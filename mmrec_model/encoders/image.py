"""Pictures to vectors: one frozen network behind a strict reader.

The reader accepts six formats, bounds pixels and aspect before it decodes, applies the camera's orientation, puts
transparent pictures on white, and answers None for anything else: damaged, hostile, empty or absent. Which network
stands behind it is decided in `mmrec_model.encoders.vision`. Shapes: B pictures of a batch, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.hub import place
from mmrec_model.encoders.interface import Mask, Recipe, Vectors, at_precision, recipe_digest

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000
MAX_ASPECT = 30


@dataclass(frozen=True)
class VisionNetwork:
    """A network with its own transform.

    Attributes:
        network: [B, 3, H, W] -> [B, D].
        prepare: one RGB picture -> [3, H, W].
        name: for reports; the same on every machine.
        recipe: weights, transform and pooling; see `Encoder.recipe`.
        note: one sentence on the weights.
        licence: of the weights.
    """

    network: nn.Module
    prepare: Callable[[Image.Image], Tensor]
    name: str
    recipe: Recipe
    note: str
    licence: str


class ImageEncoder:
    """A frozen vision network over picture files or decoded pictures."""

    modality: Modality = "image"

    def __init__(self, vision: VisionNetwork, config: EncoderConfig) -> None:
        self.name, self.note, self.licence = vision.name, vision.note, vision.licence
        self.recipe = at_precision(vision.recipe, config.dtype)
        self.digest = recipe_digest(self.recipe)
        self._network = place(vision.network, config.device, config.dtype)
        self._prepare = vision.prepare
        self._batch_size = config.batch_size
        self._device, self._dtype = torch.device(config.device), getattr(torch, config.dtype)
        self.dim = self.encode_pictures([Image.new("RGB", (64, 64))]).shape[1]

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Picture files to float32 [n, dim] and bool [n]; see `Encoder.encode`."""
        vectors = np.zeros((len(inputs), self.dim), dtype=np.float32)
        ok = np.zeros(len(inputs), dtype=bool)
        for start in range(0, len(inputs), self._batch_size):
            pictures = [read_picture(Path(path)) for path in inputs[start : start + self._batch_size]]
            rows = [start + offset for offset, picture in enumerate(pictures) if picture is not None]
            if rows:
                vectors[rows] = self.encode_pictures([picture for picture in pictures if picture is not None])
                ok[rows] = True
        return vectors, ok

    @torch.inference_mode()
    def encode_pictures(self, pictures: Sequence[Image.Image]) -> Vectors:
        """RGB pictures, at least one, to float32 [n, dim]."""
        batches = [pictures[start : start + self._batch_size] for start in range(0, len(pictures), self._batch_size)]
        parts_BD = [self._network(self._pixels(batch)).float().cpu() for batch in batches]
        return torch.cat(parts_BD).numpy()

    def _pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        return torch.stack([self._prepare(one) for one in pictures]).to(self._device, self._dtype)


def read_picture(path: Path) -> Image.Image | None:
    """The picture as RGB in its upright orientation, or None if it cannot or must not be decoded.

    Refused are formats outside `FORMATS`, more than `MAX_PIXELS` pixels, and sides that differ more than
    `MAX_ASPECT`-fold.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=FORMATS) as picture:
                return _upright_rgb(picture) if _is_bounded(picture.size) else None
    except Exception:  # any type: on hostile bytes a decoder may fail with any type
        return None


def _upright_rgb(picture: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(picture)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")


def _is_bounded(size: tuple[int, int]) -> bool:
    short, long = sorted(size)
    return short > 0 and short * long <= MAX_PIXELS and long <= MAX_ASPECT * short
