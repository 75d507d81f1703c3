"""Media hidden at random from a catalogue, as if they had never been delivered.

Each medium that an item has, its words included, is hidden with one probability, independently of all others. The draw
depends on the seed, the item's place and the medium alone; whoever knows the seed knows what is hidden. An item may
lose everything: then only its popularity counts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmrec_model.config import MODALITIES
from mmrec_model.data.catalogue import Catalogue
from mmrec_model.errors import UsageError

_STREAM = 30
"""Keeps this draw apart from others of the same seed."""


def hide_media(catalogue: Catalogue, share: float, seed: int) -> Catalogue:
    """The catalogue without the media that the draw hides.

    Args:
        catalogue: N items.
        share: probability of each medium of each item, 0..1, 1 excluded; with 0 the catalogue is returned as it is.
        seed: at least 0; a larger share hides what a smaller one does, and more.

    Raises:
        UsageError: a share outside its range.
    """
    if not 0.0 <= share < 1.0:
        raise UsageError(f"the share of hidden media is {share}, it must be in [0, 1)", remedy="Give e.g. 0.3")
    if not share:
        return catalogue
    hidden_NM = np.random.default_rng([seed, _STREAM]).random((len(catalogue), len(MODALITIES))) < share
    hidden: dict[str, list[bool]] = {name: hidden_NM[:, place].tolist() for place, name in enumerate(MODALITIES)}
    return replace(
        catalogue,
        titles=_blank(catalogue.titles, hidden["text"]),
        texts=_blank(catalogue.texts, hidden["text"]),
        media={
            name: tuple(None if gone else path for path, gone in zip(paths, hidden[name], strict=True))
            for name, paths in catalogue.media.items()
        },
    )


def _blank(texts: tuple[str, ...], hidden: list[bool]) -> tuple[str, ...]:
    return tuple("" if gone else text for text, gone in zip(texts, hidden, strict=True))
