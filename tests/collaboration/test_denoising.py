"""Shrinkage helps where there is noise, leaves the sums alone where there is none, and ends at independence."""

from __future__ import annotations

import numpy as np
import pytest

from mmrec_model.collaboration.denoising import _Filter, denoise

M, USERS, GROUPS = 60, 1500, 6


def planted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of users who like one of a few groups of items, popular ones first, and the cosines of the groups."""
    rng = np.random.default_rng(seed)
    group = np.arange(M) % GROUPS
    popular = 1.0 / np.arange(3, M + 3)
    like = np.where(group == np.arange(GROUPS)[:, None], 1.0, 0.15) * popular
    like /= like.sum(axis=1, keepdims=True)
    seen = np.zeros((USERS, M))
    for row in seen:
        row[rng.choice(M, size=5, replace=False, p=like[rng.integers(GROUPS)])] = 1.0
    seen /= np.sqrt(15.0)
    return seen.T @ seen, (group[:, None] == group).astype(np.float64)


def noised(pairs: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).normal(scale=deviation, size=pairs.shape))
    return pairs + upper + np.triu(upper, 1).T


def test_without_noise_nothing_is_shrunk() -> None:
    pairs, cosines = planted(0)
    found = denoise(pairs, cosines, noise=0.0)
    np.testing.assert_array_equal(found.pairs_MM, pairs)
    assert (found.remaining, found.kept) == (0.0, 1.0)


@pytest.mark.parametrize("deviation", [3.0, 10.0, 40.0])
@pytest.mark.parametrize("knows", [True, False])
def test_the_estimate_is_closer_to_the_truth_than_the_noised_sums(deviation: float, knows: bool) -> None:
    pairs, cosines = planted(1)
    given = noised(pairs, deviation)
    found = denoise(given, cosines if knows else np.zeros((M, M)), noise=deviation)
    before, after = (np.linalg.norm(one - pairs) for one in (given, found.pairs_MM))
    assert after < 0.8 * before
    np.testing.assert_allclose(found.pairs_MM, found.pairs_MM.T, atol=1e-9)
    assert 0.0 < found.kept < 1.0


def test_features_that_know_the_groups_help_and_more_noise_keeps_less() -> None:
    pairs, cosines = planted(2)
    kept, errors = [], []
    for deviation in (1.0, 5.0, 25.0):
        given = noised(pairs, deviation)
        knowing, ignorant = (denoise(given, one, noise=deviation) for one in (cosines, np.zeros((M, M))))
        kept.append(knowing.kept)
        errors.append([np.linalg.norm(one.pairs_MM - pairs) for one in (knowing, ignorant)])
    assert kept == sorted(kept, reverse=True)
    assert errors[2][0] < errors[2][1]


def test_under_huge_noise_what_is_left_is_independence() -> None:
    pairs, cosines = planted(3)
    given = noised(pairs, 1e5)
    found = denoise(given, cosines, noise=1e5)
    counts = np.maximum(np.diag(given), 1e5)
    independent = np.outer(counts, counts) * (max(given.sum(), 0.0) / np.outer(counts, counts).sum())
    assert found.kept < 0.05
    assert np.linalg.norm(found.pairs_MM - independent) < 0.2 * np.linalg.norm(given - independent)


@pytest.mark.parametrize("deviation", [2.0, 8.0, 30.0])
def test_the_stated_size_of_the_error_is_right_within_a_factor_of_three_and_below_that_of_the_noise(
    deviation: float,
) -> None:
    """The model is not how the pairs were drawn; the size decides a penalty, not a guarantee."""
    for seed in range(3):
        pairs, cosines = planted(seed)
        found = denoise(noised(pairs, deviation, seed), cosines, noise=deviation)
        made = np.linalg.norm(found.pairs_MM - pairs, 2)
        assert made / 3 < found.remaining < 3 * made
        assert found.remaining < 2.0 * deviation * np.sqrt(M)


def test_the_filter_is_the_best_linear_estimate_under_its_model() -> None:
    """The mean of a matrix normal given its noised entries, by one solution over all of them."""
    rng = np.random.default_rng(4)
    items, deviation, logs = 5, 1.7, np.array([0.3, -0.5])
    counts = rng.uniform(1.0, 9.0, items)
    rows = rng.normal(size=(items, 2))
    noised_MM = noised(np.outer(counts, counts) / counts.sum(), 3.0, seed=1)
    found = _Filter(noised_MM, counts, [np.eye(items), rows @ rows.T], deviation)
    covariance = (np.exp(0.3) * np.eye(items) + np.exp(-0.5) * rows @ rows.T) * np.sqrt(np.outer(counts, counts))
    whole = np.kron(covariance, covariance)
    excess = (noised_MM - found.independent).ravel()
    expected = whole @ np.linalg.solve(whole + deviation**2 * np.eye(items**2), excess)
    estimate, _, kept = found.apply(logs)
    np.testing.assert_allclose((estimate - found.independent).ravel(), expected, rtol=1e-8, atol=1e-10)
    shares = np.linalg.eigvalsh(whole) / (np.linalg.eigvalsh(whole) + deviation**2)
    assert kept == pytest.approx(shares.mean())
