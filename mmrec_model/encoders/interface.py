"""What every frozen encoder promises: medium in, one vector out, and a digest that changes whenever a vector could.

Promises:
1. `encode` never raises for a damaged, empty or hostile medium: it answers `False` in the mask and a row of zeros.
2. `digest` covers weights, transform, pooling and number format, and nothing of the machine: not the batch size,
   device or folder. It is the digest of `recipe`, which lists them.
3. No gradient exists and no weight moves: encoders fill the item feature store and do nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from mmrec_model.canonical import JsonValue, canonical_json, sha256_hex
from mmrec_model.config import Modality
from mmrec_model.config_types import Precision

Vectors: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]
Recipe: TypeAlias = dict[str, JsonValue]

OWN_LICENCE = "Apache-2.0"
"""Of networks and statistics that this package makes itself."""
UNKNOWN_LICENCE = "unknown"


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
    def recipe(self) -> Mapping[str, JsonValue]:
        """Everything a vector depends on apart from the medium; weights by their SHA-256."""

    @property
    def digest(self) -> str:
        """`recipe_digest` of the recipe."""

    @property
    def licence(self) -> str:
        """Of the weights, as their publisher's model card or configuration names it; "unknown" where neither does."""

    @property
    def note(self) -> str:
        """One sentence for people: where the weights come from and what the vectors can carry."""

    def encode(self, inputs: Sequence[str | Path]) -> tuple[Vectors, Mask]:
        """Encode texts (`str`) or media files (`Path`).

        Returns:
            float32 [n, dim] with zero rows where nothing could be encoded, and bool [n]: False = unreadable or empty.
        """


@runtime_checkable
class CatalogueEncoder(Encoder, Protocol):
    """An encoder that learned from the catalogue: nobody else publishes it, so it travels inside the bundle."""

    def files(self) -> dict[str, bytes]:
        """The content of its folder, by plain file name; `source` = that folder gives this very encoder again."""


def recipe_digest(recipe: Mapping[str, JsonValue]) -> str:
    """Digest of an encoder from the facts its vectors depend on; weights appear in it by their own digests."""
    return sha256_hex(canonical_json(dict(recipe)))


def at_precision(recipe: Recipe, dtype: Precision) -> Recipe:
    """The recipe of an encoder that computes in `dtype`; float32 needs no mention."""
    return recipe if dtype == "float32" else {**recipe, "dtype": dtype}
