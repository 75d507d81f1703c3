"""Means from noised sums: exact without noise, with the stated error under it, none where it says nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmrec_model.errors import AdmissionError
from mmrec_model.protocol import METRICS
from server.admission import check_arrays, public_sum_bound
from server.measurement import Measured, means

NAMES = ("recall_at_10", "ndcg_at_10", "mrr")


def measured(*releases: tuple[float, ...], noise: float) -> Measured:
    return means(NAMES, np.sum(releases, axis=0, dtype=np.float64), noise_multiplier=noise, partners=len(releases))


def test_without_noise_the_mean_is_that_over_the_users_of_all_partners() -> None:
    found = measured((10, 5, 2, 20), (30, 20, 10, 60), noise=0.0)
    assert (found.users, found.users_error) == (80.0, 0.0)
    assert {name: (mean.value, mean.error) for name, mean in found.metrics.items()} == {
        "recall_at_10": (0.5, 0.0),
        "ndcg_at_10": (25 / 80, 0.0),
        "mrr": (12 / 80, 0.0),
    }


def test_the_stated_error_is_the_one_that_is_made() -> None:
    truth = np.asarray([[800, 100, 50, 900], [580, 200, 90, 600]])
    rng = np.random.default_rng(7)
    misses: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(2000):
        noised = truth + rng.normal(scale=4.0 * math.sqrt(4), size=truth.shape)
        found = measured(*noised, noise=4.0)
        for name, total in zip(NAMES, truth.sum(axis=0)[:3], strict=True):
            misses[name].append((found.metrics[name].value - total / 1500) / found.metrics[name].error)
    # 2000 misses of each: their deviation is known to 1.6 %, their mean to .022
    for found_misses in misses.values():
        assert np.std(found_misses) == pytest.approx(1.0, abs=0.06)
        assert np.mean(found_misses) == pytest.approx(0.0, abs=0.09)


@pytest.mark.parametrize("users", [-5.0, 0.0, 39.0])
def test_users_that_do_not_stand_out_of_their_noise_give_no_figure(users: float) -> None:
    found = measured((3, 2, 1, users), noise=4.0)
    assert found.metrics == {}
    assert (found.users, found.users_error) == (users, 8.0)
    assert set(measured((3, 2, 1, 41.0), noise=4.0).metrics) == set(NAMES)


def test_nobody_evaluated_without_noise_gives_no_figure() -> None:
    assert measured((0, 0, 0, 0), noise=0.0).metrics == {}


def test_a_name_without_its_number_is_an_error_and_no_figure() -> None:
    with pytest.raises(ValueError, match="zip"):
        means(NAMES, np.array([3.0, 2.0, 40.0]), noise_multiplier=0.0, partners=1)


def test_the_largest_honest_release_is_admitted_and_an_absurd_one_is_not() -> None:
    shapes = {METRICS: (4,)}
    bound = public_sum_bound(users=30, width=4, bound=math.sqrt(4), noise=4.0)
    honest = np.float32([60, 60, 60, 60]) + np.random.default_rng(0).normal(scale=8.0, size=(500, 4))
    for numbers in honest:
        check_arrays({METRICS: numbers.astype(np.float32)}, shapes=shapes, max_norm=bound)
    with pytest.raises(AdmissionError, match="norm"):
        check_arrays({METRICS: np.float32([1e6, 0, 0, 30])}, shapes=shapes, max_norm=bound)
