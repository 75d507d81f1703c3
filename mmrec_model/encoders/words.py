"""The words of a text, as the encoders that read words rather than a published tokenizer see them."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Runs of letters, digits and underscores, case folded, in order; the same on every machine."""
    return _WORD.findall(text.casefold())
