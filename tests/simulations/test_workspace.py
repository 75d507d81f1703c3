"""A workspace is encoded by the encoders of its recipe, and its sites trust the coordinator's signature alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.policy import check_metric_noise, check_metrics
from mmrec_model.config import EncoderConfig, TrainingConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.errors import BundleSignatureError, PolicyRefusal
from mmrec_model.features.signature import sign_bundle
from mmrec_model.privacy.keys import SigningKey
from server.sites import coordinator_key
from simulations.workspace import Recipe, divide, encode, found, plan


def test_word_vectors_are_fitted_on_the_workspaces_catalogue_and_signed_for_its_sites(
    small_partner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gensim")
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "store"))
    encoders = (EncoderConfig(modality="text", source="word2vec"),)
    recipe = Recipe(
        small_partner, tmp_path / "run", 8.0, 1e-3, 1, TrainingConfig(rounds=1), partners=2, encoders=encoders
    )
    bundle = encode(recipe)
    assert "24 texts of the catalogue" in bundle.manifest["modalities"]["text"]["encoder"]["note"]
    assert bundle.present_NM.all()
    groups = divide(recipe)
    sites = found(recipe, groups, plan(recipe, bundle, groups))
    key = coordinator_key(recipe.out / "coordinator").public
    for site in sites:
        site.check_features(key)
        site.check_features(None)
    sign_bundle(recipe.out / "features", SigningKey.from_seed(b"s" * 32))
    with pytest.raises(BundleSignatureError):
        sites[0].check_features(key)


@pytest.mark.parametrize("evaluation", [EvaluationConfig(), EvaluationConfig(final=True)])
@pytest.mark.parametrize("gate", ["recall_at_20", None])
def test_a_sites_policy_lets_out_every_metric_that_its_plan_asks_for_and_none_with_less_noise(
    evaluation: EvaluationConfig, gate: str | None, small_partner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(small_partner.parent / "vectors"))
    training = TrainingConfig(rounds=1, sample_rate=0.5)
    recipe = Recipe(
        small_partner, tmp_path / "run", 8.0, 1e-3, 1, training, partners=2, evaluation=evaluation, gate=gate
    )
    bundle, groups = encode(recipe), divide(recipe)
    config = plan(recipe, bundle, groups)
    asked = [config.gate.noise_multiplier] if gate else []
    asked += [config.evaluation.noise_multiplier] if evaluation.final else []
    for site in found(recipe, groups, config):
        if evaluation.final:
            check_metrics(site.policy, config)
        for noise in asked:
            check_metric_noise(site.policy, noise)
        if asked:
            with pytest.raises(PolicyRefusal, match="metric-noise"):
                check_metric_noise(site.policy, 0.99 * min(asked))
