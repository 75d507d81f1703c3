"""Next-sentence pairs of a catalogue's texts (Devlin et al. 2019, section 3.1).

An item's title is its first sentence. A text is cut between two of its sentences; half of the pairs keep their second
part, half get the second part of another item. Every pair is a function of seed and epoch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_END = re.compile(r"(?<=[.!?;])\s+|\n+")


@dataclass(frozen=True)
class Pair:
    """Two parts of texts.

    Attributes:
        item: whose first part it is.
        first: what comes before.
        second: what is said to come next.
        follows: whether it does.
    """

    item: int
    first: str
    second: str
    follows: bool


def sentences_of(title: str, text: str) -> list[str]:
    """The title and the sentences of the text, without empty ones and without one that repeats the title."""
    parts = [title.strip(), *(part.strip() for part in _END.split(text))]
    return [part for place, part in enumerate(parts) if part and (place == 0 or part != parts[0])]


def draw_pairs(documents: Sequence[Sequence[str]], seed: int, epoch: int, *, both: bool = False) -> list[Pair]:
    """One pair of every document with two sentences, in order of the documents.

    Args:
        documents: sentences per item.
        seed: of the training.
        epoch: other epochs, other cuts and other wrong parts.
        both: a true and a wrong pair of every document instead.
    """
    rng = np.random.default_rng([seed, epoch])
    usable = [number for number, sentences in enumerate(documents) if len(sentences) > 1]
    cuts = {number: int(rng.integers(1, len(documents[number]))) for number in usable}
    pairs = []
    for place, number in enumerate(usable):
        other = usable[(place + 1 + int(rng.integers(len(usable) - 1))) % len(usable)] if len(usable) > 1 else number
        follows = bool(rng.integers(2))
        for true in (True, False) if both else (follows,):
            whose = number if true else other
            first, second = " ".join(documents[number][: cuts[number]]), " ".join(documents[whose][cuts[whose] :])
            pairs.append(Pair(number, first, second, true))
    return pairs
