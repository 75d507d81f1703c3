"""Laws of the catalogue transform, on random and on awkward vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.config import TransformConfig
from mmrec_model.errors import FeatureError
from mmrec_model.features.transform import CatalogueTransform, fit_transform, unit_rows


def raw(items: int, width: int, *, seed: int = 0, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    inner = rank or width
    scales = np.geomspace(1.0, 0.2, inner)
    vectors = rng.normal(size=(items, inner)) * scales @ rng.normal(size=(inner, width)) + 3.0
    return vectors.astype(np.float32)


def coordinates(fit: CatalogueTransform, vectors: np.ndarray) -> np.ndarray:
    return (unit_rows(vectors) - fit.mean_D) @ fit.axes_DK


@settings(max_examples=25, deadline=None)
@given(items=st.integers(200, 400), width=st.integers(3, 12), seed=st.integers(0, 99), whiten=st.booleans())
def test_coordinates_are_centred_uncorrelated_and_white_if_asked(
    items: int, width: int, seed: int, whiten: bool
) -> None:
    vectors = raw(items, width, seed=seed)
    fit = fit_transform(vectors, TransformConfig(dims=4, whiten=whiten))
    values = coordinates(fit, vectors)
    assert fit.dims == min(4, width)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-7)
    covariance = values.T @ values / items
    variance = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(variance), atol=1e-6 * variance.max())
    assert (np.diff(variance) <= 1e-6).all()
    if whiten:
        plain = coordinates(fit_transform(vectors, TransformConfig(dims=4, whiten=False)), vectors)
        before = np.square(plain).mean(axis=0)
        floor = max(1e-4 * before[0], 0.5 * before.sum() / items)
        np.testing.assert_allclose(variance, np.minimum(1, before / floor), rtol=1e-4)
        assert variance[0] == pytest.approx(1)
    np.testing.assert_allclose(np.linalg.norm(fit.apply(vectors), axis=1), 1, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_the_order_of_the_items_changes_nothing_but_the_order(seed: int) -> None:
    vectors = raw(60, 6, seed=seed)
    order = np.random.default_rng(seed).permutation(60)
    config = TransformConfig(dims=4)
    first, second = fit_transform(vectors, config), fit_transform(vectors[order], config)
    np.testing.assert_allclose(first.apply(vectors)[order], second.apply(vectors[order]), atol=1e-4)


def test_the_strongest_entry_of_every_axis_is_positive() -> None:
    axes = fit_transform(raw(50, 8), TransformConfig(dims=8, whiten=False)).axes_DK
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] > 0).all()


def test_without_reduction_or_whitening_angles_between_centred_rows_are_kept() -> None:
    vectors = raw(30, 6)
    fit = fit_transform(vectors, TransformConfig(dims=6, whiten=False))
    centred = unit_rows(unit_rows(vectors) - unit_rows(vectors).mean(axis=0))
    np.testing.assert_allclose(fit.apply(vectors) @ fit.apply(vectors).T, centred @ centred.T, atol=1e-5)
    assert fit.explained == pytest.approx(1.0)


@pytest.mark.parametrize(("items", "rank", "dims", "expected"), [(50, 3, 8, 3), (5, 16, 8, 4), (50, 16, 8, 8)])
def test_no_more_axes_are_kept_than_the_items_span(items: int, rank: int, dims: int, expected: int) -> None:
    vectors = raw(items, 16, rank=rank)
    vectors = np.asarray(unit_rows(vectors - 3.0), dtype=np.float32)
    assert fit_transform(vectors, TransformConfig(dims=dims)).dims in {expected, min(expected, rank)}


def test_whitening_few_items_along_many_axes_keeps_who_is_near_whom() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(6, 64))
    vectors = (np.repeat(centres, 4, axis=0) + 0.1 * rng.normal(size=(24, 64))).astype(np.float32)
    final = fit_transform(vectors, TransformConfig(dims=64)).apply(vectors)
    likeness = final @ final.T
    np.fill_diagonal(likeness, -2)
    assert (likeness.argmax(axis=1) // 4 == np.arange(24) // 4).all()
    assert likeness[0, 1:4].min() > likeness[0, 4:].max() + 0.3


def test_directions_of_no_variance_are_not_blown_up() -> None:
    vectors = raw(200, 6)
    vectors[:, 5] = 1e-4 * np.random.default_rng(2).normal(size=200)
    fit = fit_transform(vectors, TransformConfig(dims=6))
    variance = np.square(coordinates(fit, vectors)).mean(axis=0)
    assert variance.max() < 1 + 1e-6
    assert variance[-1] < 0.1


@pytest.mark.parametrize("items", [1, 5])
def test_items_that_are_all_alike_share_one_axis(items: int) -> None:
    vectors = np.tile(np.array([[3.0, 4.0, 0.0]], dtype=np.float32), (items, 1))
    final = fit_transform(vectors, TransformConfig(dims=2)).apply(vectors)
    np.testing.assert_allclose(final, np.ones((items, 1)), atol=1e-6)


def test_vectors_of_another_width_and_vectors_that_are_not_finite_are_refused() -> None:
    vectors = raw(10, 4)
    fit = fit_transform(vectors, TransformConfig(dims=2))
    with pytest.raises(FeatureError, match="width 3"):
        fit.apply(vectors[:, :3])
    vectors[3, 1] = np.inf
    with pytest.raises(FeatureError, match="finite"):
        fit_transform(vectors, TransformConfig(dims=2))
    with pytest.raises(FeatureError, match="0 vectors"):
        fit_transform(vectors[:0], TransformConfig(dims=2))
