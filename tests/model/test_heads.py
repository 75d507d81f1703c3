"""Laws of the heads: where they start, what they may see, and that a user's loss is the user's own."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmrec_model.config import HEADS, HOUR_BUCKETS, WEEKDAYS, ModelConfig, RunConfig
from mmrec_model.errors import ModelError
from mmrec_model.model.heads.heads import Heads
from mmrec_model.model.heads.losses import head_losses, product_cross_entropy, without_own
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch
from mmrec_model.model.objective import user_losses
from mmrec_model.model.recommender import RecommenderNetwork, build_model, initial_state

NAMES = ("a", "b", "c")
N_ITEMS, K, F, NEGATIVES = 30, 5, 4, 3


def with_heads(config: RunConfig, **changes: object) -> RunConfig:
    heads = {"heads": dict.fromkeys(HEADS, 1.0), "categories": NAMES} | changes
    return config.model_copy(update={"model": config.model.model_copy(update=heads)})


def moved(model: RecommenderNetwork) -> RecommenderNetwork:
    """Weights as training might leave them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


def users_of(rng: np.random.Generator, users: int) -> HistoryBatch:
    """Random users of every number of rows from none."""
    items_BL = torch.from_numpy(rng.integers(0, N_ITEMS, (users, K + NEGATIVES)))
    mask_BK = torch.from_numpy(np.arange(K) < rng.integers(0, K + 1, users)[:, None])
    mask_BF = np.arange(F) < rng.integers(0, F + 1, users)[:, None]
    flags = {
        f"{name}_BF": torch.from_numpy(mask_BF & (rng.random((users, F)) < 0.6))
        for name in ("shown", "clicked", "converted", "rated")
    }
    most = {"items": N_ITEMS, "hour": HOUR_BUCKETS, "weekday": WEEKDAYS}
    whole = {f"{name}_BF": torch.from_numpy(rng.integers(0, high, (users, F))) for name, high in most.items()}
    return HistoryBatch(
        items_BL,
        mask_BK,
        outcomes=Outcomes(
            **flags,
            **whole,
            mask_BF=torch.from_numpy(mask_BF),
            ratings_BF=torch.from_numpy(rng.uniform(0.0, 6.0, (users, F)).astype(np.float32)),
            category_BF=torch.from_numpy(rng.integers(-1, 3, (users, F))),
            category_BK=torch.from_numpy(rng.integers(-1, 3, (users, K))),
        ),
    )


def parts_of(model: RecommenderNetwork, catalogue: Items, batch: HistoryBatch) -> dict[str, torch.Tensor]:
    return dict(head_losses(model, catalogue, batch))


def test_without_heads_names_and_weights_are_those_of_a_run_that_knows_of_none(config):
    plain, full = initial_state(config), initial_state(with_heads(config))
    assert not [name for name in plain if name.startswith("heads")]
    assert {name for name in full if not name.startswith("heads.")} == set(plain)
    assert all(np.array_equal(full[name], array) for name, array in plain.items())


@pytest.mark.parametrize("scorer", ["bilinear", "deepfm"])
def test_before_training_every_head_says_its_public_constant(scorer, config, catalogue):
    model = build_model(with_heads(config, ctr_scorer=scorer, base_rates={"ctr": 0.2, "cvr": 0.05}))
    batch = users_of(np.random.default_rng(0), 6)
    visible = without_own(batch.items_BL[:, :K], batch.mask_BK, batch.outcomes.items_BF)
    rows = catalogue.take(batch.outcomes.items_BF)
    pairs = model.pairs(catalogue.take(batch.items_BL[:, :K]), visible, rows)
    found = model.heads.row_predictions(pairs, batch.outcomes)
    for name, constant in {"ctr": 0.2, "cvr": 0.05, "rating": 3.0}.items():
        torch.testing.assert_close(found[name], torch.full_like(found[name], constant))
    counted = (batch.mask_BK & (batch.outcomes.category_BK >= 0)).any(1)
    torch.testing.assert_close(parts_of(model, catalogue, batch)["category"], counted * math.log(3.0))


@pytest.mark.parametrize("scorer", ["bilinear", "deepfm"])
@pytest.mark.parametrize("cvr_loss", ["conditional", "esmm"])
def test_training_can_move_every_weight_of_every_head(scorer, cvr_loss, config, catalogue):
    model = moved(build_model(with_heads(config, ctr_scorer=scorer, cvr_loss=cvr_loss)))
    batch = users_of(np.random.default_rng(1), 60)
    user_losses(model, catalogue, batch, "bpr").sum().backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    options=st.fixed_dictionaries(
        {
            "ctr_scorer": st.sampled_from(["bilinear", "deepfm"]),
            "cvr_loss": st.sampled_from(["conditional", "esmm"]),
        }
    ),
    loss=st.sampled_from(["sampled_softmax", "bpr", "bce"]),
)
def test_a_users_loss_depends_on_the_users_rows_alone(seed, options, loss, config, catalogue):
    model = moved(build_model(with_heads(config, **options)))
    rng = np.random.default_rng(seed)
    first, other = users_of(rng, 4), users_of(rng, 4)
    mixed = spliced(other, first, 2)
    before, after = (user_losses(model, catalogue, batch, loss)[2] for batch in (first, mixed))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)
    assert torch.isfinite(user_losses(model, catalogue, first, loss)).all()


def spliced(others: HistoryBatch, mine: HistoryBatch, user: int) -> HistoryBatch:
    """All of the others' rows, but for one user."""

    def row(theirs: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return torch.cat([theirs[:user], own[user : user + 1], theirs[user + 1 :]])

    columns = {
        item.name: row(getattr(others.outcomes, item.name), getattr(mine.outcomes, item.name))
        for item in fields(Outcomes)
        if item.name != "kept_BFM"
    }
    items_BL, mask_BK = row(others.items_BL, mine.items_BL), row(others.mask_BK, mine.mask_BK)
    return HistoryBatch(items_BL, mask_BK, outcomes=Outcomes(**columns))


def test_a_user_without_labels_contributes_nothing_to_any_head(config, catalogue):
    model = moved(build_model(with_heads(config)))
    batch = users_of(np.random.default_rng(2), 8)
    nothing = torch.zeros_like(batch.outcomes.mask_BF)
    silent = replace(
        batch.outcomes,
        shown_BF=nothing,
        clicked_BF=nothing,
        rated_BF=nothing,
        category_BK=torch.full_like(batch.outcomes.category_BK, -1),
    )
    parts = parts_of(model, catalogue, replace(batch, outcomes=silent))
    assert all(not part.any() for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_the_weight_of_a_head_is_the_weight_of_its_loss(config, catalogue):
    batch = users_of(np.random.default_rng(3), 6)
    model = moved(build_model(with_heads(config, heads={"ctr": 0.5, "rating": 2.0}, categories=())))
    parts = parts_of(model, catalogue, batch)
    whole = user_losses(model, catalogue, batch, "bce")
    ranking = whole - 0.5 * parts["ctr"] - 2.0 * parts["rating"]
    model.config = model.config.model_copy(update={"heads": {}})
    torch.testing.assert_close(ranking, user_losses(model, catalogue, batch, "bce"))


def test_the_row_that_is_predicted_is_hidden_from_the_user(config, catalogue):
    """A clicked item of the history may be swapped for any other item there: its own row says the same."""
    model = moved(build_model(with_heads(config, heads={"ctr": 1.0}, categories=())))
    history = torch.tensor([[3, 7, 11]])
    mask, row = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[7, 20]])
    visible = without_own(history, mask, row)
    assert visible.tolist() == [[[True, False, True], [True, True, True]]]
    pairs = model.pairs(catalogue.take(history), visible, catalogue.take(row))
    changed = model.pairs(catalogue.take(torch.tensor([[3, 25, 11]])), visible, catalogue.take(row))
    for name in ("users_BFH", "terms_BFS"):
        before, after = getattr(pairs, name)[0], getattr(changed, name)[0]
        torch.testing.assert_close(before[0], after[0])
        assert not torch.allclose(before[1], after[1]), "the other row sees the place, so the test can fail"
    alone = model.pairs(
        catalogue.take(torch.tensor([[3, 11]])), torch.ones(1, 1, 2, dtype=torch.bool), catalogue.take(row[:, :1])
    )
    torch.testing.assert_close(pairs.users_BFH[0, 0], alone.users_BFH[0, 0])


def test_the_category_that_is_predicted_is_hidden_from_the_head(config, catalogue):
    """Another category of place k changes the loss by its own term alone, not through the logits of place k."""
    model = moved(build_model(with_heads(config)))
    users = torch.randn(1, 3, model.config.hidden)
    visible = ~torch.eye(3, dtype=torch.bool)[None]
    first = model.heads.category(users, visible, torch.tensor([[0, 1, 2]]))
    second = model.heads.category(users, visible, torch.tensor([[0, 2, 2]]))
    torch.testing.assert_close(first[0, 1], second[0, 1])
    assert not torch.allclose(first[0, 0], second[0, 0])


@settings(deadline=None)
@given(st.floats(-60, 60), st.floats(-60, 60))
def test_esmm_is_the_cross_entropy_of_the_product_also_for_large_logits(click: float, conversion: float) -> None:
    a, b = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (click, conversion))
    lost_yes = product_cross_entropy(a, b, torch.tensor([True]))
    lost_no = product_cross_entropy(a, b, torch.tensor([False]))
    assert lost_yes.item() == pytest.approx(math.log1p(math.exp(-click)) + math.log1p(math.exp(-conversion)), rel=1e-9)
    missing = math.exp(-click) + math.exp(-conversion) + math.exp(-click - conversion)
    both = 1.0 / ((1.0 + math.exp(-click)) * (1.0 + math.exp(-conversion)))
    assert lost_no.item() == pytest.approx(-math.log(missing) - math.log(both), rel=1e-6, abs=1e-9)
    (lost_yes + lost_no).sum().backward()
    assert torch.isfinite(a.grad).all()
    assert torch.isfinite(b.grad).all()


def test_a_hidden_modality_is_hidden_from_the_heads_too(config, catalogue):
    model = moved(build_model(with_heads(config)))
    batch = users_of(np.random.default_rng(6), 12)
    vectors = {**catalogue.vectors, "image": torch.zeros_like(catalogue.vectors["image"])}
    lacking = replace(catalogue, vectors=vectors, present_M=catalogue.present_M & torch.tensor([True, False]))
    both = catalogue.present_M.all(1)
    items_BL, rows = batch.items_BL, batch.outcomes
    outcomes = replace(rows, kept_BFM=torch.stack([torch.ones_like(rows.mask_BF), ~both[rows.items_BF]], -1))
    hidden = torch.stack([torch.ones_like(items_BL, dtype=torch.bool), ~both[items_BL]], -1)
    found = parts_of(model, catalogue, replace(batch, kept_BLM=hidden, outcomes=outcomes))
    only_history = parts_of(model, catalogue, replace(batch, kept_BLM=hidden))
    for name, part in parts_of(model, lacking, batch).items():
        torch.testing.assert_close(found[name], part)
        assert not torch.allclose(parts_of(model, catalogue, batch)[name], part), name
        assert name == "category" or not torch.allclose(only_history[name], part), name


def test_a_rating_outside_the_scale_counts_as_its_end(config, catalogue):
    model = moved(build_model(with_heads(config, heads={"rating": 1.0}, categories=())))
    batch = users_of(np.random.default_rng(4), 6)
    far, end = (replace(batch.outcomes, ratings_BF=torch.full((6, F), value)) for value in (1e9, 5.0))
    found = [parts_of(model, catalogue, replace(batch, outcomes=rows))["rating"] for rows in (far, end)]
    torch.testing.assert_close(found[0], found[1])


def test_heads_without_labels_are_refused(config, catalogue):
    batch = replace(users_of(np.random.default_rng(5), 2), outcomes=None)
    with pytest.raises(ModelError, match="no labels"):
        user_losses(build_model(with_heads(config)), catalogue, batch, "bpr")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cvr_loss": "esmm", "heads": {"cvr": 1.0}}, "esmm"),
        ({"ctr_scorer": "deepfm"}, "deepfm"),
        ({"heads": {"category": 1.0}}, "at least 2"),
        ({"heads": {"category": 1.0}, "categories": ("a", "a")}, "twice"),
        ({"rating_scale": (5.0, 1.0)}, "lowest"),
        ({"rating_scale": (1.0, math.inf)}, "lowest"),
        ({"base_rates": {"ctr": 0.1}}, "exactly"),
        ({"base_rates": {"ctr": 0.0, "cvr": 0.5}}, "greater than 0"),
        ({"heads": {"ctr": 0.0}}, "greater than 0"),
        ({"heads": {"clicks": 1.0}}, "ctr"),
    ],
)
def test_a_configuration_that_could_not_be_trained_is_refused(values, words):
    with pytest.raises(ValidationError, match=words):
        ModelConfig(**values)


def test_heads_hold_nothing_that_is_not_trained(config):
    model = Heads(with_heads(config, ctr_scorer="deepfm").model, terms=3)
    assert not list(model.buffers())
    assert all(weight.requires_grad for weight in model.parameters())
