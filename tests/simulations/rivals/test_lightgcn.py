"""Propagation against dense powers of the normalised adjacency, its gradient, and visitors who are known already."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import sparse

from simulations.rivals.interface import UNKNOWN, Federation, Visitors
from simulations.rivals.lightgcn import GraphModel, LightGcn, Smoothed

ROWS = (np.random.default_rng(2).random((7, 5)) < 0.5).astype(float)
ROWS[3] = 0.0
ROWS[:, 4] = 0.0


def dense_mean(rows: npt.NDArray[np.float64], layers: int) -> npt.NDArray[np.float64]:
    users, items = rows.shape
    adjacency = np.zeros((users + items, users + items))
    for u in range(users):
        for i in range(items):
            if rows[u, i]:
                value = 1 / np.sqrt(rows[u].sum() * rows[:, i].sum())
                adjacency[u, users + i] = adjacency[users + i, u] = value
    powers = [np.linalg.matrix_power(adjacency, k) for k in range(layers + 1)]
    return np.asarray(sum(powers) / (layers + 1))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_smoothing_is_the_mean_of_the_powers_and_so_is_its_gradient(layers: int) -> None:
    model = GraphModel(sparse.csr_matrix(ROWS), dims=4, layers=layers, seed=1)
    mean = torch.from_numpy(dense_mean(ROWS, layers)).float()
    triple = torch.tensor([0, 1, 5]), torch.tensor([1, 2, 0]), torch.tensor([3, 0, 2])
    difference, norms = model.triple(triple)
    start = model.vectors.detach().clone().requires_grad_()
    smooth = mean @ start
    expected = (smooth[triple[0]] * (smooth[7 + triple[1]] - smooth[7 + triple[2]])).sum(1)
    assert torch.allclose(difference, expected, atol=1e-6)
    length = sum(start[index].square().sum(1) for index in (triple[0], 7 + triple[1], 7 + triple[2]))
    assert torch.allclose(norms, length)
    (found,) = torch.autograd.grad(difference.square().sum(), model.vectors)
    (wanted,) = torch.autograd.grad(expected.square().sum(), start)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_visitor_with_the_train_rows_has_the_trained_vector_and_a_stranger_the_items_of_the_history() -> None:
    fitted = LightGcn(dims=4, layers=2, epochs=2).fit(Federation(sparse.csr_matrix(ROWS), np.zeros(7, int)), seed=1)
    trained = torch.from_numpy(dense_mean(ROWS, 2)).float() @ fitted.vectors
    scores = trained[:7] @ trained[7:].T
    nobody = np.zeros(7, dtype=np.int64)
    known = fitted.scorer(Visitors(sparse.csr_matrix(ROWS), nobody, np.arange(7)))(np.arange(7))
    assert known == pytest.approx(scores.numpy(), abs=1e-6)
    unknown = Visitors(sparse.csr_matrix(ROWS), nobody, np.full(7, UNKNOWN))
    without = Smoothed(fitted.vectors.clone(), fitted.graph)
    own = fitted.vectors[:7] / 3
    assert without.scorer(unknown)(np.arange(7)) == pytest.approx(
        ((trained[:7] - own) @ trained[7:].T).numpy(), abs=1e-6
    )
