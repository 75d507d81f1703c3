"""A text encoder inside the recommender: it starts as the frozen pipeline, and every user's gradient is that user's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from client.gradients import WAYS, gradients_by_name
from client.gradients.contract import clip_coefficients, select_users
from client.neighbour_replay import recorded_step, refuse_mixed_users, replay_neighbours
from client.private_step import StepPlan
from mmrec_model.config import ModelConfig, Scope, TransformConfig, TunedTextConfig
from mmrec_model.errors import FeatureError, ModelError, PrivacyError
from mmrec_model.features.transform import CatalogueTransform, fit_transform
from mmrec_model.model.heads.losses import head_losses
from mmrec_model.model.heads.outcomes import Outcomes
from mmrec_model.model.items import Items
from mmrec_model.model.loss import HistoryBatch, ranking_loss
from mmrec_model.model.recommender import RecommenderNetwork
from mmrec_model.model.scope import trained_share
from mmrec_model.model.scoring import encode_catalogue, score_catalogue
from mmrec_model.model.text_tower import TextTower
from mmrec_model.model.texts import Texts
from mmrec_model.model.user_rows import Fold, UserRows
from mmrec_model.privacy.noise import GaussianNoise

SCOPES: tuple[Scope, ...] = ("lora", "top", "full")
N_ITEMS, WORDS, WIDTH, KEPT = 24, 40, 16, 6
MISSING = 3
TUNED = TunedTextConfig(digest="0" * 64, rank=2)
NETWORKS = ("bert", "distilbert", "roberta")


def tiny_network(kind: str = "bert") -> torch.nn.Module:
    """Two layers of width 16, with dropout as published models have it."""
    torch.manual_seed(5)
    if kind == "distilbert":
        shape = DistilBertConfig(vocab_size=WORDS, dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=24)
        network = DistilBertModel(shape)
    else:
        config, model = (BertConfig, BertModel) if kind == "bert" else (RobertaConfig, RobertaModel)
        network = model(
            config(
                vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                max_position_embeddings=24, pad_token_id=0,
            )
        )  # fmt: skip
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return network.eval().requires_grad_(requires_grad=False)


def token_lists() -> list[list[int]]:
    """Texts of 1 to 8 tokens; one item has none."""
    rng = np.random.default_rng(3)
    lists = [rng.integers(1, WORDS, size=length).tolist() for length in rng.integers(1, 9, size=N_ITEMS)]
    lists[MISSING] = []
    return lists


def tiny_catalogue(network: torch.nn.Module) -> Items:
    """Text vectors as the frozen pipeline makes them, one text at a time, and the tokens they come from."""
    lists = token_lists()
    raw = np.zeros((N_ITEMS, WIDTH), dtype=np.float32)
    with torch.no_grad():
        for item, ids in enumerate(lists):
            if ids:
                raw[item] = network(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
    present = np.array([[bool(ids)] for ids in lists])
    fit = fit_transform(raw[present[:, 0]], TransformConfig(dims=KEPT))
    vectors = np.where(present, fit.apply(raw), 0.0).astype(np.float32)
    offsets = np.cumsum([0, *map(len, lists)])
    texts = Texts.from_arrays(np.concatenate(lists).astype(np.int32), offsets.astype(np.int64), fit)
    prior = np.random.default_rng(4).normal(size=N_ITEMS).astype(np.float32)
    return Items.from_arrays({"text": vectors}, present, prior, texts=texts)


def tuned_config(scope: Scope, **settings: object) -> ModelConfig:
    """Small sizes; the digest is that of nobody."""
    encoder = TUNED if scope in ("lora", "top", "full") else None
    return ModelConfig(hidden=4, trained_dims=4, scope=scope, text_encoder=encoder, **settings)


def tuned_model(scope: Scope, network: torch.nn.Module, **settings: object) -> RecommenderNetwork:
    """An untrained recommender with the encoder inside."""
    config = tuned_config(scope, **settings)
    torch.manual_seed(6)
    tower = None if config.text_encoder is None else TextTower(network, scope, config.text_encoder)
    torch.manual_seed(6)
    return RecommenderNetwork(config, {"text": KEPT}, tower)


def moved(model: RecommenderNetwork) -> RecommenderNetwork:
    """Every trained weight away from its start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


HISTORIES = [np.array([1, 2, 5]), np.array([MISSING]), np.array([], dtype=np.int64)]
PLACES, NEGATIVES = 4, 3


def made_up_users() -> HistoryBatch:
    """Ragged histories, one item drawn twice as negative, one without text, one user without history."""
    items = [[1, 2, 5, 8, 9, 9, 4], [7, MISSING, 0, 0, 1, 2, MISSING], [6, 0, 0, 0, 20, 21, 22], [0, 0, 0, 0, 1, 2, 3]]
    lengths = torch.tensor([4, 2, 1, 0])
    return HistoryBatch(torch.tensor(items), torch.arange(PLACES) < lengths[:, None])


def doubled(model: RecommenderNetwork, catalogue: Items) -> tuple[RecommenderNetwork, Items]:
    """Both in float64, where a comparison to 1e-6 says something."""
    texts = catalogue.texts
    assert texts is not None
    wide = replace(texts, mean_D=texts.mean_D.double(), axes_DK=texts.axes_DK.double())
    vectors = {name: rows.double() for name, rows in catalogue.vectors.items()}
    return model.double(), replace(catalogue, vectors=vectors, prior=catalogue.prior.double(), texts=wide)


def gradient_alone(model: nn.Module, loss, batch: HistoryBatch, user: int) -> list[Tensor]:
    """A user's gradient by autograd, in a batch of that user alone."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    value = loss(model, select_users(batch, torch.tensor([user]))).sum()
    found = torch.autograd.grad(value, trained, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(trained, found, strict=True)]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("scope", SCOPES)
def test_before_training_scores_are_those_of_the_frozen_pipeline(kind, scope):
    network = tiny_network(kind)
    catalogue = tiny_catalogue(network)
    tuned = score_catalogue(tuned_model(scope, network), catalogue, HISTORIES)
    frozen = score_catalogue(tuned_model("fusion", network), replace(catalogue, texts=None), HISTORIES)
    np.testing.assert_allclose(tuned, frozen, atol=1e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_scope_says_what_of_the_encoder_trains(scope):
    model = tuned_model(scope, tiny_network())
    inside = {name.removeprefix("encoder.network.") for name in model.trainable_state() if name.startswith("encoder.")}
    everything = {name.removeprefix("encoder.network.") for name, _ in model.encoder.named_parameters(prefix="encoder")}
    if scope == "lora":
        assert all(".lora_A." in name or ".lora_B." in name for name in inside)
        assert len(inside) == 8, "two matrices for query and value of each of two layers"
    elif scope == "top":
        assert inside == {name for name in everything if name.startswith("encoder.layer.1.")}
    else:
        assert inside == everything
    assert set(tuned_model("fusion", tiny_network()).trainable_state()) < set(model.trainable_state())
    assert trained_share(model).weights > trained_share(model).trained or scope == "full"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", SCOPES)
def test_the_clipped_sum_is_that_of_every_user_alone(scope, way):
    network = tiny_network()
    model, catalogue = doubled(moved(tuned_model(scope, network)), tiny_catalogue(network))
    model.train()
    batch, limit = made_up_users(), 0.5

    def loss(network_: nn.Module, part: HistoryBatch) -> Tensor:
        return ranking_loss(network_, catalogue, part, "sampled_softmax")

    alone = [gradient_alone(model, loss, batch, user) for user in range(4)]
    norms = torch.stack([torch.cat([part.flatten() for part in gradient]).norm() for gradient in alone])
    assert norms[0] > limit, "one user is clipped, or the clip would not be compared"
    factors, _ = clip_coefficients(norms.square(), limit)
    found = gradients_by_name(way).clipped_sum(model, loss, batch, limit)
    torch.testing.assert_close(found.local_norms_B, norms, atol=1e-6, rtol=1e-6, check_dtype=False)
    for position, total in enumerate(found.sums):
        expected = sum(factor * gradient[position] for factor, gradient in zip(factors, alone, strict=True))
        torch.testing.assert_close(total.double(), expected, atol=1e-6, rtol=1e-6)
    inside = [p for name, p in model.named_parameters() if name.startswith("encoder.") and p.requires_grad]
    reached = torch.autograd.grad(loss(model, batch).sum(), inside)
    assert sum(bool(gradient.abs().max() > 1e-8) for gradient in reached) > len(inside) / 2


@pytest.mark.parametrize("scope", SCOPES)
def test_no_user_moves_the_release_by_more_than_the_clip(scope):
    network = tiny_network()
    catalogue, model = tiny_catalogue(network), moved(tuned_model(scope, network))
    model.train()
    plan = StepPlan(max_grad_norm=0.3, noise_multiplier=1.0, expected_users=2.0, sample_rate=0.5)

    def loss(network_: nn.Module, part: HistoryBatch) -> Tensor:
        return ranking_loss(network_, catalogue, part, "sampled_softmax")

    way = gradients_by_name("bookkeeping")
    step = recorded_step(model, loss, plan, way, lambda: GaussianNoise(seed=b"replay"), micro_batch=3)
    report = replay_neighbours(step, made_up_users(), plan.max_grad_norm)
    assert report.holds, str(report)
    assert report.measured >= 0.99 * report.limit, "one user reaches the clip, so the test can fail"
    refuse_mixed_users(model, loss, made_up_users(), way)


def test_without_the_fold_the_private_step_refuses_the_encoder(monkeypatch):
    """The fold is what keeps the unit the user: unfolded, a layer would be clipped per text."""
    monkeypatch.setattr(UserRows, "forward", lambda self, tokens: self.layer(tokens))
    network = tiny_network()
    model, catalogue = tuned_model("full", network), tiny_catalogue(network)
    with pytest.raises(PrivacyError, match="dim 0 must be the 4 users"):
        gradients_by_name("bookkeeping").clipped_sum(
            model,
            lambda network_, part: ranking_loss(network_, catalogue, part, "sampled_softmax"),
            made_up_users(),
            1.0,
        )


def test_rows_that_are_not_those_of_the_users_are_refused():
    fold = Fold()
    fold.set(users=2, rows=6)
    layer = UserRows(nn.Linear(3, 3), fold)
    assert layer(torch.randn(6, 4, 3)).shape == (6, 4, 3)
    with pytest.raises(ModelError, match="sees 5 rows, 6 texts of 2 users"):
        layer(torch.randn(5, 4, 3))


def test_every_distinct_item_of_a_user_is_encoded_once_for_that_user(monkeypatch):
    network = tiny_network()
    model, catalogue = tuned_model("lora", network), tiny_catalogue(network)
    seen = []
    model.encoder.network.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    batch = made_up_users()
    model(catalogue.take(batch.items_BL), batch.mask_BK)
    most = max(len(set(row)) for row in batch.items_BL.tolist())
    assert seen == [4 * most]


@pytest.mark.parametrize("training", [True, False])
def test_there_is_no_dropout_in_either_mode(training):
    network = tiny_network()
    model, catalogue = moved(tuned_model("full", network)), tiny_catalogue(network)
    model.train(training)
    batch = made_up_users()
    first, second = (model(catalogue.take(batch.items_BL), batch.mask_BK) for _ in range(2))
    torch.testing.assert_close(first, second, atol=0.0, rtol=0.0)


def test_merged_adapters_give_the_same_scores_with_the_plain_architecture():
    network = tiny_network()
    model, catalogue = moved(tuned_model("lora", network)), tiny_catalogue(network)
    before = score_catalogue(model, catalogue, HISTORIES)
    assert np.abs(before - score_catalogue(tuned_model("lora", network), catalogue, HISTORIES)).max() > 1e-3
    model.encoder.merge()
    np.testing.assert_allclose(score_catalogue(model, catalogue, HISTORIES), before, atol=1e-5)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_a_catalogue_encoded_once_gives_the_scores_of_the_texts():
    network = tiny_network()
    model, catalogue = moved(tuned_model("top", network)), tiny_catalogue(network)
    once = replace(encode_catalogue(model, catalogue), texts=None)
    np.testing.assert_array_equal(score_catalogue(model, once, HISTORIES), score_catalogue(model, catalogue, HISTORIES))


def test_an_item_without_text_has_a_zero_vector_and_passes_no_gradient():
    network = tiny_network()
    model, catalogue = tuned_model("full", network), tiny_catalogue(network)
    read = model.read(catalogue.take(torch.tensor([[MISSING, 1]])))
    assert not read.vectors["text"][0, 0].any()
    assert read.vectors["text"][0, 1].norm().item() == pytest.approx(1.0, abs=1e-5)


def test_items_without_token_ids_are_refused():
    network = tiny_network()
    with pytest.raises(ModelError, match="without token ids"):
        score_catalogue(tuned_model("lora", network), replace(tiny_catalogue(network), texts=None), HISTORIES)


def test_an_unknown_architecture_and_too_many_layers_are_refused_by_name():
    settings = TunedTextConfig(digest="0" * 64, layers=3)
    with pytest.raises(ModelError, match="class Linear cannot be tuned"):
        TextTower(nn.Linear(2, 2), "top", settings)
    with pytest.raises(ModelError, match="last 3 layers are to be trained, the encoder has 2"):
        TextTower(tiny_network(), "top", settings)


def test_a_weight_in_no_known_layer_is_refused():
    network = tiny_network()
    network.encoder.layer[1].extra = nn.Conv1d(2, 2, 1)
    with pytest.raises(ModelError, match=r"encoder\.layer\.1\.extra\.weight"):
        TextTower(network, "full", TunedTextConfig(digest="0" * 64))


def test_the_network_that_was_handed_over_is_left_alone():
    network = tiny_network()
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    moved(tuned_model("full", network))
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    assert not any(weight.requires_grad for weight in network.parameters())


def test_text_that_is_hidden_or_absent_does_not_come_back_when_the_encoder_reads_the_rest():
    """A hidden text is zero for the model whatever its tokens; an absent one keeps the bundle's row."""
    network = tiny_network()
    plain = tiny_catalogue(network)
    estimate = torch.full((KEPT,), 0.5)
    text = plain.vectors["text"].clone()
    text[MISSING] = estimate
    pictures = torch.nn.functional.normalize(torch.ones(N_ITEMS, 2), dim=-1)
    present = torch.cat([plain.present_M, torch.ones(N_ITEMS, 1, dtype=torch.bool)], dim=1)
    catalogue = replace(plain, vectors={"text": text, "image": pictures}, present_M=present)
    torch.manual_seed(6)
    config = tuned_config("full")
    model = moved(RecommenderNetwork(config, {"text": KEPT, "image": 2}, TextTower(network, "full", TUNED)))
    users = made_up_users()
    kept_BLM = torch.ones(*users.items_BL.shape, 2, dtype=torch.bool)
    kept_BLM[0, 1, 0] = kept_BLM[1, 0, 0] = False
    hiding = replace(users, kept_BLM=kept_BLM)
    found = model.read(hiding.items(catalogue)).vectors["text"]
    shown = model.read(users.items(catalogue)).vectors["text"]
    assert shown[0, 1].any()
    assert not found[0, 1].any()
    assert not found[1, 0].any()
    torch.testing.assert_close(found[kept_BLM[..., 0]], shown[kept_BLM[..., 0]])
    torch.testing.assert_close(shown[users.items_BL == MISSING], estimate.expand(3, -1))
    found_loss, shown_loss = (ranking_loss(model, catalogue, batch, "sampled_softmax") for batch in (hiding, users))
    assert (found_loss - shown_loss)[:2].abs().min() > 1e-6
    torch.testing.assert_close(found_loss[2:], shown_loss[2:])
    part = hiding.split(1)[1]
    torch.testing.assert_close(ranking_loss(model, catalogue, part, "sampled_softmax"), found_loss[1:2])


def test_heads_read_the_tuned_text_and_every_gradient_stays_that_of_one_user():
    network = tiny_network()
    torch.manual_seed(6)
    config = tuned_config("lora", heads={"category": 1.0, "ctr": 1.0}, categories=("a", "b"))
    network_ = moved(RecommenderNetwork(config, {"text": KEPT}, TextTower(network, "lora", TUNED)))
    model, catalogue = doubled(network_, tiny_catalogue(network))
    users, row = made_up_users(), torch.ones(4, 1, dtype=torch.bool)
    none, item = torch.zeros(4, 1, dtype=torch.int64), torch.tensor([[1], [7], [6], [2]])
    labels = Outcomes(
        item, row, row, item > 4, ~row, ~row, torch.zeros(4, 1), none, none, none, users.items_BL[:, :PLACES] % 2
    )
    batch = replace(users, outcomes=labels)

    def loss(part_of: nn.Module, part: HistoryBatch) -> Tensor:
        return sum(head_losses(part_of, catalogue, part).values())

    alone = [gradient_alone(model, loss, batch, user) for user in range(4)]
    found = gradients_by_name("bookkeeping").clipped_sum(model, loss, batch, 1e6)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    for position, total in enumerate(found.sums):
        torch.testing.assert_close(total.double(), sum(part[position] for part in alone), atol=1e-6, rtol=1e-5)
    inside = [total for name, total in zip(names, found.sums, strict=True) if name.startswith("encoder.")]
    assert any(total.abs().max() > 1e-8 for total in inside)


def test_a_map_of_selected_numbers_is_refused():
    kept = np.array([True, False, True])
    fit = CatalogueTransform(np.zeros(2), np.eye(2), 1.0, kept)
    with pytest.raises(FeatureError, match="2 selected numbers of 3"):
        Texts.from_arrays(np.zeros(1, np.int32), np.array([0, 1]), fit)
