"""The catalogue's texts as a model with a text encoder of its own reads them: token ids, and the bundle's fitted map.

Both are public constants of the feature bundle. The ids are stored in the bundle and not made at every site, because
another version of a tokenizer may cut a text differently; so what a run reads is pinned by the bundle's digest, and an
exported model needs no tokenizer.

Shapes: N items, R tokens of all texts, D width of the encoder, K width of the bundle's vectors, T tokens of a text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmrec_model.errors import FeatureError
from mmrec_model.features.folder import open_tokens, open_transform
from mmrec_model.features.transform import CatalogueTransform

_SHORTEST = 1e-9


@dataclass(frozen=True)
class Texts:
    """Texts of a list of items.

    Attributes:
        ids_R: token ids of all N texts, one behind the other.
        offsets_N1: `[N + 1]`; text n owns `ids_R[offsets_N1[n]:offsets_N1[n + 1]]`.
        mean_D: of the catalogue's unit raw vectors.
        axes_DK: axes of the bundle's transform, whitened where the bundle is.
        index: `[...]`, which texts the list consists of.
    """

    ids_R: Tensor
    offsets_N1: Tensor
    mean_D: Tensor
    axes_DK: Tensor
    index: Tensor

    @classmethod
    def from_arrays(
        cls, ids_R: npt.NDArray[np.int32], offsets_N1: npt.NDArray[np.int64], fit: CatalogueTransform
    ) -> Texts:
        """All texts of a catalogue, in its order.

        Raises:
            FeatureError: the map reads a selection of the encoder's numbers, which a tuned encoder would outgrow.
        """
        if fit.kept_W is not None:
            raise FeatureError(
                f"the bundle's text map reads {int(fit.kept_W.sum())} selected numbers of {fit.width}",
                remedy="Build the bundle of a run that tunes its text encoder with select 'none'",
            )
        return cls(
            ids_R=torch.tensor(ids_R, dtype=torch.int64),
            offsets_N1=torch.tensor(offsets_N1, dtype=torch.int64),
            mean_D=torch.tensor(fit.mean_D, dtype=torch.float32),
            axes_DK=torch.tensor(fit.axes_DK, dtype=torch.float32),
            index=torch.arange(len(offsets_N1) - 1),
        )

    @classmethod
    def open(cls, bundle: Path) -> Texts | None:
        """The texts of a feature bundle; None if it was built without token ids.

        Raises:
            FeatureError: the bundle is damaged.
        """
        found = open_tokens(bundle)
        return None if found is None else cls.from_arrays(*found, open_transform(bundle, "text"))

    def take(self, index: Tensor) -> Texts:
        """The texts at `index` of this list."""
        return replace(self, index=self.index[index])

    def cut(self, start: int, stop: int) -> Texts:
        """Places `start:stop` of the last axis."""
        return replace(self, index=self.index[..., start:stop])

    def given(self) -> Tensor:
        """Whether each place of the list has a text, `[...]`."""
        return self.offsets_N1[self.index + 1] > self.offsets_N1[self.index]

    def tokens(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and mask `[..., T]` of the texts at `index`, T the longest of them and at least 1.

        An empty text is one padding token that counts, so that no attention is without a key; its vector means nothing.
        """
        start, length = self.offsets_N1[index], self.offsets_N1[index + 1] - self.offsets_N1[index]
        place_T = torch.arange(max(1, int(length.max())) if index.numel() else 1, device=index.device)
        given = place_T < length.unsqueeze(-1)
        at = torch.where(given, start.unsqueeze(-1) + place_T, torch.zeros_like(place_T))
        ids = torch.where(given, self.ids_R[at], torch.zeros_like(at)) if len(self.ids_R) else torch.zeros_like(at)
        return ids, given | (place_T == 0)

    def transformed(self, raw: Tensor) -> Tensor:
        """Raw vectors `[..., D]` to the bundle's unit vectors `[..., K]`, as `CatalogueTransform.apply`."""
        centred = normalize(raw, dim=-1, eps=_SHORTEST) - self.mean_D
        return normalize(centred @ self.axes_DK, dim=-1, eps=_SHORTEST)
