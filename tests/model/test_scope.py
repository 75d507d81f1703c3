"""One setting decides what has a gradient, what travels, and what is counted."""

from __future__ import annotations

import pytest
import torch

from mmrec_model.config import ModelConfig, RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ConfigError, ModelError
from mmrec_model.model.recommender import build_model, initial_state
from mmrec_model.model.scope import trained_share

HEAD = {"interaction.weight", "item_bias.weight", "signals.weight", "dimensions.text.weight", "dimensions.image.weight"}


def scoped(config: RunConfig, scope: str) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"scope": scope})})


def test_head_trains_what_lies_behind_the_fused_vectors_and_nothing_else(config):
    model = build_model(scoped(config, "head"))
    assert set(model.trainable_state()) == HEAD == set(initial_state(scoped(config, "head")))
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == HEAD


def test_fusion_is_the_default_and_trains_everything(config, model):
    assert config.model.scope == "fusion"
    assert set(model.trainable_state()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("scope", ["head", "fusion"])
def test_a_scope_changes_no_initial_weight(scope, config, model):
    narrow = dict(build_model(scoped(config, scope)).named_parameters())
    assert all(torch.equal(weight, narrow[name]) for name, weight in model.named_parameters())


def test_the_trained_share_counts_what_travels(config):
    model = build_model(scoped(config, "head"))
    share = trained_share(model)
    assert share.trained == sum(weight.numel() for weight in model.trainable_state().values())
    assert share.weights == sum(weight.numel() for weight in model.parameters())
    assert 0 < share.trained < share.weights


def test_a_state_of_a_wider_scope_is_refused(config, model):
    narrow = build_model(scoped(config, "head"))
    with pytest.raises(ModelError, match="differs"):
        narrow.load_trainable_state(model.trainable_state())


def test_head_trains_the_scorers_of_decision_fusion(config):
    changed = config.model.model_copy(update={"fusion": "decision", "scope": "head"})
    state = initial_state(config.model_copy(update={"model": changed}))
    inside = {name.rsplit(".", 2)[0] for name in state if name.startswith("fusion.")}
    assert inside == {"fusion.interactions", "fusion.biases"}
    whole = initial_state(config.model_copy(update={"model": changed.model_copy(update={"scope": "fusion"})}))
    assert set(whole) - set(state) == {name for name in whole if ".projections." in name}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"fusion": "decision", "tower": "sequence"}, "'decision' does not read it"),
        ({"fusion": "decision", "user_media": ["text"]}, "'decision' does not read it"),
        ({"positions": 40}, "only where tower is 'sequence'"),
    ],
)
def test_a_tower_that_nothing_reads_is_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_config(ModelConfig, settings, source="test")


def test_heads_refuse_the_tower_whose_states_would_betray_a_label():
    with pytest.raises(ConfigError, match="heads need the tower 'attention'"):
        parse_config(ModelConfig, {"tower": "sequence", "heads": {"ctr": 1.0}}, source="test")
