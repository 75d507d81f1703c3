"""Film to vectors by a network that sees all frames at once, and so what moves; compare `video`, frame by frame.

The number of frames is fixed: a film that has fewer shows some of them again, in order, so its vector never depends on
what shares its batch. Shapes: B films of a batch, k frames, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.films import MAX_FRAMES, Taken
from mmrec_model.encoders.hub import place
from mmrec_model.encoders.interface import Mask, Recipe, Vectors, at_precision, recipe_digest
from mmrec_model.encoders.reading import Arrays, Reading
from mmrec_model.encoders.streaming import Part, encode_parts


@dataclass(frozen=True)
class ClipNetwork:
    """A network over whole films with its own transform.

    Attributes:
        network: films as `prepare` makes them, stacked along a first axis -> [B, D].
        prepare: k RGB pictures in the order of the film -> one tensor, of one shape for all films.
        name: for reports; the same on every machine.
        recipe: weights, transform and pooling; see `Encoder.recipe`.
        note: one sentence on the weights.
        licence: of the weights.
    """

    network: nn.Module
    prepare: Callable[[list[Image.Image]], Tensor]
    name: str
    recipe: Recipe
    note: str
    licence: str


class ClipEncoder:
    """A frozen `ClipNetwork` behind the reader of films; reads `config.frames` frames of each."""

    modality: Modality = "video"

    def __init__(self, clip: ClipNetwork, config: EncoderConfig) -> None:
        taken = Taken(config.frames, config.stride)
        self.licence = clip.licence
        self.name = f"{taken.name}-{clip.name}"
        self.note = f"{clip.note}; {taken.note}"
        recipe: Recipe = {
            "kind": "clip", "network": clip.recipe, "frames": config.frames, "limit": MAX_FRAMES, "spread": taken.rule,
            "short": "repeated",
        }  # fmt: skip
        self.recipe = at_precision(recipe, config.dtype)
        self.digest = recipe_digest(self.recipe)
        self._films = max(1, config.batch_size // config.frames)
        self._frames, self._prepare = config.frames, clip.prepare
        self._network = place(clip.network, config.device, config.dtype)
        self._device, self._dtype = torch.device(config.device), getattr(torch, config.dtype)
        reading = Reading("film", frames=config.frames, stride=config.stride)
        self._decoder: Decoder[Tensor] = Decoder(reading, self._filled, workers=config.workers, ahead=self._films)
        self.dim = self._encode_films([self._filled([np.zeros((64, 64, 3), np.uint8)])]).shape[1]

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Films to float32 [n, dim] and bool [n]; see `Encoder.encode`."""
        return next(self.encode_parts([inputs]))

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """`encode` of every part, decoding ahead; see `StreamingEncoder`."""
        return encode_parts(parts, self._decoder, self._encode_films, dim=self.dim, batch_size=self._films)

    def _filled(self, frames: Arrays) -> Tensor:
        pictures = [Image.fromarray(frame) for frame in frames]
        return self._prepare([pictures[place * len(pictures) // self._frames] for place in range(self._frames)])

    @torch.inference_mode()
    def _encode_films(self, films: list[Tensor]) -> Vectors:
        vectors: Vectors = self._network(torch.stack(films).to(self._device, self._dtype)).float().cpu().numpy()
        return vectors
