"""VBPR: BPR-MF whose items also have what their frozen content vectors are mapped to.

He & McAuley, AAAI 2016, section "Visual Bayesian personalised ranking": score = b_i + beta . f_i + g_u . g_i +
theta_u . (E f_i). Here f_i joins the vectors of all modalities, zero where an item lacks one, and one number per
modality that says whether it is there, so that an absent picture is not read as an average one. The vectors stay
frozen; E and beta are shared by all items, so an item that nobody has met still gets a score from its content.

[g_u, theta_u] and [g_i, E f_i] are the vectors of the score, so visitors are answered as by BPR-MF
(`pairwise.Factors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmrec_model.errors import DataError
from mmrec_model.model.items import Items
from simulations.progress import Progress
from simulations.rivals.bpr_mf import FOLD_IN_EPOCHS
from simulations.rivals.interface import Federation, unheard
from simulations.rivals.pairwise import Factors, PairwiseModel, Schedule, Triple, start_vectors, train_pairwise


@dataclass(frozen=True)
class Vbpr:
    """Settings.

    Attributes:
        dims: width of the free vectors; the content part has the same.
        epochs: passes over the train rows.
        learning_rate: of Adam.
        l2: penalty on the free vectors of a triple.
        content_penalty: penalty on E and beta, in multiples of `l2`.
    """

    dims: int = 32
    epochs: int = 60
    learning_rate: float = 0.005
    l2: float = 0.01
    content_penalty: float = 0.1

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "vbpr"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> Factors:
        """Train.

        Raises:
            DataError: the federation has no item features.
        """
        if federation.items is None:
            raise DataError("VBPR without item features", remedy="Give the items of the feature bundle")
        model = ContentModel(federation.train.shape[0], joined(federation.items), self, seed)
        schedule = Schedule(self.epochs, self.learning_rate, self.l2)
        train_pairwise(model, federation.train, schedule, seed, name=self.name, progress=progress)
        items_ND, bias_N = (found.detach() for found in model.read_items())
        fold_in = Schedule(FOLD_IN_EPOCHS, self.learning_rate, self.l2)
        return Factors(model.users_AD.detach(), items_ND, bias_N, fold_in=fold_in, seed=seed)


def joined(items: Items) -> Tensor:
    """Vectors of all modalities side by side, and which of them an item has `[N, sum of widths + modalities]`."""
    parts = [rows * items.present_M[:, place, None].to(rows.dtype) for place, rows in enumerate(items.vectors.values())]
    return torch.cat([*parts, items.present_M.to(torch.float32)], dim=1)


class ContentModel(PairwiseModel):
    """Free vectors and biases, and the shared map of the content."""

    def __init__(self, users: int, features_NF: Tensor, settings: Vbpr, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        n_items, width = features_NF.shape
        self.features_NF, self.settings = features_NF, settings
        self.users_AD = start_vectors(users, 2 * settings.dims, generator)
        self.items_ND = start_vectors(n_items, settings.dims, generator)
        self.map_FD = start_vectors(width, settings.dims, generator)
        self.bias_N = nn.Parameter(torch.zeros(n_items))
        self.bias_F = nn.Parameter(torch.zeros(width))

    def read_items(self) -> tuple[Tensor, Tensor]:
        """Vectors of all items, free then content, and their biases."""
        items_ND = torch.cat([self.items_ND, self.features_NF @ self.map_FD], dim=1)
        return items_ND, self.bias_N + self.features_NF @ self.bias_F

    def triple(self, triple: Triple) -> tuple[Tensor, Tensor]:
        """Free vectors and user vectors are penalised, the map and its bias `content_penalty` times as much."""
        users_B, items_B, drawn_B = triple
        items_ND, bias_N = self.read_items()
        users_BD = self.users_AD[users_B]
        difference_B = (users_BD * (items_ND[items_B] - items_ND[drawn_B])).sum(1) + bias_N[items_B] - bias_N[drawn_B]
        free_B = self.items_ND[items_B].square().sum(1) + self.items_ND[drawn_B].square().sum(1)
        shared = self.map_FD.square().sum() + self.bias_F.square().sum()
        return difference_B, users_BD.square().sum(1) + free_B + self.settings.content_penalty * shared
