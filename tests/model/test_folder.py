"""An exported model loads by one call, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec_model.errors import ModelError
from mmrec_model.model.folder import load_model, save_model
from mmrec_model.model.recommender import build_model
from mmrec_model.model.scoring import score_catalogue


def exported(folder, config, trained, catalogue):
    state = {name: weight.numpy() for name, weight in trained.trainable_state().items()}
    save_model(folder, config, {**state, "prior": catalogue.prior.numpy()}, card="# A model\n")


def test_a_loaded_model_scores_as_the_saved_one(tmp_path, config, trained, catalogue):
    exported(tmp_path, config, trained, catalogue)
    loaded = load_model(tmp_path)
    histories = [np.array([1, 2])]
    np.testing.assert_array_equal(
        score_catalogue(loaded.model, catalogue.with_prior(loaded.prior_N), histories),
        score_catalogue(trained, catalogue, histories),
    )
    assert loaded.config == config


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_a_changed_file_is_refused_by_name(name, tmp_path, config, trained, catalogue):
    exported(tmp_path, config, trained, catalogue)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(ModelError, match=name):
        load_model(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not an exported model"):
        load_model(tmp_path)


def test_an_export_holds_the_weights_that_were_not_trained_as_well(tmp_path, config, trained, catalogue, monkeypatch):
    narrow = config.model_copy(update={"model": config.model.model_copy(update={"scope": "head"})})
    model = build_model(narrow)
    exported(tmp_path, narrow, model, catalogue)
    monkeypatch.setattr("torch.nn.init.orthogonal_", lambda weight: weight.data.fill_(7.0))
    loaded = load_model(tmp_path).model
    assert all(torch.equal(weight, dict(model.named_parameters())[name]) for name, weight in loaded.named_parameters())
