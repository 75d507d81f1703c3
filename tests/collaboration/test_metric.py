"""The metric finds which features go together, sees through popularity, and trusts noise as little as it may."""

from __future__ import annotations

import numpy as np
import pytest

from mmrec_model.collaboration.feature_pairs import sum_feature_pairs
from mmrec_model.collaboration.metric import estimate_metric
from mmrec_model.errors import ModelError

N_ITEMS, DIMS = 120, 6


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N_ITEMS, DIMS))


def histories(users: int = 400, popular: float = 0.0) -> tuple[list[np.ndarray], np.ndarray]:
    """Users who want items far out along axis 0, on the side of their own; and the log popularity they choose by."""
    rng, space = np.random.default_rng(1), features()
    liking = popular * rng.normal(size=N_ITEMS)
    found = []
    for user in range(users):
        weight = np.exp((2.0 if user % 2 else -2.0) * space[:, 0] + liking)
        found.append(rng.choice(N_ITEMS, size=8, replace=False, p=weight / weight.sum()))
    return found, ((liking - liking.mean()) / max(liking.std(), 1e-9)).astype(np.float32)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize(("noise", "popular"), [(0.0, 0.0), (4.0, 0.0), (0.0, 1.0), (4.0, 1.0)])
def test_the_direction_that_users_choose_along_is_found(noise: float, popular: float) -> None:
    lists, prior = histories(popular=popular)
    triangle = sum_feature_pairs(lists, features(), last=15)
    triangle = triangle + noise * np.random.default_rng(3).normal(size=triangle.size)
    found = estimate_metric(triangle, features(), prior, noise=noise)
    assert cosine(found.weights_DD, np.outer(np.eye(DIMS)[0], np.eye(DIMS)[0])) > 0.9
    np.testing.assert_allclose(found.weights_DD, found.weights_DD.T, atol=1e-5)


def test_what_popularity_explains_is_not_in_the_metric() -> None:
    """Users who choose by popularity alone: what is left is an order smaller than what was released."""
    rng, space = np.random.default_rng(4), features()
    liking = 2.0 * space[:, 1]
    share = np.exp(liking) / np.exp(liking).sum()
    lists = [rng.choice(N_ITEMS, size=8, p=share) for _ in range(2_000)]
    prior = ((liking - liking.mean()) / liking.std()).astype(np.float32)
    triangle = sum_feature_pairs(lists, space, last=15)
    ours, blind = (estimate_metric(triangle, space, one, noise=0.0).weights_DD for one in (prior, 0.0 * prior))
    along = np.outer(np.eye(DIMS)[1], np.eye(DIMS)[1])
    assert cosine(blind, along) > 0.8
    assert cosine(ours, along) < 0.4


def test_without_noise_everything_is_kept_and_under_huge_noise_plain_similarity_is_left() -> None:
    lists, prior = histories()
    triangle = sum_feature_pairs(lists, features(), last=15)
    assert estimate_metric(triangle, features(), prior, noise=0.0).kept == 1.0
    drowned = triangle + 1e5 * np.random.default_rng(5).normal(size=triangle.size)
    found = estimate_metric(drowned, features(), prior, noise=1e5)
    assert found.kept < 0.2
    little = estimate_metric(
        triangle + np.random.default_rng(5).normal(size=triangle.size), features(), prior, noise=1.0
    )
    assert found.kept < little.kept < 1.0


def test_scores_of_an_items_neighbours_deviate_by_about_one() -> None:
    lists, prior = histories()
    found = estimate_metric(sum_feature_pairs(lists, features(), last=15), features(), prior, noise=0.0)
    scores = features() @ found.weights_DD @ features().T
    assert 0.5 < scores.std(axis=1).mean() < 2.0


def test_nothing_released_and_nothing_known_gives_a_metric_of_zeros() -> None:
    prior = np.zeros(N_ITEMS, np.float32)
    assert not estimate_metric(np.zeros(21), features(), prior, noise=0.0).weights_DD.any()
    assert not estimate_metric(np.zeros(21), np.zeros((N_ITEMS, DIMS)), prior, noise=0.0).weights_DD.any()
    with pytest.raises(ModelError):
        estimate_metric(np.zeros(20), features(), prior, noise=0.0)
