"""Missing vectors are estimated from the catalogue alone, better than by nothing, and only where that was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.config import Modality, TransformConfig
from mmrec_model.errors import FeatureError
from mmrec_model.features.bundle import build_bundle, open_bundle
from mmrec_model.features.folder import open_imputation
from mmrec_model.features.imputation import FEWEST, Imputation, fit_imputation
from mmrec_model.features.transform import unit_rows

NAMES: tuple[Modality, ...] = ("text", "image", "audio")
ITEMS, LATENT = 120, 4


def related(seed: int = 0, noise: float = 0.1) -> dict[Modality, np.ndarray]:
    """Three views of one latent vector per item."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(ITEMS, LATENT))
    views = {}
    for name, width in zip(NAMES, (7, 6, 5), strict=True):
        view = latent @ rng.normal(size=(LATENT, width)) + noise * rng.normal(size=(ITEMS, width))
        views[name] = unit_rows(view).astype(np.float32)
    return views


def hidden(views: dict[Modality, np.ndarray], present: np.ndarray) -> dict[Modality, np.ndarray]:
    return {name: rows * present[:, [place]] for place, (name, rows) in enumerate(views.items())}


def test_estimates_point_where_the_hidden_vectors_point() -> None:
    views = related()
    present = np.random.default_rng(1).random((ITEMS, 3)) < 0.7
    fit = fit_imputation(hidden(views, present), present)
    filled, estimated = fit.fill(hidden(views, present), present)
    assert (estimated == (~present & present.any(axis=1, keepdims=True))).all()
    for place, (name, rows) in enumerate(views.items()):
        agreement = (filled[name] * rows).sum(axis=1)
        assert agreement[estimated[:, place]].mean() > 0.8
        np.testing.assert_array_equal(filled[name][present[:, place]], rows[present[:, place]])


def test_views_that_have_nothing_in_common_are_not_learned_by_heart() -> None:
    rng = np.random.default_rng(0)
    views = {name: unit_rows(rng.normal(size=(30, 15))).astype(np.float32) for name in NAMES[:2]}
    fitted = fit_imputation(views, np.ones((30, 2), dtype=bool)).maps["image<text"]
    by_heart = np.linalg.lstsq(views["text"], views["image"], rcond=None)[0]
    assert np.linalg.norm(fitted) < 0.3 * np.linalg.norm(by_heart)
    kin = related(noise=0.01)
    learned = fit_imputation(kin, np.ones((ITEMS, 3), dtype=bool)).maps["image<text"]
    assert np.linalg.norm(kin["text"] @ learned - kin["image"]) < 0.4 * np.linalg.norm(kin["image"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=ITEMS, max_size=ITEMS), st.integers(0, 9))
def test_any_pattern_gives_unit_rows_or_leaves_the_row_as_it_was(mask, seed) -> None:
    present = np.array(mask)
    views = hidden(related(seed), present)
    filled, estimated = fit_imputation(views, present).fill(views, present)
    assert not (estimated & present).any()
    assert not estimated[~present.any(axis=1)].any()
    for place, (name, rows) in enumerate(filled.items()):
        np.testing.assert_allclose(np.linalg.norm(rows[estimated[:, place]], axis=1), 1.0, atol=1e-5)
        np.testing.assert_array_equal(rows[~estimated[:, place]], views[name][~estimated[:, place]])


def test_what_too_few_items_could_teach_is_left_missing() -> None:
    views, present = related(), np.ones((ITEMS, 3), dtype=bool)
    present[FEWEST - 1 :, 2] = False
    filled, estimated = fit_imputation(hidden(views, present), present).fill(hidden(views, present), present)
    assert not estimated.any()
    present[FEWEST - 1, 2] = True
    assert fit_imputation(hidden(views, present), present).fill(hidden(views, present), present)[1][:, 2].any()
    assert filled["audio"][FEWEST:].sum() == 0


def shelf_of(shelf, count: int = 24):
    """The shelf's six described items four times over, and every fourth without its picture."""
    texts = tuple(f"{shelf.texts[at % 6]} {'dry' if at % 2 else 'sweet'}" for at in range(count))
    pictures = tuple(shelf.media["image"][at % 3] if at % 4 else None for at in range(count))
    ids = tuple(f"i{at}" for at in range(count))
    return replace(shelf, item_ids=ids, titles=("",) * count, texts=texts, media={"image": pictures})


def test_a_bundle_estimates_only_if_asked_and_says_how_many(shelf, encoders, tmp_path: Path) -> None:
    items = shelf_of(shelf)

    def build(name: str, **transform: object):
        config = TransformConfig(dims=3, whiten=False, **transform)  # type: ignore[arg-type]
        return build_bundle(
            items, tmp_path / name, encoders=encoders[:2], transform=config, store=tmp_path / "store"
        )  # fmt: skip

    bare, vector, present = build("bare"), build("vector", impute="vector"), build("present", impute="present")
    missing = ~bare.present_NM[:, 1]
    assert missing.sum() == 6
    assert (bare.vectors["image"][missing] == 0).all()
    assert "imputation" not in bare.manifest
    assert vector.manifest["imputation"] == {"impute": "vector", "estimated": {"text": 0, "image": 6}}
    np.testing.assert_array_equal(vector.present_NM, bare.present_NM)
    assert present.present_NM.all()
    for bundle in (vector, present):
        np.testing.assert_allclose(np.linalg.norm(bundle.vectors["image"][missing], axis=1), 1.0, atol=1e-5)
        np.testing.assert_array_equal(bundle.vectors["image"][~missing], bare.vectors["image"][~missing])
    fit = open_imputation(tmp_path / "vector")
    assert isinstance(fit, Imputation)
    again, _ = fit.fill({name: np.asarray(rows) for name, rows in bare.vectors.items()}, bare.present_NM)
    np.testing.assert_allclose(again["image"], vector.vectors["image"], atol=1e-6)
    assert len({bare.digest, vector.digest, present.digest}) == 3
    with pytest.raises(FeatureError, match="estimates nothing"):
        open_imputation(tmp_path / "bare")
    assert build("vector").digest == bare.digest
    assert not (tmp_path / "vector" / "imputation.safetensors").exists()


def test_changed_regressions_are_refused(shelf, encoders, tmp_path: Path) -> None:
    config = TransformConfig(dims=3, whiten=False, impute="vector")
    build_bundle(
        shelf_of(shelf), tmp_path / "b", encoders=encoders[:2], transform=config, store=tmp_path / "store"
    )  # fmt: skip
    file = tmp_path / "b" / "imputation.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(FeatureError, match=r"imputation\.safetensors"):
        open_bundle(tmp_path / "b")
    with pytest.raises(FeatureError, match=r"imputation\.safetensors"):
        open_imputation(tmp_path / "b")


def test_a_catalogue_with_one_modality_has_nothing_to_estimate_from(shelf, encoders, tmp_path: Path) -> None:
    config = TransformConfig(dims=3, whiten=False, impute="present")
    bundle = build_bundle(
        shelf, tmp_path / "b", encoders=encoders[:1], transform=config, store=tmp_path / "store"
    )  # fmt: skip
    assert bundle.manifest["imputation"]["estimated"] == {"text": 0}
    assert open_imputation(tmp_path / "b").maps == {}
