"""LightGCN: vectors smoothed over the graph of users and items, with no weights but the vectors.

He, Deng, Wang, Li, Zhang & Wang, SIGIR 2020, section 3.1: one layer is E' = S E with S = D^-1/2 A D^-1/2 of the
bipartite graph, and the final vectors are the mean over the layers 0..L. Trained on the whole graph in every step with
the BPR loss and a penalty on the vectors of layer 0 (section 3.3).

A visitor's layers come from the request's history: layer k is the sum of the layer k-1 of its items / sqrt(own degree x
the item's train degree), and layer 0 is the trained vector, or zero for a user who was not in train. With the train
rows as history this is the trained vector itself.

S is symmetric and so is a mean of its powers, so the gradient is propagated by the same function.

Legend: A train users, U visitors, N items, D width of the vectors.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mmrec_model.evaluation.baselines import Csr
from mmrec_model.evaluation.ranking import Scorer
from simulations.progress import Progress
from simulations.rivals.interface import UNKNOWN, Federation, Visitors, unheard
from simulations.rivals.pairwise import PairwiseModel, Schedule, Triple, products, start_vectors, train_pairwise

BATCH = 16_384


@dataclass(frozen=True)
class LightGcn:
    """Settings.

    Attributes:
        dims: width of the vectors.
        layers: L, at least 1.
        epochs: passes over the train rows.
        learning_rate: of Adam.
        l2: penalty on the layer-0 vectors of a triple.
    """

    dims: int = 64
    layers: int = 2
    epochs: int = 60
    learning_rate: float = 0.02
    l2: float = 1e-4

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "lightgcn"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> Smoothed:
        """Train."""
        model = GraphModel(federation.train, self.dims, self.layers, seed)
        schedule = Schedule(self.epochs, self.learning_rate, self.l2, BATCH)
        train_pairwise(model, federation.train, schedule, seed, name=self.name, progress=progress)
        return Smoothed(model.vectors.detach(), model.graph)


class Graph:
    """The bipartite graph of train rows, and what smooths over it.

    Args:
        rows: users x items.
        layers: L.
    """

    def __init__(self, rows: Csr, layers: int) -> None:
        self.users, self.layers = int(rows.shape[0]), layers
        self.degree_N = np.asarray((rows > 0).sum(axis=0), dtype=np.float64).ravel()
        normal_AN = normalised(rows, self.degree_N)
        self.to_users, self.to_items = as_tensor(normal_AN), as_tensor(normal_AN.T)

    def steps(self, vectors: Tensor) -> list[Tensor]:
        """Layers 0..L of users followed by items `[A + N, D]`."""
        found = [vectors]
        for _ in range(self.layers):
            users_AD, items_ND = found[-1][: self.users], found[-1][self.users :]
            found.append(torch.cat([self.to_users @ items_ND, self.to_items @ users_AD]))
        return found

    def smooth(self, vectors: Tensor) -> Tensor:
        """Mean of the layers."""
        return torch.stack(self.steps(vectors)).mean(0)


class _Smooth(torch.autograd.Function):
    """`Graph.smooth`, a symmetric linear map."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, graph: Graph) -> Tensor:
        ctx.graph = graph
        return graph.smooth(vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.graph.smooth(gradients[0]), None


class GraphModel(PairwiseModel):
    """Layer-0 vectors of users and items over a graph."""

    def __init__(self, rows: Csr, dims: int, layers: int, seed: int) -> None:
        super().__init__()
        self.graph = Graph(rows, layers)
        self.vectors = start_vectors(sum(rows.shape), dims, torch.Generator().manual_seed(seed))

    def triple(self, triple: Triple) -> tuple[Tensor, Tensor]:
        """Scores from the smoothed vectors, penalty on those of layer 0."""
        users_B, items_B, drawn_B = triple[0], triple[1] + self.graph.users, triple[2] + self.graph.users
        smooth: Tensor = _Smooth.apply(self.vectors, self.graph)
        difference_B = (smooth[users_B] * (smooth[items_B] - smooth[drawn_B])).sum(1)
        norms_B = sum(
            (self.vectors[index_B].square().sum(1) for index_B in (users_B, items_B, drawn_B)), torch.zeros(1)
        )
        return difference_B, norms_B


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Trained layer-0 vectors with their graph.

    Attributes:
        vectors: users, then items `[A + N, D]`.
        graph: of the train rows.
    """

    vectors: Tensor
    graph: Graph

    def scorer(self, visitors: Visitors) -> Scorer:
        """Products with vectors that are smoothed over the visitors' histories."""
        steps = self.graph.steps(self.vectors)
        items = [step[self.graph.users :] for step in steps]
        to_visitors = as_tensor(normalised(visitors.rows, self.graph.degree_N))
        known_U = torch.from_numpy(visitors.train_rows_U != UNKNOWN)
        own_UD = self.vectors[torch.from_numpy(np.maximum(visitors.train_rows_U, 0))]
        layers = [torch.where(known_U[:, None], own_UD, 0.0), *(to_visitors @ layer_ND for layer_ND in items[:-1])]
        items_ND = torch.stack(items).mean(0)
        return products(torch.stack(layers).mean(0), items_ND, torch.zeros(len(items_ND)))


def normalised(rows: Csr, degree_N: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Csr:
    """Rows over users x items, each cell 1 / sqrt(the row's degree x the item's degree); items without users are 0."""
    ones = sparse.csr_matrix((rows > 0).astype(np.float64))
    degree_U = np.asarray(ones.sum(axis=1)).ravel()
    left, right = (np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0) for degree in (degree_U, degree_N))
    return sparse.csr_matrix(sparse.diags(left) @ ones @ sparse.diags(right))


def as_tensor(matrix: Csr) -> Tensor:
    """A sparse tensor in rows."""
    rows = sparse.csr_matrix(matrix, dtype=np.float32)
    places = torch.from_numpy(rows.indptr.astype(np.int64)), torch.from_numpy(rows.indices.astype(np.int64))
    with warnings.catch_warnings():  # torch calls its CSR tensors beta; the other form takes three times as long
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        return torch.sparse_csr_tensor(*places, torch.from_numpy(rows.data), size=rows.shape, check_invariants=False)
