"""From configuration to a loaded encoder; heavy libraries are imported for the modality asked for alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmrec_model.config import MODALITIES, EncoderConfig
from mmrec_model.encoders import attested
from mmrec_model.encoders.interface import Encoder


def default_encoders() -> tuple[EncoderConfig, ...]:
    """The embedded encoder of every modality, in the order of `MODALITIES`."""
    return tuple(EncoderConfig(modality=modality) for modality in MODALITIES)


def load_encoder(config: EncoderConfig, *, catalogue: Sequence[str | Path] | None = None) -> Encoder:
    """Load one frozen encoder.

    Args:
        config: which one.
        catalogue: all texts or media of this modality in the catalogue; word vectors learn from them before they are
            frozen, every other encoder ignores them.

    Raises:
        EncoderError: the source cannot be loaded, its weights are not the expected ones, or it must learn from a
            catalogue and none is given.
    """
    folder = Path(config.source).expanduser()
    if attested.is_attested(folder):
        attested.verify_attested(folder)
        from mmrec_model.encoders import projected  # noqa: PLC0415 - torch

        if projected.names_projected(folder):
            return projected.load_projected(folder, config, load_encoder)
    if config.modality == "text":
        from mmrec_model.encoders import word2vec  # noqa: PLC0415 - numpy and safetensors

        if word2vec.reads_words(config.source):
            return word2vec.load_word_encoder(config, None if catalogue is None else [str(one) for one in catalogue])
        from mmrec_model.encoders.text import load_text_encoder  # noqa: PLC0415 - torch and transformers

        return load_text_encoder(config)
    if config.modality == "image":
        from mmrec_model.encoders.vision import load_image_encoder  # noqa: PLC0415 - torch and torchvision

        return load_image_encoder(config)
    if config.modality == "audio":
        from mmrec_model.encoders.audio import load_audio_encoder  # noqa: PLC0415 - libsndfile

        return load_audio_encoder(config)
    from mmrec_model.encoders.video import load_video_encoder  # noqa: PLC0415 - torch, torchvision and ffmpeg

    return load_video_encoder(config)
