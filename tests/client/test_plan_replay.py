"""The self-test replays everything that a plan can ask for, and each replay can fail."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest
import torch

from client import plan_replay
from client.gradients import ClippedSum, gradients_by_name
from client.made_up_plan import PlanShape, made_up_catalogue, made_up_model, made_up_users
from client.plan_replay import FAMILIES, replay_plan, shows_bound
from client.training import GRADIENTS, user_loss
from mmrec_model.config import HEADS, MODALITIES, ModelConfig, RunConfig, TunedTextConfig
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import PrivacyError
from mmrec_model.model.pair_scorer import PairScorer

NUMBERS = {
    "hidden",
    "trained_dims",
    "modality_weights",
    "popularity_weight",
    "fused_scale",
    "temperature",
    "fusion_heads",
    "decision_temperature",
    "positions",
    "base_rates",
    "rating_scale",
    "categories",
}
"""Fields of the model that size or scale what others choose."""
RANKING_ALONE = {"decision_rule", "decision_votes"}
"""Training uses the weighted sum whatever they are."""
NAMED_OTHERWISE = {"fusion_layers": "layers", "text_encoder": "trains_encoder", "collaboration_weight": "pairs",
                   "metric_weight": "metric"}  # fmt: skip


def test_every_setting_of_a_model_that_chooses_code_is_part_of_its_shape() -> None:
    chosen = {NAMED_OTHERWISE.get(name, name) for name in set(ModelConfig.model_fields) - NUMBERS - RANKING_ALONE}
    assert chosen <= {item.name for item in fields(PlanShape)} | {"trains_encoder"}


def test_the_families_have_every_value_of_every_setting() -> None:
    for name, hint in get_type_hints(PlanShape).items():
        values = {getattr(shape, name) for shape in FAMILIES.values()}
        if hint is bool:
            assert values == {True, False}, name
        elif hint is int:
            assert values == {1, 2}, name
        elif get_args(hint)[-1:] == (...,):
            (choices,) = [set(get_args(part)) for part in get_args(hint) if part is not ...]
            assert set().union(*values) == choices, name
            assert len(values) > 1, name
        else:
            assert values == set(get_args(hint)), name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_shows_its_bound_and_every_weight_is_trained(name: str) -> None:
    shape = FAMILIES[name]
    report = replay_plan(shape)
    assert shows_bound(report), str(report)
    users, model = made_up_users(shape), made_up_model(shape)
    sums = gradients_by_name(GRADIENTS).clipped_sum(
        model,
        lambda module, batch: user_loss(module, batch, catalogue=made_up_catalogue(shape), kind=shape.loss),
        users,
        1.0,
    )
    assert not torch.isfinite(sums.local_norms_B[-1]), "the last user's data is not a number"
    assert torch.isfinite(sums.local_norms_B[:-1]).all()
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    still = [name for name, total in zip(trained, sums.sums, strict=True) if not total.any()]
    assert [name for name in still if "witness" not in name] == []


class LoudLayer:
    """Clips to twice the bound."""

    name = GRADIENTS

    def clipped_sum(self, model, user_loss, batch, max_grad_norm) -> ClippedSum:
        return gradients_by_name(self.name).clipped_sum(model, user_loss, batch, 2.0 * max_grad_norm)


@pytest.mark.parametrize(
    "name",
    ["fusion gated", "tower sequence", "own media", "scope lora", "pairs of items", "pairs of features"],
)
def test_a_step_that_bounds_a_user_by_too_much_is_caught_in_a_family(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_replay, "gradients_by_name", lambda _: LoudLayer())
    report = replay_plan(FAMILIES[name])
    assert not shows_bound(report)
    assert report.measured > 1.5 * report.limit


def test_pairs_that_are_scored_with_the_histories_of_others_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scorer that adds what the users of the batch have in common to every user's term."""
    real = PairScorer.forward

    def mixed(scorer, history, visible_BTK, scored, **rest):
        term = real(scorer, history, visible_BTK, scored, **rest)
        return term + term.mean(0, keepdim=True)

    monkeypatch.setattr(PairScorer, "forward", mixed)
    with pytest.raises(PrivacyError, match="among others"):
        replay_plan(FAMILIES["pairs of items"])


def test_own_media_that_meet_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each user's profile is that of the users' mean."""
    real = plan_replay.user_loss

    def mixed(model, batch, **rest):
        vectors = {name: rows.mean(0, keepdim=True).expand_as(rows) for name, rows in batch.own.vectors.items()}
        return real(model, replace(batch, own=replace(batch.own, vectors=vectors)), **rest)

    monkeypatch.setattr(plan_replay, "user_loss", mixed)
    with pytest.raises(PrivacyError, match="among others"):
        replay_plan(FAMILIES["own media"])


def test_the_shape_of_a_plan_is_read_off_its_settings(config: RunConfig) -> None:
    assert PlanShape.of(config) == PlanShape(modalities=("text",))
    dims = dict.fromkeys(MODALITIES, 10)
    model = ModelConfig(
        fusion="transformer",
        fusion_layers=5,
        user_media=("image",),
        scope="lora",
        text_encoder=TunedTextConfig(digest="0" * 64, rank=32),
        modalities=("image", "text"),
        heads={"cvr": 2.0, "ctr": 0.1},
        cvr_loss="esmm",
        ctr_scorer="deepfm",
    )
    training = config.training.model_copy(update={"loss": "bpr", "modality_dropout": 0.01})
    privacy = config.privacy.model_copy(update={"clipping": "adaptive", "clip_count_noise": 2.0})
    features = config.features.model_copy(update={"dims": dims})
    parts = {"model": model, "training": training, "privacy": privacy, "features": features}
    asked = config.model_copy(update=parts | {"collaboration": CollaborationConfig(items=5, noise_multiplier=1.0)})
    assert PlanShape.of(asked) == PlanShape(
        fusion="transformer",
        layers=2,
        user_media=("image",),
        scope="lora",
        heads=("cvr", "ctr"),
        cvr_loss="esmm",
        ctr_scorer="deepfm",
        modalities=("text", "image"),
        loss="bpr",
        dropout=True,
        adaptive=True,
        pairs=True,
    )
    assert set(HEADS) >= set(PlanShape.of(asked).heads)
    assert shows_bound(replay_plan(PlanShape.of(asked)))


def test_made_up_users_and_models_leave_the_random_numbers_of_the_process_alone() -> None:
    before = torch.get_rng_state()
    replay_plan(FAMILIES["scope lora"])
    assert torch.equal(torch.get_rng_state(), before)
