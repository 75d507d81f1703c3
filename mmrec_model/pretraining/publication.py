"""From trained weights to a folder that is whole or absent, with a card that says what it is.

    OUT/pretraining.json   task, data digest, base, licence, epochs, held-out figures, SHA-256 of every file
    OUT/README.md          the licence of the base, and the same for people

The work is done in `.OUT.pretraining` beside OUT: the checkpoint lies there until the result has been renamed to OUT.
No file holds a time or a path, so the same training gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrec_model.canonical import sha256_hex
from mmrec_model.encoders.attested import CARD, CARD_FORMAT, content_digests, is_attested
from mmrec_model.encoders.interface import UNKNOWN_LICENCE
from mmrec_model.errors import EncoderError, UsageError
from mmrec_model.pretraining.loop import History
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.storage import fsync_folder, write_atomically

_RESULT = "result"
_DIGITS = 6


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from.

    Attributes:
        data_digest: of the items that were read.
        items: how many there are.
        held_out: how many of them never trained.
        base: name and digest of what the training started from, per modality.
        licence: of these weights.
    """

    data_digest: str
    items: int
    held_out: int
    base: Mapping[str, Mapping[str, str]]
    licence: str


def claim(out: Path, *, overwrite: bool) -> Path:
    """The working folder of `out`, with the checkpoint of an interrupted training unless `overwrite`.

    Raises:
        UsageError: `out` exists and may not be replaced, or is not something that pretraining wrote.
        EncoderError: the folder cannot be made.
    """
    work = out.parent / f".{out.name}.pretraining"
    if out.exists() and not (overwrite and (is_attested(out) or not any(out.iterdir()))):
        raise UsageError(
            f"{out} exists already" + (" and was not written by pretraining" if overwrite else ""),
            remedy="Name a new folder" if overwrite else "Name a new folder, or replace this one with --overwrite",
        )
    if overwrite:
        shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work / _RESULT, ignore_errors=True)
        (work / _RESULT).mkdir()
    except OSError as error:
        raise EncoderError(
            f"the working folder {work} cannot be made: {error.strerror or error}",
            remedy="Give an output folder that this process may write",
        ) from error
    return work


def result_folder(work: Path) -> Path:
    """Where the files of the result are gathered."""
    return work / _RESULT


def describe(settings: PretrainingSettings, provenance: Provenance, history: History) -> dict[str, Any]:
    """What every card says."""
    return {
        "task": settings.task,
        "epsilon": 0,
        "settings": settings.model_dump(mode="json", exclude={"workers", "device"}),
        "data": {"digest": provenance.data_digest, "items": provenance.items, "held_out": provenance.held_out},
        "base": {name: dict(facts) for name, facts in sorted(provenance.base.items())},
        "licence": provenance.licence,
        "epochs": {"run": history.epochs, "kept": history.best_epoch},
        "held_out": {
            "before": {name: round(value, _DIGITS) for name, value in sorted(history.before.items())},
            "after": {name: round(value, _DIGITS) for name, value in sorted(history.best.items())},
        },
    }


def write_card(folder: Path, facts: Mapping[str, Any]) -> str:
    """Write README.md and then the card of `folder`, the last of its files; return the digest of the card."""
    write_atomically(folder / "README.md", _readme(facts).encode())
    card = {**facts, "format": CARD_FORMAT, "files": content_digests(folder)}
    content = (json.dumps(card, indent=2, sort_keys=True) + "\n").encode()
    write_atomically(folder / CARD, content)
    return sha256_hex(content)


def publish(work: Path, out: Path) -> None:
    """Rename the finished result to `out`, replacing what `claim` allowed, and forget the checkpoint.

    Raises:
        EncoderError: the folder cannot be renamed.
    """
    try:
        if out.exists():
            shutil.rmtree(out)
        result_folder(work).rename(out)
        fsync_folder(out.parent)
    except OSError as error:
        raise EncoderError(
            f"the result cannot be renamed to {out}: {error.strerror or error}",
            remedy=f"Make room and repeat the command; the training is kept in {work.name}",
        ) from error
    shutil.rmtree(work, ignore_errors=True)


def _readme(facts: Mapping[str, Any]) -> str:
    licence = facts["licence"]
    front = f"---\nlicense: {json.dumps(licence)}\n---\n" if licence != UNKNOWN_LICENCE else ""
    base = "; ".join(f"{name}: {one['name']}" for name, one in facts["base"].items())
    after, epochs, data = facts["held_out"]["after"], facts["epochs"], facts["data"]
    figures = "".join(f"| {name} | {value:g} |\n" for name, value in after.items())
    return (
        f"{front}# Pretrained encoder ({facts['task']})\n\n"
        f"Base: {base} (licence: {licence}). Trained for {epochs['run']} epochs on {data['items']} items of a public "
        f"catalogue, {data['held_out']} of them held out; the weights are of epoch {epochs['kept']}. No user and no "
        f"interaction was read (epsilon 0).\n\n| held out | |\n|---|---|\n{figures}"
    )
