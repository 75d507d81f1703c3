"""BPR-MF: matrix factorisation trained to rank.

Rendle et al., UAI 2009, section 4.3.1: score = user vector . item vector, here with a bias per item, without which the
vectors have to spend a dimension on popularity. Loss and training: `simulations.rivals.pairwise`. Evaluated users start
from their trained vectors and take a few epochs on the rows of the request (`pairwise.Factors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simulations.progress import Progress
from simulations.rivals.interface import Federation, unheard
from simulations.rivals.pairwise import Factors, PairwiseModel, Schedule, Triple, start_vectors, train_pairwise

FOLD_IN_EPOCHS = 5


@dataclass(frozen=True)
class BprMf:
    """Settings.

    Attributes:
        dims: width of the vectors.
        epochs: passes over the train rows.
        learning_rate: of Adam.
        l2: penalty on the vectors of a triple.
    """

    dims: int = 64
    epochs: int = 60
    learning_rate: float = 0.005
    l2: float = 0.01

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "bpr_mf"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> Factors:
        """Train."""
        users, n_items = federation.train.shape
        model = FactorModel(users, n_items, self.dims, seed)
        schedule = Schedule(self.epochs, self.learning_rate, self.l2)
        train_pairwise(model, federation.train, schedule, seed, name=self.name, progress=progress)
        fold_in = Schedule(FOLD_IN_EPOCHS, self.learning_rate, self.l2)
        return Factors(
            model.users_AD.detach(), model.items_ND.detach(), model.bias_N.detach(), fold_in=fold_in, seed=seed
        )


class FactorModel(PairwiseModel):
    """Vectors of users and items, biases of items."""

    def __init__(self, users: int, n_items: int, dims: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.users_AD = start_vectors(users, dims, generator)
        self.items_ND = start_vectors(n_items, dims, generator)
        self.bias_N = nn.Parameter(torch.zeros(n_items))

    def triple(self, triple: Triple) -> tuple[Tensor, Tensor]:
        """All three vectors are penalised, biases are not."""
        users_B, items_B, drawn_B = triple
        users_BD, items_BD, drawn_BD = self.users_AD[users_B], self.items_ND[items_B], self.items_ND[drawn_B]
        difference_B = (users_BD * (items_BD - drawn_BD)).sum(1) + self.bias_N[items_B] - self.bias_N[drawn_B]
        return difference_B, users_BD.square().sum(1) + items_BD.square().sum(1) + drawn_BD.square().sum(1)
