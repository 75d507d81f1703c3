"""What every frozen encoder promises: medium in, one vector out, and a digest that changes whenever a vector could.

Promises:
1. `encode` never raises for a damaged, empty or hostile medium: it answers `False` in the mask and a row of zeros.
2. `digest` covers weights, transform and pooling, and nothing of the machine: not the batch size, device or folder.
3. No gradient exists and no weight moves: encoders fill the item feature store and do nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import Modality

Vectors: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]


class Encoder(Protocol):
    """One frozen encoder of one modality."""

    @property
    def modality(self) -> Modality:
        """The medium it reads."""

    @property
    def name(self) -> str:
        """Short name for reports; the same on every machine."""

    @property
    def dim(self) -> int:
        """Width of a vector."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over everything a vector depends on apart from the medium."""

    @property
    def note(self) -> str:
        """One sentence for people: where the weights come from and what the vectors can carry."""

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Encode texts (`str`) or media files (`Path`).

        Returns:
            float32 [n, dim] with zero rows where nothing could be encoded, and bool [n]: False = unreadable or empty.
        """


def recipe_digest(recipe: dict[str, JsonValue]) -> str:
    """Digest of an encoder from the facts its vectors depend on; weights appear in it by their own digests."""
    return sha256_hex(canonical_json(recipe))
