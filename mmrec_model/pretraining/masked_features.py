"""Masked features: an item's vector in one modality is predicted from its vectors in the others.

The masking of Devlin et al. 2019 (section 3.1) with modalities in the place of words, and regression on the hidden
vector as in masked region modelling (Chen et al. 2020, UNITER, section 3.2); the loss is 1 - cosine. Every visible
modality is carried into the shared space by its head; their mean, changed by a small network that is told by a learned
mask token which modality is hidden, goes back through the transposed head of the hidden one. Targets are frozen, so
the heads cannot make the task easy by mapping everything to one point.

Shapes: N items, B items of a batch, M modalities, P principal axes, K shared width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmrec_model.canonical import sha256_hex
from mmrec_model.config import Modality
from mmrec_model.pretraining.loop import Figures
from mmrec_model.pretraining.settings import PretrainingSettings
from mmrec_model.pretraining.towers import FrozenTower, sharing_pairs

Rows = npt.NDArray[np.int64]


class Predictor(nn.Module):
    """From the visible modalities of items to a guess at the hidden one."""

    def __init__(self, towers: Mapping[Modality, FrozenTower], width: int) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(dict(towers.items()))
        self.mask_MK = nn.Parameter(torch.randn(len(towers), width) * width**-0.5)
        self.change = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        nn.init.zeros_(self.change[-1].weight)  # type: ignore[arg-type]
        self._towers = dict(towers)

    def forward(self, rows: Rows, hidden: Modality) -> Tensor:
        """Unit vectors [B, P] of `hidden`, which is not read; every row has at least one other modality."""
        sum_BK = torch.zeros(len(rows), self.mask_MK.shape[1], device=self.mask_MK.device)
        for modality, tower in self._towers.items():
            own_B = np.flatnonzero(tower.present_N[rows])
            if modality != hidden and len(own_B):
                places_B = torch.from_numpy(own_B).to(sum_BK.device)
                sum_BK = sum_BK.index_add(0, places_B, tower(rows[own_B].tolist(), None))
        visible_BK = normalize(sum_BK)
        mask_K = self.mask_MK[list(self._towers).index(hidden)]
        guess_BK = visible_BK + self.change(visible_BK + mask_K)
        return normalize(guess_BK @ self._towers[hidden].head.weight)


class MaskedFeatureObjective:
    """See `mmrec_model.pretraining.loop.Objective`.

    Args:
        towers: per modality, frozen vectors and the head that is trained.
        item_ids: one per item; with seed and epoch an id decides which of its modalities is hidden.
        held_out_N: whether an item never trains.
        settings: width, batch size and seed.

    Raises:
        DataError: on one side of the split no pair of modalities shares two items.
    """

    def __init__(
        self, towers: Mapping[Modality, FrozenTower], item_ids: Sequence[str], held_out_N: npt.NDArray[np.bool_],
        settings: PretrainingSettings,
    ) -> None:  # fmt: skip
        pairs = sharing_pairs(towers, held_out_N)
        self.modalities: tuple[Modality, ...] = tuple(one for one in towers if any(one in pair for pair in pairs))
        self._towers = {modality: towers[modality] for modality in self.modalities}
        self._predictor = Predictor(self._towers, settings.width).to(settings.device)
        self.network: nn.Module = self._predictor
        self._item_ids, self._settings = item_ids, settings
        self._present_NM = np.stack([tower.present_N for tower in self._towers.values()], axis=1)
        usable_N = self._present_NM.sum(1) > 1
        self._training, self._held_out = np.flatnonzero(usable_N & ~held_out_N), np.flatnonzero(usable_N & held_out_N)
        self.steps = -(-len(self._training) // settings.batch_size)

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """The loss of each step, one modality hidden per item; see `Objective.losses`."""
        order = self._training[np.random.default_rng([self._settings.seed, epoch]).permutation(len(self._training))]
        for rows in np.array_split(order, self.steps):
            hidden_B = self.hidden(rows, epoch)
            cosines = [
                (self._predictor(rows[hidden_B == place], modality) * self._target(rows[hidden_B == place], modality))
                for place, modality in enumerate(self.modalities)
                if (hidden_B == place).any()
            ]
            yield 1.0 - torch.cat([one.sum(1) for one in cosines]).mean()

    def hidden(self, rows: Rows, epoch: int) -> Rows:
        """Which modality of each item is hidden in `epoch`, as a place in `modalities`: one that the item has."""
        places = []
        for row in rows:
            key = f"{self._settings.seed}\0{epoch}\0{self._item_ids[row]}"
            drawn = int(sha256_hex(key.encode("utf-8", "surrogatepass")), 16)
            present = np.flatnonzero(self._present_NM[row])
            places.append(present[drawn % len(present)])
        return np.array(places, dtype=np.int64)

    @torch.no_grad()
    def assess(self) -> Figures:
        """The loss with every modality of every held-out item hidden in turn, and cosines beside those of chance.

        Returns:
            `loss`, and per modality `cosine` of prediction and truth, `cosine_of_shuffled` (a prediction and the truth
            of another held-out item, mean over all such pairs) and `cosine_of_mean` (the best constant guess: the
            direction of the training items' mean).
        """
        figures, all_own = {}, []
        for place, modality in enumerate(self.modalities):
            rows, known = (one[self._present_NM[one, place]] for one in (self._held_out, self._training))
            truth_NP = self._target(rows, modality)
            cosine_NN = self._predictor(rows, modality) @ truth_NP.T
            all_own.append(cosine_NN.diagonal())
            others = len(rows) * (len(rows) - 1)
            figures[f"{modality} cosine"] = cosine_NN.diagonal().mean().item()
            figures[f"{modality} cosine_of_shuffled"] = (cosine_NN.sum() - cosine_NN.trace()).item() / others
            mean_P = normalize(self._target(known, modality).mean(0), dim=0)
            figures[f"{modality} cosine_of_mean"] = (truth_NP @ mean_P).mean().item()
        return {"loss": 1.0 - torch.cat(all_own).mean().item(), **figures}

    def _target(self, rows: Rows, modality: Modality) -> Tensor:
        return self._towers[modality].axes(rows.tolist())
