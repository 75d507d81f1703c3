"""One pretraining from a catalogue folder to an encoder folder."""

from __future__ import annotations

from pathlib import Path

from mmrec_model.errors import UsageError
from mmrec_model.features.bundle import Progress
from mmrec_model.pretraining.corpus import read_corpus
from mmrec_model.pretraining.loop import History
from mmrec_model.pretraining.publication import claim, publish
from mmrec_model.pretraining.settings import TEXT_TASKS, PretrainingSettings


def run_pretraining(
    data: Path, out: Path, settings: PretrainingSettings, *, overwrite: bool, progress: Progress
) -> History:
    """Train on the items of `data` and write the encoder to `out`, whole or not at all.

    Args:
        data: folder in partner format; interactions and users are not opened.
        out: for mlm and nsp the encoder itself; else a folder with one encoder per modality.
        settings: the task and how it is trained.
        overwrite: replace an earlier result, and forget an unfinished training instead of continuing it.
        progress: told (stage, done, total, unreadable media).

    Raises:
        UsageError: `out` may not be replaced, or the task does not fit the base.
        DataError: the items cannot be used, or are too few.
        EncoderError: a base cannot be loaded, the checkpoint is of another training, or the training fails.
    """
    if out.resolve() in (data.resolve(), *data.resolve().parents):
        raise UsageError(f"{out} holds the data", remedy="Name a folder of its own for the encoder")
    corpus = read_corpus(data)
    work = claim(out, overwrite=overwrite)
    if settings.task in TEXT_TASKS:
        from mmrec_model.pretraining.text_task import pretrain_text  # noqa: PLC0415 - transformers

        history = pretrain_text(corpus, settings, work, progress)
    else:
        from mmrec_model.pretraining.modalities_task import pretrain_modalities  # noqa: PLC0415 - torchvision

        history = pretrain_modalities(corpus, settings, work, progress)
    publish(work, out)
    return history
