"""Encoder folders that say of themselves what they were pretrained on, file by file.

`pretraining.json` holds SHA-256 of every other file of its folder beside the task, the data and the figures; it is the
last file of a folder. A folder that has it is checked before any weight is read, so a damaged one is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmrec_model.errors import EncoderError
from mmrec_model.storage import sha256_of_file

CARD = "pretraining.json"
CARD_FORMAT = 1


def is_attested(folder: Path) -> bool:
    """Whether pretraining wrote `folder`."""
    return (folder / CARD).is_file()


def content_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` apart from its card, by name relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CARD)
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files}


def verify_attested(folder: Path) -> dict[str, Any]:
    """The card of `folder`, whose files are exactly the ones that it names.

    Raises:
        EncoderError: the card cannot be read or is of another format, or a file is absent, changed or not named.
    """
    try:
        card = json.loads((folder / CARD).read_text("utf-8"))
        format_number, expected = card["format"], dict(card["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"{folder.name}/{CARD} is not a card of pretraining ({type(error).__name__})", remedy=_COPY
        ) from error
    found = content_digests(folder)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if format_number != CARD_FORMAT or wrong:
        raise EncoderError(
            f"{folder.name}/{CARD} has format {format_number!r} and {len(wrong)} of its files differ"
            + (f", the first is {wrong[0]}" if wrong else f"; this version reads format {CARD_FORMAT}"),
            remedy=_COPY,
        )
    card_of: dict[str, Any] = card
    return card_of


_COPY = "Copy the whole folder again from where it was pretrained, or pretrain it again"
