"""Selected dimensions are those that the catalogue asks for, and new items go through the same choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mmrec_model.config import EncoderConfig, TransformConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.encoders.registry import load_encoder
from mmrec_model.errors import ConfigError, FeatureError
from mmrec_model.features.bundle import build_bundle, open_transform
from mmrec_model.features.selection import select
from mmrec_model.features.transform import fit_transform

WIDTH, TELLING = 24, (3, 11, 19)
KINDS = ("red", "white", "beer", "juice")


def catalogue(items: int = 160) -> tuple[np.ndarray, list[str]]:
    """Vectors of which three numbers tell the categories apart; the first two vary most and tell nothing."""
    rng = np.random.default_rng(0)
    kind = rng.integers(len(KINDS), size=items)
    rows = rng.normal(size=(items, WIDTH))
    rows[:, :2] *= 6.0
    rows[:, TELLING] = 0.3 * rows[:, TELLING] + 3.0 * rng.normal(size=(len(KINDS), len(TELLING)))[kind]
    return rows.astype(np.float32), [KINDS[one] for one in kind]


@pytest.mark.parametrize("how", ["importance", "l1"])
def test_the_dimensions_that_tell_categories_apart_are_kept(how: str) -> None:
    rows, kinds = catalogue()
    kept = select(rows, TransformConfig(select=how, select_dims=3), kinds)
    assert tuple(np.flatnonzero(kept)) == TELLING


def test_variance_keeps_what_differs_most_and_reads_no_category() -> None:
    rows, _ = catalogue()
    kept = select(rows, TransformConfig(select="variance", select_dims=2), [])
    assert np.flatnonzero(kept).tolist() == [0, 1]


def test_nothing_is_selected_by_default() -> None:
    assert select(catalogue()[0], TransformConfig(), []) is None


@settings(max_examples=20, deadline=None)
@given(dims=st.integers(2, 40), seed=st.integers(0, 99))
def test_no_more_than_the_asked_dimensions_are_kept_and_twice_the_same(dims: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(12, WIDTH)).astype(np.float32)
    config = TransformConfig(select="variance", select_dims=dims)
    kept = select(rows, config, [])
    assert kept.sum() == min(dims, WIDTH)
    np.testing.assert_array_equal(kept, select(rows, config, []))


def test_items_without_a_category_teach_nothing() -> None:
    rows, kinds = catalogue()
    config = TransformConfig(select="l1", select_dims=3)
    noise = np.random.default_rng(1).normal(size=(40, WIDTH)).astype(np.float32)
    more = select(np.concatenate([rows, noise]), config, [*kinds, *[""] * 39, "seen once"])
    np.testing.assert_array_equal(more, select(rows, config, kinds))


@pytest.mark.parametrize("how", ["importance", "l1"])
def test_a_catalogue_without_two_categories_is_refused(how: str) -> None:
    rows, kinds = catalogue()
    for labels in ([""] * len(kinds), ["red"] * len(kinds), ["red", *map(str, range(len(kinds) - 1))]):
        with pytest.raises(FeatureError, match="2 are needed"):
            select(rows, TransformConfig(select=how, select_dims=3), labels)
    with pytest.raises(FeatureError, match="tells the categories apart"):
        select(np.ones_like(rows), TransformConfig(select=how, select_dims=3), kinds)


def test_the_transform_sees_the_selected_dimensions_alone() -> None:
    rows, _ = catalogue()
    config = TransformConfig(dims=4, select="variance", select_dims=6)
    kept = select(rows, config, [])
    fit = fit_transform(rows, config, kept)
    spoilt = np.where(kept, rows, 99.0).astype(np.float32)
    np.testing.assert_array_equal(fit.apply(spoilt), fit.apply(rows))
    plain = fit_transform(rows[:, kept], TransformConfig(dims=4))
    np.testing.assert_array_equal(fit.apply(rows), plain.apply(rows[:, kept]))
    with pytest.raises(FeatureError, match="width 6"):
        fit.apply(rows[:, kept])


def test_a_bundle_stores_the_choice_and_new_items_go_through_it(
    shelf: object, encoders: tuple[EncoderConfig, ...], tmp_path: Path
) -> None:
    config = TransformConfig(dims=4, whiten=False, select="importance", select_dims=5)
    sorts = ("wine", "wine", "wine", "beer", "beer", "juice", "", "")
    shelf = replace(shelf, categories=sorts)
    built = build_bundle(shelf, tmp_path / "b", encoders=encoders[:1], transform=config, store=tmp_path / "s")
    assert built.manifest["transform"]["select"] == "importance"
    assert built.manifest["modalities"]["text"]["selected"] <= 5
    assert load_file(tmp_path / "b" / "text.transform.safetensors")["kept"].sum() <= 5
    raw, _ = load_encoder(encoders[0]).encode(["cold beer"])
    vector = open_transform(tmp_path / "b", "text").apply(raw)
    np.testing.assert_allclose(vector[0], built.vectors["text"][3], atol=1e-4)
    other = replace(shelf, categories=("juice", "wine", "beer", "beer", "wine", "juice", "", ""))
    moved = build_bundle(other, tmp_path / "c", encoders=encoders[:1], transform=config, store=tmp_path / "s")
    assert moved.digest != built.digest


def test_without_selection_and_quality_the_files_are_what_they_were(
    shelf: object, encoders: tuple[EncoderConfig, ...], tmp_path: Path
) -> None:
    config = TransformConfig(dims=4)
    built = build_bundle(shelf, tmp_path / "b", encoders=encoders, transform=config, store=tmp_path / "s")
    assert set(load_file(tmp_path / "b" / "text.transform.safetensors")) == {"mean", "axes", "explained"}
    assert set(built.manifest["transform"]) == {"dims", "whiten"}
    assert set(built.manifest) == {
        "files",
        "format",
        "item_ids",
        "items",
        "modalities",
        "transform",
        "without_features",
    }
    assert "selected" not in built.manifest["modalities"]["text"]


@pytest.mark.parametrize(
    "asked", [{"select_dims": 64}, {"near_duplicate": 0.9}, {"quarantine": 0.05}, {"quality": True, "quarantine": 0.21}]
)
def test_a_setting_that_does_nothing_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse_config(TransformConfig, asked, source="test")
