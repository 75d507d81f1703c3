"""A frozen encoder whose vectors are carried into a space that several modalities share (van den Oord et al. 2018).

    FOLDER/config.json         {"mmrec": {"kind": "projected", ...}}: which encoder, its digest and settings
    FOLDER/model.safetensors   the mean of its unit vectors and a linear map
    FOLDER/base/               the encoder itself, unless it has a published name

A vector is unit(map(unit(raw) - mean)). Written by pretraining; refused over any other encoder than the one it was
trained on. Shapes: n media, D raw width, K shared width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec_model.canonical import JsonValue
from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.config_reader import parse_config
from mmrec_model.encoders.interface import Encoder, Mask, Recipe, Vectors, recipe_digest
from mmrec_model.encoders.network_folder import NetworkCard, load_weights, names_network, read_card, save_network
from mmrec_model.encoders.seeded import state_digest
from mmrec_model.encoders.streaming import Part, parts_of
from mmrec_model.errors import EncoderError

KIND = "projected"
BASE_FOLDER = "base"
_MACHINE = ("batch_size", "workers", "device")
"""Settings of an encoder that no vector depends on: the reader's own are used."""


class Projection(nn.Module):
    """The map from unit raw vectors to the shared space."""

    mean_D: Tensor
    map_DK: Tensor

    def __init__(self, mean_D: Tensor, map_DK: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_D", mean_D.float())
        self.register_buffer("map_DK", map_DK.float())

    def forward(self, raw_nD: Tensor) -> Tensor:
        """Raw vectors to unit rows [n, K]; a row without content of its own stays zero."""
        return normalize((normalize(raw_nD) - self.mean_D) @ self.map_DK)


class ProjectedEncoder:
    """A frozen encoder and a `Projection` behind it."""

    def __init__(self, base: Encoder, projection: Projection, *, note: str) -> None:
        self.modality: Modality = base.modality
        self.dim = int(projection.map_DK.shape[1])
        self.recipe: Recipe = {"kind": KIND, "base": base.digest, "weights": state_digest(projection)}
        self.digest = recipe_digest(self.recipe)
        self.name = f"projected-{self.digest[:12]}-of-{base.name}"
        self.licence, self.note = base.licence, f"{note}; base: {base.note}" if note else base.note
        self._base, self._projection = base, projection

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Media of the base's modality to float32 [n, K] and bool [n]; see `Encoder.encode`."""
        return self._project(*self._base.encode(inputs))

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """`encode` of every part, decoding ahead where the base can; see `StreamingEncoder`."""
        for vectors, ok in parts_of(self._base, parts):
            yield self._project(vectors, ok)

    @torch.inference_mode()
    def _project(self, raw_nD: Vectors, ok: Mask) -> tuple[Vectors, Mask]:
        vectors: Vectors = self._projection(torch.from_numpy(raw_nD)).numpy()
        vectors[~ok] = 0.0
        return vectors, ok


def save_projected(folder: Path, base: Encoder, config: EncoderConfig, projection: Projection, *, note: str) -> None:
    """Write `projection` of `base`, which `config` names; the caller puts an unpublished base into `folder/base`.

    Raises:
        EncoderError: the folder cannot be written.
    """
    inside = (folder / BASE_FOLDER).is_dir()
    encoder: dict[str, JsonValue] = {
        name: value for name, value in config.model_dump(mode="json").items() if name not in _MACHINE
    }
    width, dims = projection.map_DK.shape
    settings: dict[str, JsonValue] = {
        "encoder": {**encoder, "source": BASE_FOLDER if inside else config.source},
        "base_digest": base.digest, "width": width, "dims": dims,
    }  # fmt: skip
    save_network(folder, projection, kind=KIND, settings=settings, note=note)


def names_projected(folder: Path) -> bool:
    """Whether `folder` holds a projection of another encoder."""
    if not names_network(folder):
        return False
    try:
        return read_card(folder, KIND).kind == KIND
    except EncoderError:
        return False


def load_projected(folder: Path, config: EncoderConfig, load_base: Callable[[EncoderConfig], Encoder]) -> Encoder:
    """The encoder in `folder`; settings that its vectors depend on are those of its training, not of `config`.

    Args:
        folder: what `save_projected` wrote.
        config: the reader's batch size, workers and device, and the modality that is asked for.
        load_base: loads the encoder that the folder names.

    Raises:
        EncoderError: another modality, damaged files, or a base that is not the one of the training.
        ConfigError: a setting of the folder is outside its range.
    """
    card = read_card(folder, KIND)
    base = load_base(_base_config(folder, card, config))
    width, dims = card.settings.get("width"), card.settings.get("dims")
    if base.digest != card.settings.get("base_digest") or base.dim != width or not isinstance(dims, int):
        raise EncoderError(
            f"{folder.name} was trained on the encoder {str(card.settings.get('base_digest'))[:12]} of width {width}, "
            f"its name {base.name!r} stands here for {base.digest[:12]} of width {base.dim}",
            remedy="Install the same version of the base encoder, or pretrain again on this one",
        )
    projection = Projection(torch.zeros(base.dim), torch.zeros(base.dim, dims))
    load_weights(folder, projection)
    return ProjectedEncoder(base, projection, note=card.note)


def _base_config(folder: Path, card: NetworkCard, config: EncoderConfig) -> EncoderConfig:
    own: dict[str, Any] = dict(card.settings.get("encoder") or {})
    if own.get("modality") != config.modality:
        raise EncoderError(
            f"{folder.name} reads {own.get('modality')!r}, asked for is {config.modality!r}",
            remedy="Name the folder of this modality",
        )
    if own.get("source") == BASE_FOLDER:
        own["source"] = str(folder / BASE_FOLDER)
    own |= {name: getattr(config, name) for name in _MACHINE}
    return parse_config(EncoderConfig, own, source=f"{folder.name}/config.json")
