"""Quality of probabilities and ratings: AUC, AUC within users, log-loss, calibration error, root mean square error.

auc    share of pairs of a positive and a negative row that are in the right order, ties counting half
       (Mann-Whitney; Hanley & McNeil 1982)
gauc   the AUC of each user who has both kinds of rows, weighted by the user's rows (Zhu et al., KDD 2017, section 3):
       what is left when differences between users are taken out
ece    mean over equal-width bins of |share of positives - mean probability|, weighted by rows (Naeini, AAAI 2015)

Pure functions; a score that is not a number is refused. Shapes: R rows, C classes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import DataError

Rows: TypeAlias = npt.NDArray[Any]
SMALLEST_PROBABILITY = 1e-12
"""Probabilities are held this far from 0 and 1 before a logarithm is taken."""


def auc(labels: Rows, scores: Rows) -> float:
    """Area under the ROC curve, 0..1.

    Args:
        labels: [R] booleans.
        scores: [R], larger is likelier.

    Raises:
        DataError: one of the two kinds of rows is missing, lengths differ, or a score is not finite.
    """
    labels, scores = _checked(labels, scores)
    if labels.all() or not labels.any():
        raise DataError(
            f"{int(labels.sum())} of {len(labels)} rows are positive, an AUC needs both kinds",
            remedy="Evaluate more rows",
        )
    return gauc(labels, scores, np.zeros(len(labels), dtype=np.int64))


def gauc(labels: Rows, scores: Rows, users: Rows) -> float:
    """AUC within users, 0..1.

    Args:
        labels: [R] booleans.
        scores: [R], larger is likelier.
        users: [R] whole numbers.

    Raises:
        DataError: no user has both kinds of rows, lengths differ, or a score is not finite.
    """
    labels, scores = _checked(labels, scores)
    _, users = np.unique(_same_length(users, labels), return_inverse=True)
    rows_U = np.bincount(users)
    starts_U = np.cumsum(rows_U) - rows_U
    ranks = _average_ranks(users, scores) - starts_U[users]
    positives_U = np.bincount(users, weights=labels)
    negatives_U = rows_U - positives_U
    mixed_U = (positives_U > 0) & (negatives_U > 0)
    if not mixed_U.any():
        raise DataError(f"none of {len(rows_U)} users has both positive and negative rows", remedy="Evaluate more rows")
    above_U = np.bincount(users, weights=ranks * labels) - positives_U * (positives_U - 1) / 2
    each_U = above_U[mixed_U] / (positives_U * negatives_U)[mixed_U]
    return float(np.average(each_U, weights=rows_U[mixed_U]))


def log_loss(labels: Rows, probabilities: Rows) -> float:
    """Mean binary cross-entropy, in nats.

    Args:
        labels: [R] booleans.
        probabilities: [R], 0..1.

    Raises:
        DataError: no row, lengths differ, or a value is no probability.
    """
    labels, likely = _probabilities(labels, probabilities)
    return float(-np.mean(np.where(labels, np.log(likely), np.log1p(-likely))))


def class_log_loss(classes: Rows, probabilities_RC: Rows) -> float:
    """Mean cross-entropy of the right class, in nats.

    Args:
        classes: [R] the right class of each row, 0..C-1.
        probabilities_RC: [R, C].

    Raises:
        DataError: no row, lengths differ, or a value is no probability.
    """
    right = np.take_along_axis(np.asarray(probabilities_RC), np.asarray(classes)[:, None], axis=1)[:, 0]
    return log_loss(np.ones(len(right), dtype=np.bool_), right)


def ece(labels: Rows, probabilities: Rows, *, bins: int = 10) -> float:
    """Expected calibration error, 0..1.

    Args:
        labels: [R] booleans.
        probabilities: [R], 0..1.
        bins: bins of equal width; the last one includes 1.

    Raises:
        DataError: no row, lengths differ, or a value is no probability.
    """
    labels, likely = _probabilities(labels, probabilities)
    bin_of_row = np.minimum((likely * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of_row, weights=labels - likely, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def rmse(truth: Rows, predicted: Rows) -> float:
    """Root of the mean squared difference.

    Raises:
        DataError: no row, lengths differ, or a value is not finite.
    """
    predicted = _finite(_same_length(predicted, truth))
    return float(np.sqrt(np.mean(np.square(np.asarray(truth, dtype=np.float64) - predicted))))


def _average_ranks(users: Rows, scores: Rows) -> npt.NDArray[np.float64]:
    """Place of each row when sorted by user, then score; rows that tie share the mean of their places."""
    order = np.lexsort((scores, users))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(users[order]) != 0) | (np.diff(scores[order]) != 0)
    run = np.cumsum(new) - 1
    length = np.bincount(run)
    first = np.cumsum(length) - length
    ranks = np.empty(len(order))
    ranks[order] = (first + (length - 1) / 2)[run]
    return ranks


def _checked(labels: Rows, scores: Rows) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    return np.asarray(labels, dtype=np.bool_), _finite(_same_length(scores, labels))


def _probabilities(labels: Rows, values: Rows) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    flags, likely = _checked(labels, values)
    if likely.min() < 0.0 or likely.max() > 1.0:
        raise DataError(
            f"probabilities span {likely.min():g} to {likely.max():g}, outside 0 to 1", remedy="Give probabilities"
        )
    return flags, np.clip(likely, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)


def _same_length(values: Rows, labels: Rows) -> Rows:
    if not len(labels) or np.shape(values) != np.shape(labels):
        raise DataError(
            f"{np.shape(values)} values for {np.shape(labels)} labels; one each is needed, and at least 1",
            remedy="Give one value per row",
        )
    return np.asarray(values)


def _finite(values: Rows) -> npt.NDArray[np.float64]:
    wide = np.asarray(values, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise DataError(
            f"{int((~np.isfinite(wide)).sum())} of {wide.size} values are not finite", remedy="Evaluate a sound model"
        )
    return wide
