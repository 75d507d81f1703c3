"""The loss as it is written in the paper, triples that know nothing of held-out items, and the scores that follow."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from mmrec_model.model.items import Items
from simulations.assessment import Panel
from simulations.rivals.bpr_mf import BprMf, FactorModel
from simulations.rivals.interface import UNKNOWN, Visitors, federation_of, visitors_of
from simulations.rivals.pairwise import Factors, OwnVectors, Schedule, Triples, bpr_loss, train_pairwise
from simulations.rivals.vbpr import ContentModel, Vbpr, joined

TRIPLE = (torch.tensor([0, 2, 1]), torch.tensor([3, 0, 1]), torch.tensor([1, 4, 2]))
ROWS = sparse.csr_matrix(np.random.default_rng(2).random((12, 9)) < 0.4)


def slow_loss(difference: list[float], norms: list[float], l2: float) -> float:
    terms = [-math.log(1 / (1 + math.exp(-d))) + l2 / 2 * n for d, n in zip(difference, norms, strict=True)]
    return sum(terms) / len(terms)


def test_the_loss_of_factors_is_that_of_the_paper() -> None:
    model = FactorModel(users=3, n_items=5, dims=4, seed=1)
    torch.nn.init.normal_(model.bias_N)
    users, items, bias = (part.detach().numpy() for part in (model.users_AD, model.items_ND, model.bias_N))
    difference, norms = [], []
    for u, i, j in zip(*(part.tolist() for part in TRIPLE), strict=True):
        difference.append(users[u] @ items[i] + bias[i] - users[u] @ items[j] - bias[j])
        norms.append(users[u] @ users[u] + items[i] @ items[i] + items[j] @ items[j])
    expected = slow_loss(difference, norms, 0.3)
    assert bpr_loss(*model.triple(TRIPLE), 0.3).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_vbpr_is_that_of_the_paper(planted_items: Items) -> None:
    model = ContentModel(3, joined(planted_items), Vbpr(dims=4, content_penalty=0.5), seed=1)
    torch.nn.init.normal_(model.bias_F)
    free, theta = (model.users_AD.detach().numpy()[:, part] for part in (slice(4), slice(4, 8)))
    items, content = model.items_ND.detach().numpy(), model.features_NF.numpy()
    map_, beta, bias = (part.detach().numpy() for part in (model.map_FD, model.bias_F, model.bias_N))

    def score(u: int, i: int) -> float:
        return float(bias[i] + beta @ content[i] + free[u] @ items[i] + theta[u] @ (map_.T @ content[i]))

    difference, norms = [], []
    for u, i, j in zip(*(part.tolist() for part in TRIPLE), strict=True):
        difference.append(score(u, i) - score(u, j))
        user = free[u] @ free[u] + theta[u] @ theta[u]
        norms.append(user + items[i] @ items[i] + items[j] @ items[j] + 0.5 * ((map_**2).sum() + beta @ beta))
    assert bpr_loss(*model.triple(TRIPLE), 0.1).item() == pytest.approx(slow_loss(difference, norms, 0.1), rel=1e-4)


def test_folding_in_has_the_same_loss_with_items_that_cost_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    users, items, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 4), (5, 4), (5,)))
    difference_B, norms_B = OwnVectors(users, items, bias).triple(TRIPLE)
    for place, (u, i, j) in enumerate(zip(*(part.tolist() for part in TRIPLE), strict=True)):
        expected = users[u] @ items[i] + bias[i] - users[u] @ items[j] - bias[j]
        assert difference_B[place].item() == pytest.approx(float(expected), abs=1e-5)
        assert norms_B[place].item() == pytest.approx(float(users[u] @ users[u]), rel=1e-5)


def test_content_is_masked_and_says_what_is_missing(planted_items: Items) -> None:
    estimated = {name: rows + 1.0 for name, rows in planted_items.vectors.items()}
    found = joined(replace(planted_items, vectors=estimated)).numpy()
    assert found[:, :7].any(axis=0).all()
    assert found.shape == (60, 4 + 3 + 2)
    absent = ~planted_items.present_M.numpy()
    assert not found[absent[:, 0], :4].any()
    assert not found[absent[:, 1], 4:7].any()
    assert np.array_equal(found[:, 7:], ~absent)


def test_an_epoch_has_every_row_once_and_draws_uniformly_outside_the_users_rows() -> None:
    triples, counts = Triples(ROWS, seed=1), np.zeros(ROWS.shape)
    owned = ROWS.toarray()
    for _ in range(400):
        seen = np.zeros(ROWS.shape)
        for users, items, drawn in triples.epoch(7):
            np.add.at(seen, (users.numpy(), items.numpy()), 1)
            np.add.at(counts, (users.numpy(), drawn.numpy()), 1)
        assert np.array_equal(seen, owned)
    assert not counts[owned].any()
    expected = 400 * owned.sum(axis=1, keepdims=True) / (~owned).sum(axis=1, keepdims=True)
    spread = np.where(owned, 0.0, (counts - expected) / np.sqrt(np.maximum(expected, 1.0)))
    assert np.abs(spread).max() < 4.5


def test_a_user_with_every_item_does_not_stop_the_draw() -> None:
    drawn = [triple[2] for triple in Triples(sparse.csr_matrix(np.ones((2, 3))), seed=1).epoch(10)]
    assert len(torch.cat(drawn)) == 6


def test_folding_in_moves_users_and_never_items(planted: Panel) -> None:
    model = FactorModel(5, 9, 4, seed=1)
    items, bias = model.items_ND.detach(), model.bias_N.detach()
    before = items.clone()
    own = OwnVectors(torch.zeros(12, 4), items, bias)
    train_pairwise(own, ROWS, Schedule(30, 0.1, 0.01), seed=1)
    assert torch.equal(items, before)
    assert [name for name, _ in own.named_parameters()] == ["users_AD"]
    products = (own.users_AD.detach() @ items.T).numpy()
    assert products[ROWS.toarray()].mean() > products[~ROWS.toarray()].mean()


def test_without_folding_in_the_score_is_the_product_with_the_trained_vector() -> None:
    model = FactorModel(12, 9, 4, seed=1)
    users, items, bias = model.users_AD.detach(), model.items_ND.detach(), torch.arange(9.0)
    fitted = Factors(users, items, bias, fold_in=Schedule(0, 0.1, 0.1), seed=1)
    visitors = Visitors(ROWS[:3], np.zeros(3, dtype=np.int64), np.array([4, UNKNOWN, 0]))
    found = fitted.scorer(visitors)(np.arange(3))
    expected = np.stack([users[4] @ items.T + bias, bias, users[0] @ items.T + bias])
    assert found == pytest.approx(expected, abs=1e-5)


def test_vbpr_ranks_an_item_that_nobody_has_met_by_its_content(planted: Panel, planted_items: Items) -> None:
    cold = np.array([3, 18, 33, 48])
    train = planted.train.tolil()
    train[:, cold] = 0
    federation = federation_of(planted, planted_items)
    federation = type(federation)(train.tocsr(), federation.partner_A, planted_items)
    visitors = visitors_of(planted)
    group_U = np.asarray(planted.task.targets_U) // 15
    own_U = np.arange(800), group_U
    gap = {}
    for rival in (Vbpr(dims=8, epochs=20, learning_rate=0.05), BprMf(dims=8, epochs=20, learning_rate=0.05)):
        scores = rival.fit(federation, seed=1).scorer(visitors)(np.arange(800))[:, cold]
        gap[rival.name] = scores[own_U].mean() - np.delete(scores, 0, axis=1).mean()
    assert gap["vbpr"] > 1.0 > abs(gap["bpr_mf"])
