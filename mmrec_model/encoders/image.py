"""Pictures to vectors: one frozen network behind a strict reader.

The reader is `mmrec_model.encoders.pictures`, in worker processes if the configuration asks for them; which network
stands behind it is decided in `mmrec_model.encoders.vision`. Shapes: B pictures of a batch, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.hub import place
from mmrec_model.encoders.interface import Mask, Recipe, Vectors, at_precision, recipe_digest
from mmrec_model.encoders.reading import Arrays, Reading
from mmrec_model.encoders.streaming import Part, encode_parts


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
        self.prepare = vision.prepare
        self.batch_size = config.batch_size
        self._device, self._dtype = torch.device(config.device), getattr(torch, config.dtype)
        self._decoder: Decoder[Tensor] = Decoder(
            Reading("picture"), self._prepare_array, workers=config.workers, ahead=config.batch_size
        )
        self.dim = self.encode_pictures([Image.new("RGB", (64, 64))]).shape[1]

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Picture files to float32 [n, dim] and bool [n]; see `Encoder.encode`."""
        return next(self.encode_parts([inputs]))

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """`encode` of every part, decoding ahead; see `StreamingEncoder`."""
        return encode_parts(parts, self._decoder, self.encode_prepared, dim=self.dim, batch_size=self.batch_size)

    def encode_pictures(self, pictures: Sequence[Image.Image]) -> Vectors:
        """RGB pictures, at least one, to float32 [n, dim]."""
        return self.encode_prepared([self.prepare(one) for one in pictures])

    @torch.inference_mode()
    def encode_prepared(self, pixels: Sequence[Tensor]) -> Vectors:
        """Pictures that `prepare` made, at least one [3, H, W], to float32 [n, dim]."""
        batches = [pixels[start : start + self.batch_size] for start in range(0, len(pixels), self.batch_size)]
        parts_BD = [self._network(self._stack(batch)).float().cpu() for batch in batches]
        return torch.cat(parts_BD).numpy()

    def _stack(self, pixels: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(pixels)).to(self._device, self._dtype)

    def _prepare_array(self, arrays: Arrays) -> Tensor:
        return self.prepare(Image.fromarray(arrays[0]))
