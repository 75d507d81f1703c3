"""Recommenders that use all interactions in one place and no privacy: the ceilings and floors of every report.

Each is fitted on a users x items matrix of *training* interactions and scores users from their *training* rows, which
reproduces the published figures; the validation item is hidden from the list at test time but never an input. Any
positive cell counts as 1. A user without history gets equal scores, hence a random order.

    Popularity  number of distinct users of an item
    ItemKNN     cosine with shrinkage, Sarwar et al. (WWW 2001), Bell & Koren (2007): each item keeps its `neighbours`
                most similar items; score = summed similarity to the history
    EASE        Steck (WWW 2019): B = I - P diag(P)^-1 with P = (X^T X + l2 I)^-1; score = X B

Memory of ItemKNN and EASE is a few dense N x N matrices, so catalogues over `MAX_ITEMS` are refused.

Legend: U users, B users of a chunk, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import Ints, Scorer

Csr: TypeAlias = Any
"""A scipy CSR matrix or array; scipy's two classes share no typed base."""
Scores: TypeAlias = npt.NDArray[np.float32]

MAX_ITEMS = 20_000
"""Largest catalogue of a dense item x item matrix: 3.2 GB in float64."""

_LEVEL = 1e-12  # equal fractions such as 1/sqrt(3) and 3/sqrt(27) may differ in their last bit


class Recommender(Protocol):
    """What every baseline can do."""

    def fit(self, matrix_UN: Csr) -> Self:
        """Learn from training interactions [U, N]; returns itself."""

    def scores(self, rows_BN: Csr) -> Scores:
        """Scores [B, N] of users with these training rows; larger is better."""


@dataclass(eq=False)
class Popularity:
    """Counts of distinct users; the same scores for everyone."""

    counts_N: Scores | None = None

    def fit(self, matrix_UN: Csr) -> Self:
        """Count."""
        self.counts_N = np.asarray(_binary(matrix_UN).sum(axis=0), dtype=np.float32).ravel()
        return self

    def scores(self, rows_BN: Csr) -> Scores:
        """The counts, once per row."""
        counts_N = _fitted(self.counts_N)
        return np.broadcast_to(counts_N, (rows_BN.shape[0], counts_N.size))


@dataclass(eq=False)
class ItemKNN:
    """Item-based neighbours.

    Attributes:
        neighbours: similar items kept per item.
        shrink: added to the product of norms; damps similarities that rest on few users.
    """

    neighbours: int = 200
    shrink: float = 10.0
    similarity_NN: Scores | None = None

    def fit(self, matrix_UN: Csr) -> Self:
        """Keep each column's largest similarities, and all that are level with the last of them.

        The neighbours belong to the item that is scored.
        """
        together_NN = _co_occurrence(matrix_UN)
        norm_N = np.sqrt(np.diag(together_NN))
        similar_NN = together_NN / np.maximum(np.outer(norm_N, norm_N) + self.shrink, np.finfo(np.float64).tiny)
        np.fill_diagonal(similar_NN, 0.0)
        n_items = similar_NN.shape[0]
        if self.neighbours < n_items:
            least_N = np.partition(similar_NN, n_items - self.neighbours, axis=0)[n_items - self.neighbours]
            similar_NN[similar_NN < least_N * (1.0 - _LEVEL)] = 0.0
        self.similarity_NN = similar_NN.astype(np.float32)
        return self

    def scores(self, rows_BN: Csr) -> Scores:
        """Summed similarity to the history."""
        return np.asarray(_binary(rows_BN) @ _fitted(self.similarity_NN), dtype=np.float32)


@dataclass(eq=False)
class EASE:
    """Shallow linear autoencoder in closed form.

    Attributes:
        l2: ridge penalty, above 0.
    """

    l2: float = 300.0
    weights_NN: Scores | None = None

    def fit(self, matrix_UN: Csr) -> Self:
        """Solve; one symmetric N x N inversion in float64."""
        if self.l2 <= 0.0:
            raise DataError(f"EASE with l2 = {self.l2}", remedy="Use a penalty above 0")
        gram_NN = _co_occurrence(matrix_UN)
        gram_NN[np.diag_indices_from(gram_NN)] += self.l2
        inverse_NN = np.asarray(linalg.inv(gram_NN, overwrite_a=True, check_finite=False), dtype=np.float64)
        weights_NN = inverse_NN / -np.diag(inverse_NN)
        np.fill_diagonal(weights_NN, 0.0)
        self.weights_NN = weights_NN.astype(np.float32)
        return self

    def scores(self, rows_BN: Csr) -> Scores:
        """History times weights."""
        return np.asarray(_binary(rows_BN) @ _fitted(self.weights_NN), dtype=np.float32)


def scorer(recommender: Recommender, matrix_UN: Csr, rows_U: Ints | None = None) -> Scorer:
    """Adapt a fitted baseline to `ranking.ranks`.

    Args:
        recommender: the baseline.
        matrix_UN: training rows of the users.
        rows_U: row of `matrix_UN` of each user of the task; all rows in order if omitted.
    """
    rows = sparse.csr_matrix(matrix_UN)

    def answer(users_B: Ints) -> Scores:
        return recommender.scores(rows[users_B if rows_U is None else rows_U[users_B]])

    return answer


def interaction_matrix(users: Ints, items: Ints, *, n_users: int, n_items: int) -> Csr:
    """Binary CSR matrix [U, N] float32 of (user, item) pairs; repeated pairs count once."""
    ones = np.ones(users.size, dtype=np.float32)
    return _binary(sparse.csr_matrix((ones, (users, items)), shape=(n_users, n_items)))


def _binary(matrix_UN: Csr) -> Csr:
    matrix = sparse.csr_matrix(matrix_UN, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.data = (matrix.data > 0).astype(np.float32)
    return matrix


def _co_occurrence(matrix_UN: Csr) -> npt.NDArray[np.float64]:
    n_items = matrix_UN.shape[1]
    if n_items > MAX_ITEMS:
        raise DataError(
            f"a dense matrix over {n_items} items, the limit is {MAX_ITEMS}",
            remedy="Leave this baseline out for large catalogues",
        )
    matrix = _binary(matrix_UN)
    return np.asarray((matrix.T @ matrix).toarray(), dtype=np.float64)


def _fitted(learned: Scores | None) -> Scores:
    if learned is None:
        raise DataError("the baseline has not seen any interactions", remedy="Call fit first")
    return learned
