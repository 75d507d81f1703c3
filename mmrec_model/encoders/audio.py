"""Sound to vectors: which encoder a configuration names, and the one without any weight.

    embedded              mean and spread over time of a log-mel spectrogram; no weights
    gru, lstm             a recurrent network over log-mel frames with seeded weights
    FOLDER of our own     the same, pretrained (`mmrec_model.encoders.network_folder`)
    FOLDER or hub id      wav2vec2, HuBERT, AST, Whisper, CLAP, ... through transformers

Shapes: F frames, D mel bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.interface import OWN_LICENCE, Encoder, Mask, Recipe, Vectors, recipe_digest
from mmrec_model.encoders.reading import Arrays, Reading
from mmrec_model.encoders.sounds import BANDS, LOG_MEL_RECIPE
from mmrec_model.encoders.streaming import Part, encode_parts
from mmrec_model.errors import EncoderError


class AudioEncoder:
    """Log-mel statistics: 64 means, then 64 standard deviations, in units of 10 decibels."""

    modality: Modality = "audio"
    name = "log-mel-statistics"
    dim = 2 * BANDS
    note = "no weights: mean and spread of a 64-band log-mel spectrogram, carries timbre, no words or melody"
    licence = OWN_LICENCE

    def __init__(self, config: EncoderConfig) -> None:
        if config.dtype != "float32":
            raise EncoderError(
                f"dtype is {config.dtype}, but log-mel statistics have no network and are always computed in float32",
                remedy="Leave dtype at float32, or name another audio encoder as source",
            )
        self._batch_size = config.batch_size
        self._decoder = Decoder(Reading("heard"), _statistics, workers=config.workers, ahead=config.batch_size)
        self.recipe: Recipe = {"kind": "audio", **LOG_MEL_RECIPE, "pool": "mean+std", "version": 1}
        self.digest = recipe_digest(self.recipe)

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Sound files to float32 [n, 128] and bool [n]; pure silence counts as empty. See `Encoder.encode`."""
        return next(self.encode_parts([inputs]))

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """`encode` of every part, decoding ahead; see `StreamingEncoder`."""
        return encode_parts(parts, self._decoder, np.stack, dim=self.dim, batch_size=self._batch_size)


def load_audio_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that `config` names.

    Raises:
        EncoderError: the source cannot be loaded, gives no vector for a sound, or has no network and `dtype` is set.
    """
    if config.source == "embedded":
        return AudioEncoder(config)
    from mmrec_model.encoders import hub, network_folder, recurrent_audio  # noqa: PLC0415 - torch

    if config.source in recurrent_audio.CELLS:
        return recurrent_audio.configured_audio(config)
    folder = hub.resolve_folder(config.source)
    if network_folder.names_network(folder):
        return recurrent_audio.audio_from_folder(folder, config)
    from mmrec_model.encoders.audio_models import load_audio_model  # noqa: PLC0415 - transformers

    return load_audio_model(folder, config)


def _statistics(levels: Arrays) -> Vectors:
    level_FD = levels[0]
    return np.concatenate([level_FD.mean(axis=0), level_FD.std(axis=0)]).astype(np.float32)
