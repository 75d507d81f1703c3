"""Sound files through a frozen recurrent network over log-mel frames: seeded, or a folder that pretraining wrote.

Appended silence changes nothing, because frames behind the last heard one are not read. With seeded weights the network
is an echo of rhythm and timbre (Jaeger 2001: a random recurrence keeps its recent past); it knows no meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.config_reader import parse_config
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.hub import freeze, place
from mmrec_model.encoders.interface import OWN_LICENCE, Mask, Recipe, Vectors, at_precision, recipe_digest
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.network_folder import load_weights, read_card, save_network
from mmrec_model.encoders.reading import Arrays, Reading
from mmrec_model.encoders.recurrent import CELLS, RecurrentAudioEncoder, RecurrentSettings, pad_frames
from mmrec_model.encoders.seeded import fill_seeded, state_digest
from mmrec_model.encoders.sounds import BANDS, LOG_MEL_RECIPE
from mmrec_model.encoders.streaming import Part, encode_parts
from mmrec_model.errors import EncoderError

__all__ = ["CELLS", "FrozenRecurrentAudio", "audio_from_folder", "configured_audio", "save_audio_network"]

KIND = "recurrent-audio"


class FrozenRecurrentAudio:
    """A `RecurrentAudioEncoder` behind the reader of sound files."""

    modality: Modality = "audio"

    def __init__(
        self, network: RecurrentAudioEncoder, config: EncoderConfig, *, name: str, note: str, licence: str
    ) -> None:
        weights = state_digest(network)
        settings = network.settings.model_dump()
        self.name, self.note, self.dim = name or f"{KIND}-{weights[:12]}", note, network.dim
        self.licence = licence
        recipe: Recipe = {"kind": KIND, "levels": LOG_MEL_RECIPE, "network": settings, "weights": weights}
        self.recipe = at_precision(recipe, config.dtype)
        self.digest = recipe_digest(self.recipe)
        self._network: nn.Module = place(freeze(network), config.device, config.dtype)
        self._device, self._dtype = torch.device(config.device), getattr(torch, config.dtype)
        self._batch_size = config.batch_size
        self._decoder: Decoder[Tensor] = Decoder(
            Reading("levels"), _as_tensor, workers=config.workers, ahead=config.batch_size
        )

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Sound files to float32 [n, dim] and bool [n]; pure silence counts as empty. See `Encoder.encode`."""
        return next(self.encode_parts([inputs]))

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """`encode` of every part, decoding ahead; see `StreamingEncoder`."""
        return encode_parts(parts, self._decoder, self._encode_levels, dim=self.dim, batch_size=self._batch_size)

    @torch.inference_mode()
    def _encode_levels(self, levels: list[Tensor]) -> Vectors:
        levels_BFD, lengths_B = pad_frames(levels)
        vectors: Vectors = self._network(levels_BFD.to(self._device, self._dtype), lengths_B).float().cpu().numpy()
        return vectors


def configured_audio(config: EncoderConfig) -> FrozenRecurrentAudio:
    """The network that `config.source`, a cell's name, makes with seeded weights."""
    cell = next(cell for cell in CELLS if cell == config.source)
    network = RecurrentAudioEncoder(RecurrentSettings(cell=cell, width=BANDS))
    fill_seeded(network, gain=1.0)
    note = "random weights made by configuration: carries rhythm and timbre, no meaning"
    return FrozenRecurrentAudio(network, config, name=f"configured-log-mel-{cell}", note=note, licence=OWN_LICENCE)


def save_audio_network(folder: Path, network: RecurrentAudioEncoder, *, note: str) -> None:
    """Write `network` as a folder that `EncoderConfig.source` accepts.

    Raises:
        EncoderError: the folder cannot be written.
    """
    save_network(folder, network, kind=KIND, settings=network.settings.model_dump(), note=note)


def audio_from_folder(folder: Path, config: EncoderConfig) -> FrozenRecurrentAudio:
    """A network that `save_audio_network` wrote.

    Raises:
        EncoderError: the folder holds something else or is damaged.
        ConfigError: a setting is outside its range.
    """
    card = read_card(folder, KIND)
    settings = parse_config(RecurrentSettings, card.settings, source=f"{folder.name}/config.json")
    if settings.width != BANDS:
        raise EncoderError(
            f"{folder.name} reads {settings.width} mel bands, this version makes {BANDS}",
            remedy="Pretrain the network again with this version",
        )
    network = RecurrentAudioEncoder(settings)
    load_weights(folder, network)
    note = card.note or "weights of a local folder"
    return FrozenRecurrentAudio(network, config, name="", note=note, licence=published_licence(folder))


def _as_tensor(levels: Arrays) -> Tensor:
    return torch.tensor(levels[0])
