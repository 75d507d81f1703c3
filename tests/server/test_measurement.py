"""Mean metrics from noised sums: exact without noise, with the stated error under it, none where it says nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmrec_model.config import FeatureSpec, PrivacyConfig, RunConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.errors import AdmissionError
from mmrec_model.protocol import METRICS
from server.admission import check_arrays
from server.measurement import mean_metrics, metrics_bound

NAMES = ("recall_at_10", "ndcg_at_10", "mrr")


def plan(noise: float) -> RunConfig:
    private = PrivacyConfig(epsilon=1.0, noise_multiplier=1.0, popularity_noise_multiplier=1.0)
    bare = PrivacyConfig(mechanism="none", epsilon=None, noise_multiplier=0.0, popularity_noise_multiplier=0.0)
    return RunConfig(
        run_id="measured",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=3, dims={"text": 4}),
        privacy=private if noise else bare,
        evaluation=EvaluationConfig(metrics=NAMES, final=True, noise_multiplier=noise),
    )


def release(*numbers: float) -> dict[str, np.ndarray]:
    return {METRICS: np.asarray(numbers, dtype=np.float32)}


def test_without_noise_the_mean_is_that_over_the_users_of_all_partners() -> None:
    found = mean_metrics(plan(0.0), {"be": release(10, 5, 2, 20), "fr": release(30, 20, 10, 60)})
    assert (found.users, found.users_error) == (80.0, 0.0)
    assert {name: (mean.value, mean.error) for name, mean in found.metrics.items()} == {
        "recall_at_10": (0.5, 0.0),
        "ndcg_at_10": (25 / 80, 0.0),
        "mrr": (12 / 80, 0.0),
    }


def test_the_stated_error_is_the_one_that_is_made() -> None:
    config, truth = plan(4.0), np.asarray([[800, 100, 50, 900], [580, 200, 90, 600]])
    rng = np.random.default_rng(7)
    misses: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(2000):
        noised = truth + rng.normal(scale=4.0 * math.sqrt(4), size=truth.shape)
        found = mean_metrics(config, {"be": release(*noised[0]), "fr": release(*noised[1])})
        for name, total in zip(NAMES, truth.sum(axis=0)[:3], strict=True):
            misses[name].append((found.metrics[name].value - total / 1500) / found.metrics[name].error)
    # 2000 misses of each: their deviation is known to 1.6 %, their mean to .022
    for found_misses in misses.values():
        assert np.std(found_misses) == pytest.approx(1.0, abs=0.06)
        assert np.mean(found_misses) == pytest.approx(0.0, abs=0.09)


@pytest.mark.parametrize("users", [-5.0, 0.0, 39.0])
def test_users_that_do_not_stand_out_of_their_noise_give_no_figure(users: float) -> None:
    found = mean_metrics(plan(4.0), {"be": release(3, 2, 1, users)})
    assert found.metrics == {}
    assert (found.users, found.users_error) == (users, 8.0)
    assert set(mean_metrics(plan(4.0), {"be": release(3, 2, 1, 41.0)}).metrics) == set(NAMES)


def test_nobody_evaluated_without_noise_gives_no_figure() -> None:
    assert mean_metrics(plan(0.0), {"be": release(0, 0, 0, 0)}).metrics == {}


def test_the_largest_honest_release_is_admitted_and_an_absurd_one_is_not() -> None:
    config, shapes = plan(4.0), {METRICS: (4,)}
    bound = metrics_bound(config, users=30)
    honest = np.float32([60, 60, 60, 60]) + np.random.default_rng(0).normal(scale=8.0, size=(500, 4))
    for numbers in honest:
        check_arrays(release(*numbers), shapes=shapes, max_norm=bound)
    with pytest.raises(AdmissionError, match="norm"):
        check_arrays(release(1e6, 0, 0, 30), shapes=shapes, max_norm=bound)
