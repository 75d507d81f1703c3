"""What pretraining reads: the items of a catalogue and their media, and which of them are held out.

Promises:
1. Of a partner folder only `items.*` and the media that it names are opened; no interaction and no user.
2. Items with the same text are on the same side of the split, so nothing held out was read in training.
3. Split and digest are functions of the seed and the items alone.

Shapes: N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import MODALITIES, Modality
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.errors import DataError
from mmrec_model.features.bundle import item_text
from mmrec_model.storage import sha256_of_file

FEWEST_ITEMS = 20
LEAST_HELD_OUT = 2


@dataclass(frozen=True)
class Corpus:
    """N items.

    Attributes:
        item_ids: in file order.
        titles: one per item, "" where missing.
        descriptions: one per item, "" where missing.
        texts: what a text encoder reads of every item, "" where there is nothing.
        media: a path or None per item, for "image", "audio" and "video".
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    descriptions: tuple[str, ...]
    texts: tuple[str, ...]
    media: dict[str, tuple[Path | None, ...]]

    def __len__(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    def inputs(self, modality: Modality) -> list[str | Path | None]:
        """What an encoder of `modality` reads of every item; None where there is nothing."""
        return [text or None for text in self.texts] if modality == "text" else list(self.media[modality])

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that at least one item has."""
        return tuple(modality for modality in MODALITIES if any(one is not None for one in self.inputs(modality)))

    def digest(self, modalities: tuple[Modality, ...]) -> str:
        """SHA-256 over ids, texts and the content of the media that a task reads; names of files play no part."""
        described: dict[str, JsonValue] = {"ids": list(self.item_ids)}
        if "text" in modalities:
            described["titles"], described["descriptions"] = list(self.titles), list(self.descriptions)
        for modality in modalities:
            if modality != "text":
                described[modality] = [None if path is None else _digest_of(path) for path in self.media[modality]]
        return sha256_hex(canonical_json(described))

    def held_out(self, seed: int, share: float) -> npt.NDArray[np.bool_]:
        """Whether an item never trains, bool [N]; at least two items, or texts, on either side."""
        keys = [text or f"\0{item}" for text, item in zip(self.texts, self.item_ids, strict=True)]
        ranked = sorted(set(keys), key=lambda key: sha256_hex(f"{seed}\0{key}".encode("utf-8", "surrogatepass")))
        kept_back = set(ranked[: max(LEAST_HELD_OUT, round(share * len(ranked)))])
        return np.array([key in kept_back for key in keys], dtype=bool)


def read_corpus(folder: Path) -> Corpus:
    """The items of `folder`.

    Raises:
        DataError: the items cannot be used, or are fewer than `FEWEST_ITEMS`.
    """
    catalogue = open_catalogue(folder)
    if len(catalogue) < FEWEST_ITEMS:
        raise DataError(
            f"the catalogue has {len(catalogue)} items, the least for pretraining is {FEWEST_ITEMS}",
            remedy="Use a published encoder as it is, or a larger catalogue",
        )
    texts = tuple(item_text(*pair) for pair in zip(catalogue.titles, catalogue.texts, strict=True))
    return Corpus(catalogue.item_ids, catalogue.titles, catalogue.texts, texts, dict(catalogue.media))


def _digest_of(path: Path) -> str | None:
    try:
        return sha256_of_file(path)
    except OSError:
        return None
