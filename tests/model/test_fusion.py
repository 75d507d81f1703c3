"""Laws that every fusion keeps, whatever subset of modalities an item has."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmrec_model.config import MODALITIES, FusionName, Modality, ModelConfig, RunConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ConfigError, ModelError
from mmrec_model.model.folder import load_model, save_model
from mmrec_model.model.fusion import FUSIONS, build_fusion
from mmrec_model.model.fusion.interface import Fusion
from mmrec_model.model.items import Items
from mmrec_model.model.recommender import RecommenderNetwork, build_model, initial_state
from mmrec_model.model.scoring import score_catalogue

ALL = sorted(FUSIONS)
FEATURE_LEVEL = [name for name in ALL if name != "decision"]
DEEP: dict[FusionName, dict[str, int]] = {
    "concat": {"fusion_layers": 2},
    "transformer": {"fusion_layers": 2},
    "cross_attention": {"fusion_heads": 4},
}
WIDTH, HIDDEN, LENGTH = 6, 8, 5
DIMS = dict.fromkeys(MODALITIES, WIDTH)
HISTORIES = [np.array([1, 2, 5]), np.array([7]), np.array([], dtype=np.int64)]
masks = st.lists(
    st.lists(st.booleans(), min_size=len(MODALITIES), max_size=len(MODALITIES)), min_size=LENGTH, max_size=LENGTH
)


def settings_of(name: FusionName) -> ModelConfig:
    return ModelConfig(hidden=HIDDEN, trained_dims=4, fusion=name, **DEEP.get(name, {}))


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """Weights as training might leave them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return module.eval()


def fusion_of(name: FusionName, dims: dict[Modality, int] = DIMS) -> Fusion:
    torch.manual_seed(0)
    fusion = moved(build_fusion(settings_of(name), dims))
    assert isinstance(fusion, Fusion)
    return fusion


TRAINED = {name: fusion_of(name) for name in ALL}


def items_of(present_LM: Tensor, seed: int = 0, filling: float = 0.0) -> Items:
    """Random items `[1, L]`; `filling` stands where a modality is missing."""
    generator = torch.Generator().manual_seed(seed)
    vectors = {}
    for place, name in enumerate(MODALITIES):
        rows = torch.randn(1, len(present_LM), WIDTH, generator=generator)
        vectors[name] = rows.masked_fill(~present_LM[None, :, place, None], filling)
    prior, place = torch.randn(1, len(present_LM), generator=generator), torch.arange(len(present_LM))[None]
    return Items(vectors, present_LM[None], prior, place)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(mask=masks)
def test_a_missing_modality_has_weight_zero_and_the_rows_of_all_others_sum_to_one(name, mask) -> None:
    present = torch.tensor(mask)
    with torch.no_grad():
        weights = TRAINED[name].weights(items_of(present))[0]
    assert (weights[~present] == 0).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), present.any(-1).float())


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(mask=masks)
def test_any_subset_gives_a_finite_vector_none_gives_zero_and_what_is_missing_is_never_read(name, mask) -> None:
    present = torch.tensor(mask)
    with torch.no_grad():
        fused = TRAINED[name](items_of(present))
        unread = TRAINED[name](items_of(present, filling=9.0))
    assert fused.isfinite().all()
    assert (fused[0][~present.any(-1)] == 0).all()
    assert fused[0][present.any(-1)].abs().sum(-1).gt(0).all()
    torch.testing.assert_close(fused, unread)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=10, deadline=None)
@given(mask=masks, order=st.permutations(range(LENGTH)))
def test_the_order_of_items_and_the_company_of_users_change_no_vector(name, mask, order) -> None:
    present = torch.tensor(mask)
    items = items_of(present)
    shuffled = Items({key: rows[:, order] for key, rows in items.vectors.items()}, present[None][:, order],
                     items.prior[:, order], items.place[:, order])  # fmt: skip
    other = items_of(present, seed=1)
    both = Items({key: torch.cat([rows, other.vectors[key]]) for key, rows in items.vectors.items()},
                 torch.cat([items.present_M, other.present_M]), torch.cat([items.prior, other.prior]),
                 torch.cat([items.place, other.place]))  # fmt: skip
    with torch.no_grad():
        alone = TRAINED[name](items)
        torch.testing.assert_close(TRAINED[name](shuffled), alone[:, order])
        torch.testing.assert_close(TRAINED[name](both)[:1], alone)


@pytest.mark.parametrize("name", ["attention", "weighted_sum", "gated", "transformer"])
def test_a_fusion_that_averages_starts_as_the_mean_of_what_is_present(name) -> None:
    fusion = build_fusion(settings_of(name), DIMS)
    items = items_of(torch.tensor([[True, False, True, True], [False, True, False, False]]))
    tokens, present = fusion.tokens(items), items.present_M
    torch.testing.assert_close(fusion(items), tokens.sum(-2) / present.sum(-1, keepdim=True))


def run_with(config: RunConfig, **model: object) -> RunConfig:
    values = config.model_dump() | {"model": config.model.model_dump() | model}
    return parse_config(RunConfig, RunConfig.model_validate(values).model_dump_json(), source="test")


def built(config: RunConfig, name: FusionName) -> tuple[RunConfig, RecommenderNetwork]:
    chosen = run_with(config, fusion=name, **DEEP.get(name, {}))
    return chosen, build_model(chosen)


@pytest.mark.parametrize("name", ALL)
def test_the_untrained_model_is_the_free_model(name, config, catalogue, model) -> None:
    free = score_catalogue(model, catalogue, HISTORIES)
    found = score_catalogue(built(config, name)[1], catalogue, HISTORIES)
    if name == "decision":
        np.testing.assert_allclose(found, free, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, free)


@pytest.mark.parametrize("name", ALL)
def test_training_can_move_every_trained_weight(name, config, catalogue) -> None:
    trained = moved(built(config, name)[1])
    scores = trained(catalogue.take(torch.arange(12).reshape(2, 6)), torch.ones(2, 4, dtype=torch.bool))
    scores.square().sum().backward()
    still = [key for key, weight in trained.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


@pytest.mark.parametrize("name", ALL)
def test_a_saved_model_of_every_fusion_loads_and_scores_the_same(name, config, catalogue, tmp_path) -> None:
    chosen, model = built(config, name)
    trained = moved(model)
    state = {key: weight.numpy() for key, weight in trained.trainable_state().items()}
    save_model(tmp_path, chosen, {**state, "prior": catalogue.prior.numpy()}, card="# A model\n")
    loaded = load_model(tmp_path)
    assert loaded.config.model.fusion == name
    np.testing.assert_array_equal(
        score_catalogue(loaded.model, catalogue, HISTORIES), score_catalogue(trained, catalogue, HISTORIES)
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kept", [("text",), ("image",), ("image", "text")])
def test_a_model_of_some_modalities_reads_no_other(name, kept, config, catalogue) -> None:
    chosen = run_with(config, fusion=name, modalities=kept, **DEEP.get(name, {}))
    trained = moved(build_model(chosen))
    assert tuple(trained.dims) == tuple(key for key in MODALITIES if key in kept)
    found = score_catalogue(trained, catalogue, HISTORIES)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, score_catalogue(trained, catalogue.only(trained.dims), HISTORIES))
    other = replace(catalogue, vectors=dict(catalogue.vectors), present_M=catalogue.present_M.clone())
    for place, key in enumerate(catalogue.vectors):
        if key not in kept:
            other.vectors[key] = torch.full_like(catalogue.vectors[key], 5.0)
            other.present_M[:, place] = True
    np.testing.assert_array_equal(found, score_catalogue(trained, other, HISTORIES))


def test_items_without_a_modality_of_the_model_are_refused(catalogue, trained) -> None:
    with pytest.raises(ModelError, match="image"):
        score_catalogue(trained, catalogue.only(["text"]), HISTORIES)


def test_the_default_is_attention_with_the_weights_it_always_had(config) -> None:
    """A changed name, order of creation or start would load old models wrongly, or change seeded runs."""
    state = initial_state(config)
    assert {key: array.shape for key, array in state.items()} == {
        "fusion.projections.text.weight": (8, 8),
        "fusion.projections.image.weight": (8, 6),
        "fusion.attention.weight": (1, 8),
        "tower.attention.weight": (1, 8),
        "interaction.weight": (8, 8),
        "item_bias.weight": (1, 8),
        "signals.weight": (1, 3),
        "dimensions.text.weight": (8,),
        "dimensions.image.weight": (6,),
    }
    sums = [float(state[f"fusion.projections.{key}.weight"].sum()) for key in ("text", "image")]
    assert sums == pytest.approx([1.6145197, 2.9106684], abs=1e-4)


def test_without_lambda_and_mu_the_additive_fusion_is_that_of_the_text_alone(config, catalogue) -> None:
    free = {"fusion": "additive", "modality_weights": {"text": 1.0}, "popularity_weight": 0.0}
    both = moved(build_model(run_with(config, **free)))
    text = build_model(run_with(config, **free, modalities=("text",)))
    with torch.no_grad():
        both.fusion.coefficients.weight.zero_()
        both.dimensions["image"].weight.zero_()
        shared = {key: weight for key, weight in both.named_parameters() if key in dict(text.named_parameters())}
        for key, weight in text.named_parameters():
            if key == "fusion.coefficients.weight":
                weight.zero_()
            elif key == "signals.weight":
                weight.copy_(both.signals.weight[:, [0, 2]])
            else:
                weight.copy_(shared[key])
    # The free part and the signal of the picture have weight 0, so nothing of it is left.
    has_text = catalogue.present_M[:, 0]
    fused = [one.fusion(catalogue.only(one.dims).take(torch.arange(30)[None])) for one in (both, text)]
    assert torch.equal(fused[0][0][has_text], fused[1][0][has_text])
    found, expected = (score_catalogue(one, catalogue, HISTORIES) for one in (both, text))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_rating_of_the_additive_fusion_is_the_released_prior_and_no_users_own_row(config, catalogue) -> None:
    fusion = moved(built(config, "additive")[1]).fusion
    everything = torch.arange(30)[None]
    before = fusion(catalogue.take(everything))
    assert not torch.allclose(fusion(catalogue.with_prior(np.zeros(30, np.float32)).take(everything)), before)
    first, second = torch.tensor([[3, 1, 2, 7]]), torch.tensor([[8, 9, 10, 7]])
    vectors = [fusion(catalogue.take(rows))[0, 3] for rows in (first, second)]
    torch.testing.assert_close(vectors[0], vectors[1])
    torch.testing.assert_close(vectors[0], before[0, 7])


def test_cross_attention_asks_with_the_first_modality_that_is_there() -> None:
    present = torch.tensor([[True, True, False, True], [False, True, True, False], [False, False, False, True]])
    with torch.no_grad():
        weights = TRAINED["cross_attention"].weights(items_of(present))[0]
    assert (weights[[0, 1, 2], [0, 1, 3]] > 0.5 - 1e-6).all()
    assert weights[[0, 0, 1, 2], [1, 3, 2, 0]].max() < 0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fusion": "sum"}, "fusion"),
        ({"fusion_layers": 2}, "fusion_layers"),
        ({"fusion": "gated", "fusion_heads": 4}, "fusion_heads"),
        ({"fusion": "concat", "decision_rule": "vote"}, "decision_rule"),
        ({"decision_weights": "local"}, "decision_weights"),
        ({"fusion": "decision", "decision_temperature": 0.5}, "decision_temperature"),
        ({"fusion": "decision", "decision_votes": 3}, "decision_votes"),
        ({"fusion": "transformer", "fusion_heads": 3}, "no multiple"),
        ({"modalities": []}, "modalities"),
        ({"modalities": ["text", "text"]}, "twice"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(values, words) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config(ModelConfig, values, source="test")


def test_a_modality_that_the_bundle_lacks_is_refused(config) -> None:
    with pytest.raises(ValueError, match="audio"):
        run_with(config, modalities=("text", "audio"))


def test_the_page_counts_the_weights_of_every_family(repository) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| ([\d,]+) \|[^|]*\|$", (repository / "docs/fusion.md").read_text(), re.MULTILINE
    )
    stated = {name: int(count.replace(",", "")) for name, count in rows}
    counted = {}
    for name in FUSIONS:
        fusion = build_fusion(ModelConfig(fusion=name), dict.fromkeys(MODALITIES, 128))
        shared = sum(weight.numel() for weight in fusion.projections.parameters())
        counted[name] = sum(weight.numel() for weight in fusion.parameters()) - shared
        assert shared == 4096
    assert stated == counted
