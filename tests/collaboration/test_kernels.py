"""The pairs themselves say which modality explains behaviour: never less than nothing, and noise does not shift it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmrec_model.collaboration.kernels import content_kernel, mixed, route

M = 30


def unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0.0)


def planted(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pairs of items of one group, which `text` knows and `image`, drawn at random, does not."""
    rng = np.random.default_rng(seed)
    group = np.arange(M) % 5
    histories = np.zeros((600, M))
    for row in histories:
        row[rng.choice(np.flatnonzero(group == rng.integers(5)), size=3, replace=False)] = 1.0
    pairs = histories.T @ histories
    vectors = {"text": unit(np.eye(5)[group] + 0.1 * rng.normal(size=(M, 5))), "image": unit(rng.normal(size=(M, 60)))}
    return pairs, {name: content_kernel(rows) for name, rows in vectors.items()}


def symmetric(rng: np.random.Generator, deviation: float) -> np.ndarray:
    upper = np.triu(rng.normal(scale=deviation, size=(M, M)))
    return upper + np.triu(upper, 1).T


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, (6, 6), elements=st.floats(-5, 5)), st.integers(0, 10**6))
def test_no_weight_is_negative_whatever_the_noise(matrix: np.ndarray, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(3, 6, 4))
    kernels = {name: content_kernel(unit(part)) for name, part in zip("abc", rows, strict=True)}
    weights = route(matrix + matrix.T, kernels)
    assert set(weights) == set(kernels)
    assert all(np.isfinite(weight) and weight >= 0.0 for weight in weights.values())


def test_the_modality_that_planted_the_pairs_is_found_and_a_random_one_gets_nothing() -> None:
    for seed in range(5):
        pairs, kernels = planted(seed)
        weights = route(pairs, kernels)
        assert weights["text"] > 0.02
        assert weights["image"] < 0.1 * weights["text"]
    assert min(route(planted(seed)[0], planted(seed)[1])["image"] for seed in range(5)) == 0.0


def test_the_weight_is_that_of_least_squares_on_histories() -> None:
    pairs, kernels = planted(1)
    weight, kernel = route(pairs, {"text": kernels["text"]})["text"], kernels["text"]
    root = np.linalg.cholesky(pairs + 1e-9 * np.eye(M)).T
    seen, target = (root @ kernel).ravel(), root.ravel()
    assert weight == pytest.approx(seen @ target / (seen @ seen), rel=1e-6)


def test_noise_of_mean_zero_leaves_the_weights_where_they_are_on_average() -> None:
    pairs, kernels = planted(2)
    exact = route(pairs, kernels)["text"]
    rng = np.random.default_rng(0)
    found = [route(pairs + symmetric(rng, 8.0), kernels)["text"] for _ in range(150)]
    error = np.std(found) / np.sqrt(len(found))
    assert np.std(found) > 0.0
    assert abs(np.mean(found) - exact) < 4.0 * error + 0.02 * exact


def test_nothing_but_noise_gives_almost_no_weight_and_none_where_there_is_no_positive_direction() -> None:
    _, kernels = planted(3)
    assert route(-np.eye(M), kernels) == {"text": 0.0, "image": 0.0}
    assert route(np.zeros((M, M)), kernels) == {"text": 0.0, "image": 0.0}
    assert route(np.eye(M), {}) == {}


def test_a_kernel_is_of_positive_cosines_without_itself_and_a_missing_item_is_like_none() -> None:
    kernel = content_kernel(np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [0.0, 0.0]], np.float32))
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 0.6
    np.testing.assert_allclose(kernel, expected, atol=1e-7)


def test_the_mixture_is_the_weighted_sum_and_zero_without_kernels() -> None:
    _, kernels = planted(4)
    found = mixed(kernels, {"text": 2.0, "image": 0.5}, M)
    np.testing.assert_allclose(found, 2.0 * kernels["text"] + 0.5 * kernels["image"])
    assert not mixed({}, {}, 3).any()
