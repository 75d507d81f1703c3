"""Contrastive alignment of modalities: an item's picture is closer to its own text than to the others (InfoNCE).

InfoNCE (van den Oord et al. 2018, equation 4) in both directions, as in CLIP (Radford et al. 2021), averaged over the
pairs of modalities. Retrieval asks of every held-out item that has both: among all held-out items, at which rank of
similarity is its own? Shapes: B items of a batch, N held-out items, K shared width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmrec_model.config import Modality
from mmrec_model.pretraining.loop import Figures
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.pretraining.towers import LEAST_SHARED, Tower, sharing_pairs

_CUTOFFS = (1, 10)
Rows = npt.NDArray[np.int64]


def symmetric_info_nce(first_BK: Tensor, second_BK: Tensor, temperature: float) -> Tensor:
    """Mean cross entropy, in nats, of finding each row's partner among B, over both directions; unit rows."""
    scores_BB = first_BK @ second_BK.T / temperature
    own_B = torch.arange(len(scores_BB), device=scores_BB.device)
    return (cross_entropy(scores_BB, own_B) + cross_entropy(scores_BB.T, own_B)) / 2


def retrieval(query_NK: Tensor, answer_NK: Tensor) -> dict[str, float]:
    """Recall of the own answer among all N, and the mean share of the others that rank above it (0.5 is chance).

    Returns:
        `recall_at_k`, `chance_at_k` for k of 1 and 10, and `mean_rank_share`; a tie counts as one half.
    """
    scores_NN = query_NK.double() @ answer_NK.double().T
    own_N1 = scores_NN.diagonal()[:, None]
    ties_N = (scores_NN == own_N1).sum(1) - 1
    rank_N = (scores_NN > own_N1).sum(1) + ties_N / 2
    count = len(scores_NN)
    figures = {f"recall_at_{k}": float((rank_N < k).double().mean()) for k in _CUTOFFS}
    figures |= {f"chance_at_{k}": min(1.0, k / count) for k in _CUTOFFS}
    return figures | {"mean_rank_share": float(rank_N.double().mean()) / max(1, count - 1)}


class AlignmentObjective:
    """See `mmrec_model.pretraining.loop.Objective`.

    Args:
        towers: per modality, what carries its items into the shared space.
        held_out_N: whether an item never trains.
        settings: temperature, batch size and seed.

    Raises:
        DataError: on one side of the split no pair of modalities shares two items.
    """

    def __init__(
        self, towers: Mapping[Modality, Tower], held_out_N: npt.NDArray[np.bool_], settings: PretrainingSettings
    ) -> None:
        self.network: nn.Module = nn.ModuleDict(dict(towers.items())).to(settings.device)
        self._towers, self._settings = towers, settings
        self._training, self._held_out = np.flatnonzero(~held_out_N), np.flatnonzero(held_out_N)
        self._pairs = sharing_pairs(towers, held_out_N)
        self.modalities: tuple[Modality, ...] = tuple(one for one in towers if any(one in pair for pair in self._pairs))
        count_N = np.sum([towers[modality].present_N for modality in self.modalities], axis=0)
        self._training = self._training[count_N[self._training] > 1]
        self.steps = -(-len(self._training) // settings.batch_size)

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """The loss of each step; see `Objective.losses`."""
        order = self._training[np.random.default_rng([self._settings.seed, epoch]).permutation(len(self._training))]
        for rows in np.array_split(order, self.steps):
            yield self._loss(self._vectors(rows, epoch), rows)

    @torch.no_grad()
    def assess(self) -> Figures:
        """The loss over all held-out items at once, and for every ordered pair how often the own answer is found."""
        vectors = self._vectors(self._held_out, None)
        figures = {"loss": self._loss(vectors, self._held_out).item()}
        for first, second in self._pairs:
            both = self._both((first, second), self._held_out)
            for query, answer in ((first, second), (second, first)):
                found = retrieval(*(self._rows_of(vectors, one, self._held_out, both) for one in (query, answer)))
                figures |= {f"{query}->{answer} {name}": value for name, value in found.items()}
        return figures

    def _vectors(self, rows: Rows, epoch: int | None) -> dict[Modality, Tensor]:
        """Unit vectors of the items of `rows` that have the modality, in their order."""
        vectors = {}
        for modality in self.modalities:
            tower = self._towers[modality]
            own = rows[tower.present_N[rows]]
            if len(own):
                vectors[modality] = tower(own.tolist(), epoch)
        return vectors

    def _loss(self, vectors: Mapping[Modality, Tensor], rows: Rows) -> Tensor:
        losses = []
        for pair in self._pairs:
            both = self._both(pair, rows)
            if both.sum() >= LEAST_SHARED:
                first, second = (self._rows_of(vectors, one, rows, both) for one in pair)
                losses.append(symmetric_info_nce(first, second, self._settings.temperature))
        return torch.stack(losses).mean() if losses else sum(one.sum() * 0.0 for one in vectors.values())  # type: ignore[return-value]

    def _rows_of(
        self, vectors: Mapping[Modality, Tensor], modality: Modality, rows: Rows, wanted: npt.NDArray[np.bool_]
    ) -> Tensor:
        present = self._towers[modality].present_N[rows]
        return vectors[modality][torch.from_numpy(wanted[present])]

    def _both(self, pair: Sequence[Modality], rows: Rows) -> npt.NDArray[np.bool_]:
        both: npt.NDArray[np.bool_] = self._towers[pair[0]].present_N[rows] & self._towers[pair[1]].present_N[rows]
        return both
