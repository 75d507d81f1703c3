"""Items as the model sees them: frozen vectors per modality, which of them exist, and the popularity prior.

Shape legend, used in every file of this package:
    B users of a batch, K places of a history, L items of any list, N items of the catalogue,
    M modalities, T queries of a user, D width of a modality, H width of the fused space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmrec_model.config import Modality
from mmrec_model.errors import ModelError
from mmrec_model.model.texts import Texts


@dataclass(frozen=True)
class Items:
    """A list of items, of any leading shape `[...]`.

    Attributes:
        vectors: per modality `[..., D_m]`, unit rows, zero where the modality is missing.
        present_M: `[..., M]`, True where the item has the modality; M in the order of `vectors`.
        prior: `[...]`, standardised log popularity as released under DP; 0 before the release.
        place: `[...]`, whole numbers: where in the catalogue the item stands.
        texts: token ids, for a model with a text encoder of its own; other models do not read them.
        encoded: whether the text vectors are those of the model's own encoder.
    """

    vectors: dict[Modality, Tensor]
    present_M: Tensor
    prior: Tensor
    place: Tensor
    texts: Texts | None = None
    encoded: bool = False

    @classmethod
    def from_arrays(
        cls,
        vectors: Mapping[Modality, npt.NDArray[np.float32]],
        present_NM: npt.NDArray[np.bool_],
        prior_N: npt.NDArray[np.float32] | None = None,
        *,
        texts: Texts | None = None,
        device: str = "cpu",
    ) -> Items:
        """The whole catalogue on `device`; without `prior_N` every item is equally popular."""
        prior = np.zeros(len(present_NM), dtype=np.float32) if prior_N is None else prior_N
        return cls(
            vectors={name: torch.tensor(np.asarray(rows), device=device) for name, rows in vectors.items()},
            present_M=torch.tensor(np.asarray(present_NM), device=device),
            prior=torch.tensor(np.asarray(prior, dtype=np.float32), device=device),
            place=torch.arange(len(prior), device=device),
            texts=texts,
        )

    def take(self, index: Tensor) -> Items:
        """The items at `index` (whole numbers of any shape) of a catalogue."""
        return replace(
            self,
            vectors={name: rows[index] for name, rows in self.vectors.items()},
            present_M=self.present_M[index],
            prior=self.prior[index],
            place=self.place[index],
            texts=None if self.texts is None else self.texts.take(index),
        )

    def cut(self, start: int, stop: int) -> Items:
        """Places `start:stop` of the list axis (the last axis of `prior`)."""
        return replace(
            self,
            vectors={name: rows[..., start:stop, :] for name, rows in self.vectors.items()},
            present_M=self.present_M[..., start:stop, :],
            prior=self.prior[..., start:stop],
            place=self.place[..., start:stop],
            texts=None if self.texts is None else self.texts.cut(start, stop),
        )

    def rows(self, part: slice) -> Items:
        """Some of the users of lists `[B, ...]`."""
        return self.take(torch.arange(len(self.prior), device=self.prior.device)[part])

    def behind(self, first: Items) -> Items:
        """These items behind others in one list; both with text vectors that are read already."""
        return Items(
            vectors={name: torch.cat([first.vectors[name], rows], dim=-2) for name, rows in self.vectors.items()},
            present_M=torch.cat([first.present_M, self.present_M], dim=-2),
            prior=torch.cat([first.prior, self.prior], dim=-1),
            place=torch.cat([first.place, self.place], dim=-1),
            encoded=True,
        )

    def with_prior(self, prior_N: npt.NDArray[np.float32]) -> Items:
        """The same catalogue with another popularity prior."""
        return replace(self, prior=torch.tensor(prior_N, dtype=torch.float32, device=self.prior.device))

    def only(self, modalities: Iterable[Modality]) -> Items:
        """The same items with these modalities alone, in this order.

        Raises:
            ModelError: the items lack one of them.
        """
        wanted, own = tuple(modalities), tuple(self.vectors)
        if wanted == own:
            return self
        unknown = [name for name in wanted if name not in own]
        if unknown:
            raise ModelError(
                f"the items have {list(own)} and no {unknown}", remedy="Use the feature bundle that the run names"
            )
        present_M = self.present_M[..., [own.index(name) for name in wanted]]
        return replace(self, vectors={name: self.vectors[name] for name in wanted}, present_M=present_M)

    def hiding(self, kept_M: Tensor) -> Items:
        """The same items as if they lacked the modalities that are not kept; an item left with none keeps all.

        Args:
            kept_M: bool `[..., M]`, of the shape of `present_M`.
        """
        left_M = self.present_M & kept_M
        left_M = torch.where(left_M.any(-1, keepdim=True), left_M, self.present_M)
        hidden_M = self.present_M & ~left_M
        vectors = {
            name: rows.masked_fill(hidden_M[..., place : place + 1], 0.0)
            for place, (name, rows) in enumerate(self.vectors.items())
        }
        return replace(self, vectors=vectors, present_M=left_M)
