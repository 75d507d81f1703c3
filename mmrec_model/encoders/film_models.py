"""Published film models of transformers: VideoMAE (Tong et al. 2022) with its own processor, mean over its tokens.

Such a model was trained on a fixed number of frames of one size; `frames` must be that number. Resizing, cropping and
normalisation are those of the model's own image processor. Weights by configuration alone are never made here: the
folder holds published ones. Shapes: B films, k frames, C channels, H x W pixels, T tokens (tubes), D width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig
from mmrec_model.encoders.clips import ClipEncoder, ClipNetwork
from mmrec_model.encoders.hub import file_digests, freeze, load_image_processor, load_network
from mmrec_model.encoders.interface import Recipe, recipe_digest
from mmrec_model.encoders.licence import published_licence
from mmrec_model.errors import EncoderError

_MODELS = frozenset({"videomae"})


def names_film_model(folder: Path) -> bool:
    """Whether a folder holds a model that reads whole films, or claims to."""
    try:
        settings = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("model_type") in _MODELS


def load_film_model(folder: Path, config: EncoderConfig) -> ClipEncoder:
    """The model of a folder of published weights.

    Raises:
        EncoderError: damaged weights, no processor, another number of frames than the model's, or no vector for a film.
    """
    network = load_network(folder, config.dtype)
    processor = load_image_processor(folder)
    frames = int(network.config.num_frames)  # type: ignore[union-attr, arg-type]
    if config.frames != frames:
        raise EncoderError(
            f"frames is {config.frames}, {folder.name} reads {frames} frames of a film",
            remedy=f"Set the encoder's frames to {frames}",
        )

    def prepare(pictures: list[Image.Image]) -> Tensor:
        given = processor([np.array(picture) for picture in pictures], return_tensors="pt")
        pixels_BkCHW: Tensor = given["pixel_values"]
        return pixels_BkCHW[0]

    recipe: Recipe = {"files": file_digests(folder), "pool": "token mean"}
    name = f"{network.config.model_type}-{recipe_digest(recipe)[:12]}"  # type: ignore[union-attr]
    note = "weights of a transformers film model"
    clip = ClipNetwork(freeze(_TokenMean(network)), prepare, name, recipe, note, published_licence(folder))
    try:
        return ClipEncoder(clip, config)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise EncoderError(
            f"{name} gives no vector for a film ({type(error).__name__}: {str(error)[:120]})",
            remedy="Give the folder of a published VideoMAE model with its preprocessor_config.json",
        ) from error


class _TokenMean(nn.Module):
    """The mean over the tokens of a film."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, films_BkCHW: Tensor) -> Tensor:
        state_BTD: Tensor = self.network(pixel_values=films_BkCHW).last_hidden_state
        return state_BTD.mean(1)
