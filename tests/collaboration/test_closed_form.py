"""The closed form is the minimum that it promises, EASE where content says nothing, and content where noise is huge."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mmrec_model.collaboration.closed_form import discounted, item_weights, ridge_penalty, standardised
from mmrec_model.evaluation.baselines import EASE

M = 6


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    seen = (rng.random((40, M)) < 0.4).astype(np.float64)
    content = np.maximum(rng.normal(size=(M, M)), 0.0)
    content = (content + content.T) / 2.0
    np.fill_diagonal(content, 0.0)
    return seen.T @ seen, content


def brute_force(pairs: np.ndarray, content: np.ndarray, penalty: float) -> np.ndarray:
    """Each column by least squares over the items that are not the column's own."""
    root = np.linalg.cholesky(pairs + 1e-12 * np.eye(M)).T
    found = np.zeros((M, M))
    for column in range(M):
        free = [item for item in range(M) if item != column]
        left = np.vstack([root[:, free], np.sqrt(penalty) * np.eye(M)[:, free]])
        right = np.concatenate([root[:, column], np.sqrt(penalty) * content[:, column]])
        found[free, column] = np.linalg.lstsq(left, right, rcond=None)[0]
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.5, 10.0, 300.0])
def test_it_is_the_least_squares_solution_under_a_zero_diagonal(seed: int, penalty: float) -> None:
    pairs, content = problem(seed)
    found = item_weights(pairs, content, penalty=penalty)
    np.testing.assert_allclose(found, brute_force(pairs, content, penalty), atol=1e-8)
    assert not np.diag(found).any()


def test_without_content_it_is_the_ease_of_the_baselines() -> None:
    seen = (np.random.default_rng(1).random((40, M)) < 0.4).astype(np.float32)
    pairs = (seen.T @ seen).astype(np.float64)
    ease = EASE(l2=7.0).fit(csr_matrix(seen)).weights_NN
    found = item_weights(pairs, np.zeros((M, M)), penalty=7.0)
    assert np.abs(found).max() > 0.05
    np.testing.assert_allclose(found, ease, atol=1e-7)


def test_a_huge_penalty_gives_the_content() -> None:
    pairs, content = problem(2)
    np.testing.assert_allclose(item_weights(pairs, content, penalty=1e9), content, atol=1e-6)


def test_the_penalty_is_the_mean_count_and_grows_with_the_noise_that_is_left() -> None:
    pairs, _ = problem(3)
    assert ridge_penalty(pairs, remaining=0.0, noise_penalty=2.0) == pytest.approx(np.trace(pairs) / M)
    more = ridge_penalty(pairs, remaining=5.0, noise_penalty=2.0) - ridge_penalty(
        pairs, remaining=0.0, noise_penalty=2.0
    )
    assert more == pytest.approx(10.0)
    assert ridge_penalty(-pairs, remaining=0.0, noise_penalty=2.0) > 0.0


def test_standard_weights_score_the_neighbours_of_an_item_with_deviation_one() -> None:
    pairs, content = problem(4)
    weights = item_weights(pairs, content, penalty=3.0)
    counts = np.diag(pairs)
    scaled = standardised(weights, counts)
    assert np.average(scaled.std(axis=1), weights=counts) == pytest.approx(1.0)
    np.testing.assert_allclose(standardised(5.0 * weights, counts), scaled)
    assert not standardised(np.zeros((M, M)), counts).any()


def test_popular_columns_are_discounted_as_far_as_the_pairs_are_known():
    weights, counts = np.ones((4, 4)), np.array([1.0, 10.0, 100.0, 0.0])
    known = discounted(weights, counts, remaining=0.0, kept=1.0)[0]
    assert known[0] > known[1] > known[2] > 0.0
    assert known[3] > known[0]
    assert known[0] / known[1] == pytest.approx((11.0 / 2.0) ** 0.15)
    noisy = discounted(weights, counts, remaining=50.0, kept=0.5)[0]
    assert known[0] / known[2] > noisy[0] / noisy[2] > 1.0
    np.testing.assert_array_equal(discounted(weights, counts, remaining=50.0, kept=0.0), weights)
