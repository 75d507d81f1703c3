"""The library face: the page's example runs, and answers are those of the network."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmrec_model import MultimodalRecommender
from mmrec_model.canonical import canonical_json
from mmrec_model.config import ModelConfig, PrivacyConfig, RunConfig
from mmrec_model.errors import FeatureError, ModelError
from mmrec_model.features.folder import open_bundle, write_bundle
from mmrec_model.model.folder import save_model
from mmrec_model.model.recommender import initial_state

N_ITEMS = 20
PAGE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def write_features(folder: Path, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(N_ITEMS, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"i{number}" for number in range(N_ITEMS)]
    present = npy(np.ones((N_ITEMS, 1), dtype=bool))
    files = {"items.json": canonical_json(list(ids)), "present.npy": present, "text.npy": npy(vectors)}
    write_bundle(folder, files, {"items": N_ITEMS, "modalities": {}})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/mine` of a federation that trained nothing but popularity."""
    folder = tmp_path_factory.mktemp("library") / "runs" / "mine"
    write_features(folder / "features", seed=0)
    config = RunConfig(
        run_id="mine",
        seed=0,
        features=open_bundle(folder / "features").spec,
        model=ModelConfig(hidden=4, trained_dims=4),
        privacy=PrivacyConfig(epsilon=8.0, noise_multiplier=1.0, popularity_noise_multiplier=2.0),
    )
    prior = np.linspace(-1.0, 1.0, N_ITEMS).astype(np.float32)
    save_model(folder / "model", config, {**initial_state(config), "prior": prior}, card="# A model\n")
    return folder


@pytest.fixture(scope="module")
def model(workspace: Path) -> MultimodalRecommender:
    return MultimodalRecommender.load(workspace / "model")


def test_the_example_of_the_page_runs(workspace, repository, monkeypatch, capsys):
    monkeypatch.chdir(workspace.parent.parent)
    (example,) = PAGE.findall((repository / "docs" / "library.md").read_text())
    space: dict[str, object] = {}
    exec(example, space)  # noqa: S102 - the example is this repository's own
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert space["scores"].shape == (3,)


def test_the_package_is_imported_without_torch():
    code = (
        "import sys, mmrec_model; assert 'torch' not in sys.modules; assert 'MultimodalRecommender' in dir(mmrec_model)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_recommendations_are_the_best_scores_without_the_history(model):
    history = ["i3", "i8"]
    scores = model.score(history)
    answer = model.recommend(history, k=5)
    allowed = [item for item in np.argsort(-scores) if item not in (3, 8)]
    assert [item for item, _ in answer] == [f"i{item}" for item in allowed[:5]]
    assert [score for _, score in answer] == sorted((score for _, score in answer), reverse=True)
    assert len(model.recommend(history, k=100)) == N_ITEMS - 2
    assert len(model.recommend(history, k=100, exclude_history=False)) == N_ITEMS


def test_every_third_place_is_kept_for_new_items_by_content_and_their_scores_are_the_models(model):
    history, new = list(model.item_ids[:3]), list(model.item_ids[-4:])
    plain = [item for item, _ in model.recommend(history, k=len(model))]
    placed = model.recommend(history, k=9, new_items=new, new_every=3)
    items = [item for item, _ in placed]
    assert [item in new for item in items] == [False, False, True] * 3
    assert [item for item in items if item not in new] == [item for item in plain if item not in new][:6]
    assert [score for _, score in placed] == pytest.approx(model.score(history, items).tolist())
    with pytest.raises(ModelError, match="one place in 1"):
        model.recommend(history, new_items=new, new_every=1)
    with pytest.raises(ModelError):
        model.recommend(history, new_items=["nowhere"])


def test_an_empty_history_is_answered_by_popularity(model):
    assert [item for item, _ in model.recommend([], k=3)] == ["i19", "i18", "i17"]


def test_similar_items_leave_out_the_item_and_its_popularity(model):
    vectors = model.items.vectors["text"].numpy()
    nearest = [item for item in np.argsort(-(vectors @ vectors[4])) if item != 4]
    assert [item for item, _ in model.similar("i4", k=6)] == [f"i{item}" for item in nearest[:6]]


def test_scores_of_chosen_items_come_in_their_order(model):
    assert model.score(["i1"], ["i9", "i2"]).tolist() == model.score(["i1"])[[9, 2]].tolist()


def test_an_unknown_id_and_an_empty_answer_are_refused(model):
    for ask in (lambda: model.score(["i1", "nope"]), lambda: model.similar("nope")):
        with pytest.raises(ModelError, match="'nope'"):
            ask()
    with pytest.raises(ModelError, match="k is 0"):
        model.recommend(["i1"], k=0)


def test_another_bundle_is_refused_and_a_named_one_is_used(workspace, tmp_path):
    write_features(tmp_path / "other", seed=1)
    with pytest.raises(FeatureError, match="trained on"):
        MultimodalRecommender.load(workspace / "model", features=tmp_path / "other")
    loaded = MultimodalRecommender.load(str(workspace / "model"), features=workspace / "features")
    assert len(loaded) == N_ITEMS
    assert "run mine" in repr(loaded)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import mmrec_model

    with pytest.raises(AttributeError, match="nothing"):
        mmrec_model.nothing  # noqa: B018
