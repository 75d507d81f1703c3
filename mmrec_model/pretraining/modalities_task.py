"""Tasks over several modalities, from items to one encoder folder each, all of whose vectors lie in one space.

OUT/<modality>/         what `EncoderConfig.source` accepts (`mmrec_model.encoders.projected`), with a card of its own
OUT/<modality>/base/    the encoder behind the projection, if it has no published name or was trained here
OUT/pretraining.json    the card of the whole
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mmrec_model.config import EncoderConfig, Modality
from mmrec_model.encoders.image import ImageEncoder
from mmrec_model.encoders.interface import OWN_LICENCE, Encoder
from mmrec_model.encoders.projected import BASE_FOLDER, save_projected
from mmrec_model.encoders.recurrent import RecurrentAudioEncoder, RecurrentFilmEncoder
from mmrec_model.encoders.recurrent_audio import save_audio_network
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.encoders.video import save_film_network
from mmrec_model.encoders.vision import load_image_encoder
from mmrec_model.errors import UsageError
from mmrec_model.features.bundle import Progress
from mmrec_model.pretraining.alignment import AlignmentObjective
from mmrec_model.pretraining.corpus import Corpus
from mmrec_model.pretraining.frozen_bases import (
    FrozenBase,
    chosen_modalities,
    encode_items,
    encoder_config,
    joint_licence,
    keep_base,
)
from mmrec_model.pretraining.loop import History, train
from mmrec_model.pretraining.masked_features import MaskedFeatureObjective
from mmrec_model.pretraining.publication import Provenance, describe, result_folder, write_card
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.pretraining.towers import FilmTower, FrozenTower, RecurrentTower, SoundTower, Tower

_NOTES = {
    "align": "aligned with the other modalities of a public catalogue",
    "masked-feature": "trained to predict the other modalities of a public catalogue",
}


@dataclass(frozen=True)
class _Part:
    """One modality: its tower, and its frozen base unless the encoder is trained here."""

    tower: Tower
    base: FrozenBase | None


def pretrain_modalities(corpus: Corpus, settings: PretrainingSettings, work: Path, progress: Progress) -> History:
    """Train, and write the result below `work`.

    Raises:
        DataError: too few items have two modalities.
        UsageError: fewer than two modalities, or an encoder to be trained where vectors are to be predicted.
        EncoderError: a base cannot be used, or the training fails.
    """
    if settings.task == "masked-feature" and settings.train_encoder is not None:
        raise UsageError(
            f"masked-feature predicts frozen vectors, {settings.train_encoder} was to be trained",
            remedy="Leave out --train-encoder, or align",
        )
    sources = chosen_modalities(corpus, settings)
    held_out_N = corpus.held_out(settings.seed, settings.held_out)
    digest = corpus.digest(tuple(sources))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        parts = {
            modality: _part(corpus, modality, source, held_out_N, settings, progress)
            for modality, source in sources.items()
        }
        towers = {name: part.tower for name, part in parts.items()}
        objective = _objective(towers, corpus.item_ids, held_out_N, settings)
    facts: dict[str, Mapping[str, str]] = {
        name: _base_facts(part) for name, part in parts.items() if name in objective.modalities
    }
    known = "/".join([digest, *(f"{name}:{one['digest']}" for name, one in facts.items())])
    history = train(objective, settings, work, settings.fingerprint(known), progress)
    licences = {}
    for modality in objective.modalities:
        folder = result_folder(work) / modality
        encoder = _write(folder, modality, parts[modality], settings)
        licences[modality] = encoder.licence
        own: dict[str, Mapping[str, str]] = {modality: facts[modality]}
        provenance = Provenance(digest, len(corpus), int(held_out_N.sum()), own, encoder.licence)
        write_card(folder, describe(settings, provenance, history))
    together = Provenance(digest, len(corpus), int(held_out_N.sum()), facts, joint_licence(list(licences.values())))
    write_card(result_folder(work), describe(settings, together, history))
    return history


def _objective(
    towers: Mapping[Modality, Tower], item_ids: Sequence[str], held_out_N: npt.NDArray[np.bool_],
    settings: PretrainingSettings,
) -> AlignmentObjective | MaskedFeatureObjective:  # fmt: skip
    if settings.task == "align":
        return AlignmentObjective(towers, held_out_N, settings)
    frozen = {name: tower for name, tower in towers.items() if isinstance(tower, FrozenTower)}
    return MaskedFeatureObjective(frozen, item_ids, held_out_N, settings)


def _part(  # noqa: PLR0917 - what a modality is made of
    corpus: Corpus, modality: Modality, source: str, held_out_N: npt.NDArray[np.bool_],
    settings: PretrainingSettings, progress: Progress,
) -> _Part:  # fmt: skip
    config = encoder_config(modality, source, settings)
    if modality == settings.train_encoder:
        paths = corpus.media[modality]
        if modality == "audio":
            return _Part(SoundTower(corpus.item_ids, paths, settings), None)
        return _Part(FilmTower(corpus.item_ids, paths, settings, image=_pictures(settings), config=config), None)
    base = encode_items(corpus, config, progress)
    if not (base.present_N & ~held_out_N).any():
        raise UsageError(
            f"none of the training items has a readable {modality}", remedy=f"Leave {modality} out with --base"
        )
    return _Part(FrozenTower(base.raw_ND, base.present_N, held_out_N, settings.width), base)


def _pictures(settings: PretrainingSettings) -> ImageEncoder:
    return load_image_encoder(EncoderConfig(modality="image", device=settings.device))


def _base_facts(part: _Part) -> dict[str, str]:
    if part.base is None:
        return {"name": "gru, trained from the start", "digest": ""}
    return {"name": part.base.encoder.name, "digest": part.base.encoder.digest}


def _write(folder: Path, modality: Modality, part: _Part, settings: PretrainingSettings) -> Encoder:
    """The encoder folder of one modality, and its base as it is loaded from there."""
    if part.base is not None:
        keep_base(folder, part.base)
        base, config = part.base.encoder, part.base.config
    else:
        inside = folder / BASE_FOLDER
        recurrence = part.tower.recurrence if isinstance(part.tower, RecurrentTower) else None
        if isinstance(recurrence, RecurrentAudioEncoder):
            save_audio_network(inside, recurrence, note=_NOTES[settings.task])
        elif isinstance(recurrence, RecurrentFilmEncoder):
            save_film_network(inside, recurrence, image=_pictures(settings), note=_NOTES[settings.task])
        (inside / "README.md").write_text(f"---\nlicense: {OWN_LICENCE}\n---\n", encoding="utf-8")
        config = encoder_config(modality, str(inside), settings)
        base = load_encoder(config)
    save_projected(folder, base, config, part.tower.projection(), note=_NOTES[settings.task])
    return base
