"""What a partner adds to the exported model for its own users, from its own users alone; it never leaves the partner.

    score(user, item) = base + w_c sum_k w_k W[item_k, item] / sqrt(sum_k w_k^2) + w_p prior(item)

base is the exported model, or its free content profile where that does better for these users. W and prior are made as
those of the federation (`mmrec_model.collaboration`), of the partner's own histories and without noise. **They are not
differentially private**: who sees them, or many scores made with them, learns of the partner's users. Inside the
partner's walls that is what the partner knows anyway. Source of the idea: the personal parts of FedRecon (Singhal et
al., NeurIPS 2021), here one for all users of a partner.

Shapes: B users, N items of the catalogue, M items whose pairs are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmrec_model.collaboration.pairs import nearness
from mmrec_model.errors import ModelError
from mmrec_model.storage import write_atomically

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
HistoryScorer: TypeAlias = Callable[[Sequence[Ints]], Floats]
"""Histories of B users -> scores [B, N]; larger is better."""

FILE: Final = "home.safetensors"
_MODE: Final = 0o600
_PRIOR, _SCORER, _SELECTED, _WEIGHTS = "prior", "scorer", "selected", "weights"


@dataclass(frozen=True)
class HomeTerms:
    """The terms and how much each counts.

    Attributes:
        prior_N: standardised log popularity among the partner's own users.
        selected_M: places of the items whose pairs are known, ascending.
        scorer_MM: W; row: item of the history.
        pairs_weight: w_c, at least 0.
        prior_weight: w_p, at least 0.
        content_base: whether the base is the free content profile.
    """

    prior_N: Floats
    selected_M: Ints
    scorer_MM: Floats
    pairs_weight: float = 0.0
    prior_weight: float = 0.0
    content_base: bool = False

    def weighing(self, pairs: float, prior: float, *, content_base: bool) -> Self:
        """The same terms with other weights."""
        return replace(self, pairs_weight=pairs, prior_weight=prior, content_base=content_base)

    def pairs(self, histories: Sequence[Ints]) -> Floats:
        """The unweighted term of the own pairs `[B, N]`."""
        place_N = np.full(len(self.prior_N), -1, dtype=np.int64)
        place_N[self.selected_M] = np.arange(len(self.selected_M))
        seen_BM = np.zeros((len(histories), len(self.selected_M)), dtype=np.float32)
        for row, history in enumerate(histories):
            near = nearness(np.arange(len(history), dtype=np.float64)[::-1])
            places = place_N[history]
            kept = places >= 0
            np.add.at(seen_BM[row], places[kept], (near / max(1e-12, float(np.sqrt(near @ near))))[kept])
        found_BN = np.zeros((len(histories), len(self.prior_N)), dtype=np.float32)
        found_BN[:, self.selected_M] = seen_BM @ self.scorer_MM
        return found_BN

    def scorer(self, exported: HistoryScorer, content: HistoryScorer) -> HistoryScorer:
        """The score of the top of this page.

        Args:
            exported: the exported model.
            content: its free content profile.
        """

        def score(histories: Sequence[Ints]) -> Floats:
            base_BN = (content if self.content_base else exported)(histories)
            own_BN = self.prior_weight * self.prior_N + self.pairs_weight * self.pairs(histories)
            return np.asarray(base_BN + own_BN, dtype=np.float32)

        return score

    def write(self, folder: Path) -> None:
        """Keep the terms in a folder of the partner, mode 0600."""
        weights = np.array([self.pairs_weight, self.prior_weight, float(self.content_base)], dtype=np.float64)
        arrays = {_PRIOR: self.prior_N, _SCORER: self.scorer_MM, _SELECTED: self.selected_M, _WEIGHTS: weights}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_atomically(folder / FILE, save(contiguous), mode=_MODE)

    @classmethod
    def read(cls, folder: Path, items: int) -> Self:
        """What `write` kept.

        Args:
            folder: of the terms.
            items: of the catalogue, N.

        Raises:
            ModelError: absent, damaged, or of another catalogue.
        """
        try:
            arrays = load((folder / FILE).read_bytes())
            prior, scorer, selected = arrays[_PRIOR], arrays[_SCORER], arrays[_SELECTED].astype(np.int64)
            pairs_weight, prior_weight, content = arrays[_WEIGHTS].astype(np.float64).tolist()
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise ModelError(f"{folder / FILE} cannot be read: {error}", remedy="Make it again") from error
        fits = prior.shape == (items,) and scorer.shape == (len(selected), len(selected))
        inside = not len(selected) or (int(selected.min()) >= 0 and int(selected.max()) < items)
        if not (fits and inside and all(bool(np.isfinite(one).all()) for one in (prior, scorer, arrays[_WEIGHTS]))):
            raise ModelError(
                f"{folder / FILE} holds terms of {prior.shape} and {scorer.shape} for {items} items, or values that "
                "are not finite",
                remedy="Make it again for this model",
            )
        return cls(prior.astype(np.float32), selected, scorer.astype(np.float32), pairs_weight, prior_weight,
                   bool(content))  # fmt: skip
