"""Published audio models of transformers, each with its own feature extractor, mean over the frames that hold sound.

Models that read waves (wav2vec2, HuBERT, WavLM, Data2Vec) take one sound at a time, so that nothing is padded. Models
that read pictures of a fixed duration (AST, Whisper's encoder, CLAP) take batches; behind the end of a sound they see
filling, so only the frames before it are averaged, except in CLAP, whose projection into the text-sound space is one
vector for the whole. What is longer than the model's duration is cut, from the beginning.

Silence at the end of a file is cut off before. Shapes: B sounds of a batch, L samples, F frames, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.hub import file_digests, load_network, place, quiet_transformers
from mmrec_model.encoders.interface import Mask, Recipe, Vectors, at_precision, recipe_digest
from mmrec_model.encoders.licence import published_licence
from mmrec_model.encoders.reading import Arrays, Reading
from mmrec_model.encoders.sounds import FLOOR_DB, MAX_SECONDS, FloatArray
from mmrec_model.encoders.streaming import Part, encode_parts
from mmrec_model.errors import EncoderError

_SHORTEST_SECONDS = 0.1
"""A shorter sound is filled up with silence, so that the first convolutions of every model have something to read."""


class AudioModelEncoder:
    """A frozen transformers audio model behind the reader of sound files."""

    modality: Modality = "audio"

    note = "weights of a transformers audio model"

    def __init__(
        self, network: nn.Module, extractor: Any, config: EncoderConfig, *, recipe: Recipe, licence: str
    ) -> None:
        self._kind = str(getattr(network.config, "model_type", "audio"))
        self.name = f"{self._kind}-{recipe_digest(recipe)[:12]}"
        self.recipe, self.licence = at_precision(recipe, config.dtype), licence
        self.digest = recipe_digest(self.recipe)
        self._extractor, self._rate = extractor, int(extractor.sampling_rate)
        self._network = place(_encoder_of(network), config.device, config.dtype)
        self._device, self._dtype = torch.device(config.device), getattr(torch, config.dtype)
        self._samples = _fixed_samples(extractor, self._rate)
        self._batch_size = config.batch_size if self._samples else 1
        self._decoder: Decoder[FloatArray] = Decoder(
            Reading("sound", rate=self._rate), self._fit, workers=config.workers, ahead=config.batch_size
        )
        self.dim = self._encode_sounds([np.ones(self._rate, dtype=np.float32)]).shape[1]

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Sound files to float32 [n, dim] and bool [n]; pure silence counts as empty. See `Encoder.encode`."""
        return next(self.encode_parts([inputs]))

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """`encode` of every part, decoding ahead; see `StreamingEncoder`."""
        return encode_parts(parts, self._decoder, self._encode_sounds, dim=self.dim, batch_size=self._batch_size)

    def _fit(self, arrays: Arrays) -> FloatArray:
        sound_L = np.asarray(arrays[0], dtype=np.float32)[: self._samples or None]
        return np.pad(sound_L, (0, max(0, int(_SHORTEST_SECONDS * self._rate) - len(sound_L))))

    @torch.inference_mode()
    def _encode_sounds(self, sounds: list[FloatArray]) -> Vectors:
        given = self._extractor(sounds, sampling_rate=self._rate, return_tensors="pt")
        tensors = {name: self._placed(value) for name, value in given.items()}
        shares = [len(one) / self._samples if self._samples else 1.0 for one in sounds]
        vectors: Vectors = self._pool(tensors, shares).float().cpu().numpy()
        return vectors

    def _placed(self, given: Tensor) -> Tensor:
        """On the device, and in the network's number format unless it is a mask."""
        return given.to(self._device, self._dtype if given.is_floating_point() else given.dtype)

    def _pool(self, tensors: dict[str, Tensor], shares: list[float]) -> Tensor:
        joint = getattr(self._network, "get_audio_features", None)
        if callable(joint):
            features = joint(**tensors)
            vector_BD: Tensor = features if isinstance(features, Tensor) else features.pooler_output
            return vector_BD
        state_BFD: Tensor = self._network(**tensors).last_hidden_state.float()
        if self._kind == "audio-spectrogram-transformer":
            state_BFD = _over_time(state_BFD, self._network.config)
        frames = state_BFD.shape[1]
        counts_B1 = torch.tensor([[max(1, round(share * frames))] for share in shares], device=state_BFD.device)
        valid_BF1 = (torch.arange(frames, device=state_BFD.device) < counts_B1)[..., None]
        mean_BD: Tensor = (state_BFD * valid_BF1).sum(1) / counts_B1
        return mean_BD


def load_audio_model(folder: Path, config: EncoderConfig) -> AudioModelEncoder:
    """The model of a folder of published weights.

    Raises:
        EncoderError: damaged weights, no feature extractor, or a model that gives no vector for a sound.
    """
    from transformers import AutoFeatureExtractor  # noqa: PLC0415 - seconds to import

    network = load_network(folder, config.dtype)
    recipe: Recipe = {
        "kind": "audio", "files": file_digests(folder), "pool": "audio features or mean of valid frames",
        "seconds": MAX_SECONDS, "floor_db": FLOOR_DB,
    }  # fmt: skip
    try:
        with quiet_transformers():
            extractor = AutoFeatureExtractor.from_pretrained(  # type: ignore[no-untyped-call]
                folder, local_files_only=True
            )
            return AudioModelEncoder(network, extractor, config, recipe=recipe, licence=published_licence(folder))
    except EncoderError:
        raise
    except Exception as error:  # any type: a damaged file or an unfit model may fail in any layer of the library
        raise EncoderError(
            f"{folder.name} gives no vector for a sound ({type(error).__name__}: {str(error)[:120]})",
            remedy="Give the folder of a published audio model (wav2vec2, HuBERT, AST, Whisper, CLAP) with "
            "preprocessor_config.json",
        ) from error


def _encoder_of(network: nn.Module) -> nn.Module:
    """The encoder alone, of a model that also has a decoder."""
    encoder = getattr(network, "encoder", None)
    has_decoder = isinstance(getattr(network, "decoder", None), nn.Module)
    return encoder if has_decoder and isinstance(encoder, nn.Module) else network


def _fixed_samples(extractor: Any, rate: int) -> int:
    """Samples of the duration that the extractor fills every sound up to, or 0 if it keeps the sound's own."""
    shapes = []
    for seconds in (1, 2):
        tensors = extractor([np.ones(seconds * rate, dtype=np.float32)], sampling_rate=rate, return_tensors="pt")
        shapes.append([tuple(value.shape) for value in tensors.values()])
    if shapes[0] != shapes[1]:
        return 0
    for name in ("nb_max_samples", "n_samples"):
        if isinstance(getattr(extractor, name, None), int):
            return int(getattr(extractor, name))
    return int(extractor.max_length) * rate // 100  # AST counts frames of 10 milliseconds


def _over_time(state_BTD: Tensor, config: Any) -> Tensor:
    """AST's patches, without its two extra tokens, as their mean over frequency at every time."""
    bands = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    patches_BTD = state_BTD[:, 2:]
    return patches_BTD.reshape(len(patches_BTD), bands, -1, patches_BTD.shape[2]).mean(1)
