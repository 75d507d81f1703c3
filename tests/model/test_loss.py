"""The loss splits per user: no user's number depends on another's rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec_model.data.batches import draw_batch
from mmrec_model.data.histories import Histories
from mmrec_model.model.loss import HistoryBatch, ranking_loss
from mmrec_model.model.recommender import build_model
from mmrec_model.model.scoring import score_catalogue


def histories() -> Histories:
    lists = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10], [11], []]
    users = np.repeat(np.arange(4), [len(row) for row in lists])
    return Histories.grouped(users, np.concatenate(lists).astype(np.int64), 4)


def batch_of(users: list[int], modality_dropout: float = 0.0) -> HistoryBatch:
    drawn = draw_batch(
        histories(), np.array(users), n_items=30, max_history=6, negatives=5, seed=1, modalities=2,
        modality_dropout=modality_dropout,
    )  # fmt: skip
    return HistoryBatch.from_users(drawn)


def test_each_users_loss_is_the_same_alone_and_in_company(catalogue, trained):
    together = ranking_loss(trained, catalogue, batch_of([0, 1, 2, 3]), "sampled_softmax")
    alone = torch.cat([ranking_loss(trained, catalogue, batch_of([user]), "sampled_softmax") for user in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_user_without_history_has_loss_zero_and_no_gradient(catalogue, trained):
    loss = ranking_loss(trained, catalogue, batch_of([3]), "sampled_softmax")
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert all(weight.grad is None or not weight.grad.any() for weight in trained.parameters())


def test_the_loss_equals_a_softmax_written_out_by_hand(catalogue, trained):
    batch = batch_of([1])
    with torch.no_grad():
        found = ranking_loss(trained, catalogue, batch, "sampled_softmax").item()
        scores = trained.config.temperature * trained(catalogue.take(batch.items_BL), batch.mask_BK)[0]
    terms = []
    for place in range(2):
        against = torch.cat([scores[place, place : place + 1], scores[place, 6:]])
        terms.append(-torch.log_softmax(against, 0)[0].item())
    assert abs(found - sum(terms) / 2) < 1e-5


def test_split_keeps_every_user_once():
    parts = batch_of([0, 1, 2, 3]).split(3)
    assert [len(part) for part in parts] == [3, 1]
    assert torch.equal(torch.cat([part.items_BL for part in parts]), batch_of([0, 1, 2, 3]).items_BL)


def test_a_hidden_modality_is_one_that_the_item_lacks_and_an_item_never_loses_all(catalogue, trained):
    batch = batch_of([0, 1, 2, 3], 0.6)
    whole, items = catalogue.take(batch.items_BL), batch.items(catalogue)
    assert (items.present_M <= whole.present_M).all()
    assert (items.present_M.any(-1) == whole.present_M.any(-1)).all()
    for place, (name, rows) in enumerate(items.vectors.items()):
        present = items.present_M[..., place]
        assert (rows[~present] == 0).all()
        assert torch.equal(rows[present], whole.vectors[name][present])
    assert (items.present_M < whole.present_M).any()
    assert not torch.equal(
        ranking_loss(trained, catalogue, batch, "sampled_softmax"),
        ranking_loss(trained, catalogue, batch_of([0, 1, 2, 3]), "sampled_softmax"),
    )


def test_hidden_modalities_split_and_train_per_user(catalogue, trained):
    batch = batch_of([0, 1, 2, 3], 0.6)
    together = ranking_loss(trained, catalogue, batch, "sampled_softmax")
    parts = torch.cat([ranking_loss(trained, catalogue, part, "sampled_softmax") for part in batch.split(3)])
    alone = torch.cat([ranking_loss(trained, catalogue, batch_of([user], 0.6), "sampled_softmax") for user in range(4)])
    torch.testing.assert_close(parts, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_evaluation_is_the_same_to_the_bit_with_modality_dropout_on_or_off(config, catalogue):
    scores = []
    for rate in (0.0, 0.9):
        training = config.training.model_copy(update={"modality_dropout": rate})
        model = build_model(config.model_copy(update={"training": training})).train()
        scores.append(score_catalogue(model, catalogue, [np.array([1, 2, 3]), np.array([6, 9])]))
    np.testing.assert_array_equal(scores[0], scores[1])


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_the_other_losses_equal_their_formulas_written_out_by_hand(loss, catalogue, trained):
    batch = batch_of([1])
    with torch.no_grad():
        found = ranking_loss(trained, catalogue, batch, loss).item()
        scores = trained.config.temperature * trained(catalogue.take(batch.items_BL), batch.mask_BK)[0].double()
    terms = []
    for place in range(2):
        own, others = scores[place, place], scores[place, 6:]
        if loss == "bpr":
            terms.append(-torch.sigmoid(own - others).log().mean().item())
        else:
            terms.append(-(torch.sigmoid(own).log() + torch.sigmoid(-others).log().mean()).item())
    assert found == pytest.approx(sum(terms) / 2, abs=1e-5)


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_the_other_losses_split_per_user_too(loss, catalogue, trained):
    together = ranking_loss(trained, catalogue, batch_of([0, 1, 2, 3]), loss)
    alone = torch.cat([ranking_loss(trained, catalogue, batch_of([user]), loss) for user in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together[3].item() == 0.0
