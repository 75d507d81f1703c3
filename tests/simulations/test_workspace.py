"""A workspace is encoded by the encoders of its recipe, and its sites trust the coordinator's signature alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrec_model.config import EncoderConfig, TrainingConfig
from mmrec_model.errors import BundleSignatureError
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
