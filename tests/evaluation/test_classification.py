"""Figures of probabilities agree with a second implementation, written out here or scikit-learn's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.errors import DataError
from mmrec_model.evaluation.classification import auc, class_log_loss, ece, gauc, log_loss, rmse

ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20).map(lambda value: value / 20), st.integers(0, 4)),
    min_size=2,
    max_size=60,
)


def columns(rows: list[tuple[bool, float, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores, users = zip(*rows, strict=True)
    return np.array(labels), np.array(scores), np.array(users)


def counted_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    pairs = list(itertools.product(scores[labels], scores[~labels]))
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs) if pairs else None


@settings(deadline=None)
@given(ROWS)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[bool, float, int]]) -> None:
    labels, scores, _ = columns(rows)
    expected = counted_auc(labels, scores)
    if expected is None:
        with pytest.raises(DataError, match="both kinds"):
            auc(labels, scores)
    else:
        assert auc(labels, scores) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(ROWS)
def test_gauc_is_the_mean_of_the_users_aucs_weighted_by_rows(rows: list[tuple[bool, float, int]]) -> None:
    labels, scores, users = columns(rows)
    parts = [(counted_auc(labels[users == user], scores[users == user]), (users == user).sum()) for user in range(5)]
    known = [(value, weight) for value, weight in parts if value is not None]
    if known:
        expected = sum(value * weight for value, weight in known) / sum(weight for _, weight in known)
        assert gauc(labels, scores, users * 7 - 3) == pytest.approx(expected, abs=1e-9)
    else:
        with pytest.raises(DataError, match="none of"):
            gauc(labels, scores, users)


@settings(deadline=None)
@given(ROWS)
def test_log_loss_is_the_mean_surprise(rows: list[tuple[bool, float, int]]) -> None:
    labels, scores, _ = columns(rows)
    likely = np.clip(scores, 0.01, 0.99)
    expected = -np.mean([math.log(p if label else 1 - p) for label, p in zip(labels, likely, strict=True)])
    assert log_loss(labels, likely) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(ROWS)
def test_ece_is_the_weighted_gap_of_the_bins(rows: list[tuple[bool, float, int]]) -> None:
    labels, scores, _ = columns(rows)
    scores = scores * 0.97 + 0.013
    total = 0.0
    for number in range(10):
        inside = [(label, p) for label, p in zip(labels, scores, strict=True) if number <= p * 10 < number + 1]
        if inside:
            gap = np.mean([label for label, _ in inside]) - np.mean([p for _, p in inside])
            total += len(inside) / len(rows) * abs(gap)
    assert ece(labels, scores) == pytest.approx(total, abs=1e-9)


def test_all_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, likely = rng.random(500) < 0.3, rng.random(500).round(2) * 0.98 + 0.01
    assert auc(labels, likely) == pytest.approx(metrics.roc_auc_score(labels, likely), abs=1e-9)
    assert log_loss(labels, likely) == pytest.approx(metrics.log_loss(labels, likely), abs=1e-9)
    classes, table = rng.integers(0, 4, 300), rng.dirichlet(np.ones(4), size=300)
    assert class_log_loss(classes, table) == pytest.approx(metrics.log_loss(classes, table), abs=1e-9)
    truth, said = rng.normal(size=200), rng.normal(size=200)
    assert rmse(truth, said) == pytest.approx(metrics.root_mean_squared_error(truth, said), abs=1e-9)


def test_a_sure_and_wrong_prediction_costs_much_but_not_infinitely_much() -> None:
    assert 20.0 < log_loss(np.array([True]), np.array([0.0])) < 30.0


@pytest.mark.parametrize("bad", [[0.5, math.nan], [0.5, 1.2], [0.5, -0.1], [0.5], [math.inf, 0.1]])
def test_what_is_no_probability_is_refused(bad: list[float]) -> None:
    for measure in (log_loss, ece):
        with pytest.raises(DataError):
            measure(np.array([True, False]), np.array(bad))


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        auc(np.array([True, False]), np.array([math.nan, 1.0]))
    with pytest.raises(DataError, match="at least 1"):
        rmse(np.array([]), np.array([]))
