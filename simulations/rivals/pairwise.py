"""Bayesian personalised ranking: the loss, the triples and the training loop of the rivals that learn by gradients.

Rendle, Freudenthaler, Gantner & Schmidt-Thieme, UAI 2009, sections 4 and 5. For a user u, an item i of the user's train
rows and a drawn item j outside them, the loss is -log sigmoid(s_ui - s_uj) + l2 / 2 (squared norms of the vectors of
u, i and j), averaged over a batch. A triple's j is uniform over the items that are not in u's train rows; held-out
items are as likely as any other, because leaving them out would tell the model which they are. One epoch takes every
train row once. Adam (Kingma & Ba, ICLR 2015) instead of the paper's plain SGD. The same seed gives the same weights.

Legend: A users, B triples of a batch, N items, R train rows, D width of a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmrec_model.evaluation.baselines import Csr, Scores
from mmrec_model.evaluation.ranking import Ints, Scorer
from simulations.progress import Progress
from simulations.rivals.interface import UNKNOWN, Visitors, unheard

Triple: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Users, their items and drawn items, each `[B]`."""

START_SCALE = 0.1
_MOST_DRAWS = 100


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: passes over the train rows; 0 leaves the start as it is.
        learning_rate: of Adam.
        l2: penalty on the vectors of a triple.
        batch: triples per step.
    """

    epochs: int
    learning_rate: float
    l2: float
    batch: int = 4096


class PairwiseModel(nn.Module, ABC):
    """A model that scores a triple; subclasses say how."""

    @abstractmethod
    def triple(self, triple: Triple) -> tuple[Tensor, Tensor]:
        """Difference of the two scores, and sum of the squared norms that are penalised, each `[B]`."""


class Triples:
    """The train rows in a new order each epoch, each with an item that the user has not."""

    def __init__(self, rows: Csr, seed: int) -> None:
        users_R, items_R = rows.nonzero()
        self._users_R, self._items_R = users_R.astype(np.int64), items_R.astype(np.int64)
        self._n_items = int(rows.shape[1])
        self._owned_R = np.sort(self._code(self._users_R, self._items_R))
        self._generator = np.random.default_rng(seed)

    def epoch(self, batch: int) -> Iterator[Triple]:
        """Every row once."""
        order = self._generator.permutation(len(self._users_R))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            users_B, items_B = self._users_R[chosen], self._items_R[chosen]
            drawn_B = self._draw(users_B)
            yield torch.from_numpy(users_B), torch.from_numpy(items_B), torch.from_numpy(drawn_B)

    def _draw(self, users_B: Ints) -> Ints:
        """Uniform items outside the users' rows; a user who has nearly all may keep an owned one."""
        drawn_B = self._generator.integers(self._n_items, size=len(users_B))
        again = np.flatnonzero(self._owned(users_B, drawn_B))
        for _ in range(_MOST_DRAWS):
            if not again.size:
                break
            drawn_B[again] = self._generator.integers(self._n_items, size=again.size)
            again = again[self._owned(users_B[again], drawn_B[again])]
        return drawn_B

    def _owned(self, users_B: Ints, items_B: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        codes_B = self._code(users_B, items_B)
        places_B = np.searchsorted(self._owned_R, codes_B)
        return np.asarray(self._owned_R[np.minimum(places_B, len(self._owned_R) - 1)] == codes_B)

    def _code(self, users: Ints, items: Ints) -> Ints:
        return users * np.int64(self._n_items) + items


def bpr_loss(difference_B: Tensor, norms_B: Tensor, l2: float) -> Tensor:
    """Mean loss of a batch."""
    return (functional.softplus(-difference_B) + 0.5 * l2 * norms_B).mean()


def train_pairwise(
    model: PairwiseModel, rows: Csr, schedule: Schedule, seed: int, *, name: str = "", progress: Progress = unheard
) -> None:
    """Train in place on all rows.

    Args:
        model: what learns; its weights are the start.
        rows: users x items.
        schedule: how.
        seed: of order and negatives.
        name: of the stage that `progress` hears.
        progress: told after every epoch.
    """
    if rows.nnz == 0:
        return
    triples = Triples(rows, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate)
    for epoch in range(schedule.epochs):
        for triple in triples.epoch(schedule.batch):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(bpr_loss(*model.triple(triple), schedule.l2))
            optimizer.step()
        progress(name, epoch + 1, schedule.epochs)


def start_vectors(rows: int, width: int, generator: torch.Generator) -> nn.Parameter:
    """Small centred normal numbers `[rows, width]`."""
    return nn.Parameter(START_SCALE * torch.randn(rows, width, generator=generator))


class OwnVectors(PairwiseModel):
    """User vectors that learn while items and their biases stand still: how a history becomes a user."""

    def __init__(self, users_AD: Tensor, items_ND: Tensor, bias_N: Tensor) -> None:
        super().__init__()
        self.users_AD = nn.Parameter(users_AD.clone())
        self.items_ND, self.bias_N = items_ND, bias_N

    def triple(self, triple: Triple) -> tuple[Tensor, Tensor]:
        """Only the user's norm is penalised, as the others cannot change."""
        users_B, items_B, drawn_B = triple
        users_BD = self.users_AD[users_B]
        towards_BD = self.items_ND[items_B] - self.items_ND[drawn_B]
        difference_B = (users_BD * towards_BD).sum(1) + self.bias_N[items_B] - self.bias_N[drawn_B]
        return difference_B, users_BD.square().sum(1)


@dataclass(frozen=True, eq=False)
class Factors:
    """User and item vectors as trained; the score is their product plus the item's bias.

    A visitor's vector starts at that of the train row, or at zero where there is none, and takes `fold_in` on the
    history rows of the request with the items as they are. So everyone uses the same input, the validation item at test
    time included, and a new user is answered too.

    Attributes:
        users_AD: of the train rows.
        items_ND: of the catalogue.
        bias_N: of the catalogue.
        fold_in: how visitors learn.
        seed: of their triples.
    """

    users_AD: Tensor
    items_ND: Tensor
    bias_N: Tensor
    fold_in: Schedule
    seed: int

    def scorer(self, visitors: Visitors) -> Scorer:
        """Products with the visitors' vectors."""
        known_U = torch.from_numpy(visitors.train_rows_U != UNKNOWN)
        start_UD = torch.where(known_U[:, None], self.users_AD[torch.from_numpy(visitors.train_rows_U)], 0.0)
        model = OwnVectors(start_UD, self.items_ND, self.bias_N)
        train_pairwise(model, visitors.rows, self.fold_in, self.seed)
        return products(model.users_AD.detach(), self.items_ND, self.bias_N)


def products(users_UD: Tensor, items_ND: Tensor, bias_N: Tensor) -> Scorer:
    """Scores from vectors of visitors."""

    def answer(users_B: Ints) -> Scores:
        return np.asarray((users_UD[torch.from_numpy(users_B)] @ items_ND.T + bias_N).numpy(), dtype=np.float32)

    return answer
