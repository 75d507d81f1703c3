"""Masked language modelling and next-sentence pairs, from items to a transformers folder with its tokenizer."""

from __future__ import annotations

from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrec_model.encoders.hub import quiet_transformers
from mmrec_model.errors import EncoderError
from mmrec_model.features.bundle import Progress
from mmrec_model.pretraining.corpus import Corpus
from mmrec_model.pretraining.loop import History, train
from mmrec_model.pretraining.publication import Provenance, describe, result_folder, write_card
from mmrec_model.pretraining.sentence_pairs import sentences_of
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.pretraining.text_base import TextBase, load_text_base
from mmrec_model.pretraining.text_objective import TextObjective, Texts


def pretrain_text(corpus: Corpus, settings: PretrainingSettings, work: Path, progress: Progress) -> History:
    """Train, and write the result below `work`.

    Raises:
        DataError: too few texts.
        EncoderError: the base cannot be used, or the training fails.
    """
    held_out_N = corpus.held_out(settings.seed, settings.held_out)
    training = _texts(corpus, ~held_out_N)
    base = load_text_base([text for text in training.texts if text], settings)
    objective = TextObjective(base, training, _texts(corpus, held_out_N), settings)
    digest = corpus.digest(("text",))
    history = train(objective, settings, work, settings.fingerprint(f"{digest}/{base.digest}"), progress)
    folder = result_folder(work)
    _save(base, folder)
    source = {"text": {"name": base.name, "digest": base.digest}}
    provenance = Provenance(digest, len(corpus), int(held_out_N.sum()), source, base.licence)
    write_card(folder, describe(settings, provenance, history))
    return history


def _texts(corpus: Corpus, chosen_N: npt.NDArray[np.bool_]) -> Texts:
    documents = [sentences_of(*pair) for pair in zip(corpus.titles, corpus.descriptions, strict=True)]
    ids, texts = (tuple(compress(column, chosen_N)) for column in (corpus.item_ids, corpus.texts))
    return Texts(ids, texts, tuple(compress(documents, chosen_N)))


def _save(base: TextBase, folder: Path) -> None:
    """The encoder alone; the heads have done their work."""
    network = base.network.cpu()
    try:
        with quiet_transformers():
            network.save_pretrained(folder)  # type: ignore[operator]
            base.tokenizer.save_pretrained(folder)
    except OSError as error:
        raise EncoderError(
            f"the encoder folder cannot be written: {error.strerror or error}",
            remedy="Give an output folder on a disk with room for the weights",
        ) from error
