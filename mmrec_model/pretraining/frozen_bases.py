"""The frozen encoders that a task over several modalities starts from, and their vectors of the catalogue.

Vectors come from the feature store, so a second pretraining encodes nothing. An encoder without a published name is
copied beside what is trained on it, so that the result can be carried to another machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.folder import write_encoder
from mmrec_model.encoders.interface import CatalogueEncoder, Encoder, Mask, Vectors
from mmrec_model.encoders.projected import BASE_FOLDER
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import EncoderError, UsageError
from mmrec_model.features.bundle import Progress
from mmrec_model.features.store import FeatureStore, vector_store
from mmrec_model.pretraining.corpus import Corpus
from mmrec_model.pretraining.settings import PretrainingSettings


@dataclass(frozen=True)
class FrozenBase:
    """One encoder and its vectors [N, D] of all items, present or not."""

    config: EncoderConfig
    encoder: Encoder
    raw_ND: Vectors
    present_N: Mask


def chosen_modalities(corpus: Corpus, settings: PretrainingSettings) -> dict[Modality, str]:
    """Source per modality: the ones that are named, or all that the catalogue has, embedded.

    Raises:
        UsageError: fewer than two, or one that no item has.
    """
    wanted: dict[Modality, str] = dict(settings.bases) or dict.fromkeys(corpus.modalities, "embedded")
    if settings.train_encoder is not None:
        if settings.bases.get(settings.train_encoder, "gru") != "gru":
            raise UsageError(
                f"{settings.train_encoder} is trained from the start and its base is "
                f"{settings.bases[settings.train_encoder]!r}",
                remedy=f"Leave out --base {settings.train_encoder}=..., or --train-encoder",
            )
        wanted[settings.train_encoder] = "gru"
    absent = [modality for modality in wanted if modality not in corpus.modalities]
    if absent or len(wanted) < 2:
        raise UsageError(
            f"the catalogue has {', '.join(corpus.modalities) or 'nothing'}, asked for is "
            f"{', '.join(wanted) or 'nothing'}, the least is two that it has",
            remedy="Name modalities that the items have with --base MODALITY=SOURCE",
        )
    return {modality: wanted[modality] for modality in corpus.modalities if modality in wanted}


def encoder_config(modality: Modality, source: str, settings: PretrainingSettings) -> EncoderConfig:
    """The encoder that `source` names, with the machine's settings."""
    return EncoderConfig(modality=modality, source=source, workers=settings.workers, device=settings.device)


def encode_items(corpus: Corpus, config: EncoderConfig, progress: Progress) -> FrozenBase:
    """Load an encoder and take its vectors from the store, encoding what it lacks."""
    inputs = corpus.inputs(config.modality)
    given = [row for row, one in enumerate(inputs) if one is not None]
    media = [one for one in inputs if one is not None]
    encoder = load_encoder(config, catalogue=media)
    vectors, ok, _ = FeatureStore(vector_store()).get_or_encode(
        encoder,
        media,
        progress=lambda done, unreadable: progress(f"encoding {config.modality}", done, len(media), unreadable),
        chunk=64,
    )
    raw_ND, present_N = np.zeros((len(inputs), encoder.dim), dtype=np.float32), np.zeros(len(inputs), dtype=bool)
    raw_ND[given], present_N[given] = vectors, ok
    return FrozenBase(config, encoder, raw_ND, present_N)


def keep_base(folder: Path, base: FrozenBase) -> None:
    """Put an encoder without a published name into `folder/base`.

    Raises:
        EncoderError: the folder cannot be written.
    """
    source = Path(base.config.source).expanduser()
    try:
        if isinstance(base.encoder, CatalogueEncoder):
            write_encoder(base.encoder, folder / BASE_FOLDER)
        elif source.is_dir():
            shutil.copytree(source, folder / BASE_FOLDER)
    except OSError as error:
        raise EncoderError(
            f"the base {source.name} cannot be copied: {error.strerror or error}",
            remedy="Give an output folder on a disk with room for a copy of the base",
        ) from error


def joint_licence(licences: Sequence[str]) -> str:
    """All that apply, without repetition."""
    return ", ".join(dict.fromkeys(licences))
