"""DPALS: matrix factorisation with user-level differential privacy, the private rival.

Chien, Jain, Krichene, Rendle, Song, Thakurta & Zhang, "Private Alternating Least Squares", ICML 2021, and its authors'
public code (google-research, dp_alternating_minimization), for implicit feedback. The loss over users u and items j is

    sum over met cells of w_uj (1 - u.v_j)^2 + unobserved * sum over all cells of (u.v_j)^2 + l2 terms.

Alternating: every user solves for the own vector from the whole own history, exactly and locally; it is clipped and
enters noised sums over users (`simulations.rivals.dpals_statistics`), from which alone the item vectors are solved, the
noised matrices made positive semidefinite. Users of a panel are folded in by the same exact solve, so new users are
answered too and no user's vector leaves.

Guarantee: user level, (epsilon, delta), one user's data replaced by nothing, for the item vectors after all iterations.
Each iteration is one Gaussian release of sensitivity 1; all of them, and the item counts where they are needed, are
composed and calibrated together by `mmrec_model.privacy`. The user solve reads nothing but the released item vectors
and the user's own rows, so the composition is that of adaptively chosen Gaussian releases.

Bound on a user's items: `sample` counts at most `cap` of them, drawn uniformly once (2021); `weights` counts all of
them with w_uj proportional to count_j^exponent and squares that sum to `cap` (Krichene et al., "Multi-Task Differential
Privacy under Distribution Skew", ICML 2023), which moves the budget to rarer items. Counts come from a noised release
of their own (`COUNT_SHARE` of the squared budget); with exponent 0 none is needed. Not taken over: training on the most
frequent items alone, the choice of a user's rarest items, and penalties that depend on frequency.

`noise` is as in `simulations.rivals.popularity`. Legend: A users, N items, D width of a vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import sparse

from client.popularity import count_items
from mmrec_model.config import PrivacyConfig
from mmrec_model.data.batches import draw_batch
from mmrec_model.errors import ConfigError
from mmrec_model.evaluation.baselines import Csr, Scores
from mmrec_model.evaluation.ranking import Ints, Scorer
from mmrec_model.privacy.calibration import calibrate
from mmrec_model.privacy.events import GaussianRelease, PrivacyEvent
from mmrec_model.privacy.noise import GaussianNoise
from simulations.progress import Progress
from simulations.rivals.dpals_statistics import (
    Bounds,
    Floats,
    Shares,
    Statistics,
    outer_triangles,
    positive,
    release,
    square,
)
from simulations.rivals.interface import Federation, Visitors, unheard
from simulations.rivals.popularity import NoiseAt, histories_of, noise_draws, noise_seed

COUNT_SHARE = 0.1
"""Part of the squared mu-GDP budget that the item counts get, where weights need them."""
_CHUNK = 4096


@dataclass(frozen=True)
class Dpals:
    """Settings.

    Attributes:
        dims: width of the vectors.
        iterations: item solves, each one release.
        cap: k, the squared weights of a user's items, at least 1.
        radius: c, the greatest length of a user vector in the sums.
        unobserved: weight of every cell, met or not.
        user_l2: ridge penalty of a user's solve.
        item_l2: ridge penalty of an item's solve.
        shares: of a release's squared sensitivity, for G, the A_j and the b_j.
        allocation: how a user's items are bounded.
        exponent: of the noised counts in `weights`, at most 0.
        epsilon: price of everything; None for the same method without noise.
        delta: of the guarantee.
        noise: one draw over all users, or one at each partner.

    Raises:
        ConfigError: an exponent above 0, or one for `sample`.
    """

    dims: int = 32
    iterations: int = 3
    cap: int = 20
    radius: float = 1.0
    unobserved: float = 0.1
    user_l2: float = 1.0
    item_l2: float = 10.0
    shares: Shares = field(default_factory=Shares)
    allocation: Literal["sample", "weights"] = "weights"
    exponent: float = 0.0
    epsilon: float | None = None
    delta: float = 1e-5
    noise: NoiseAt = "central"

    def __post_init__(self) -> None:
        if self.exponent > 0.0 or (self.exponent and self.allocation == "sample"):
            raise ConfigError(
                f"exponent {self.exponent} with allocation {self.allocation!r}",
                remedy="Use 0 for a sample, and at most 0 for weights",
            )

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "als" if self.epsilon is None else "dpals"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> ItemVectors:
        """Alternate.

        Raises:
            PrivacyError: no noise meets the price.
        """
        source = GaussianNoise(seed=noise_seed(self.name, seed))
        noise = self.noise_multiplier * math.sqrt(noise_draws(self.noise, federation))
        weights_AN = self._weights(federation, noise, source)
        rows_AN = (federation.train > 0).astype(np.float64)
        bounds = Bounds(self.radius, self.cap, self.shares)
        items_ND = np.random.default_rng(seed).normal(size=(federation.n_items, self.dims)) / math.sqrt(self.dims)
        for iteration in range(self.iterations):
            users_AD = solve_users(rows_AN, items_ND, self.unobserved, self.user_l2)
            found = release(users_AD, weights_AN, bounds, noise, source)
            items_ND = solve_items(found, self.unobserved, self.item_l2)
            progress(self.name, iteration + 1, self.iterations)
        return ItemVectors(items_ND, self)

    def events(self, noise_multiplier: float) -> tuple[PrivacyEvent, ...]:
        """Everything that is released with this noise in an iteration."""
        counts = (GaussianRelease(self._count_ratio * noise_multiplier),) if self.exponent else ()
        return (GaussianRelease(noise_multiplier, self.iterations), *counts)

    @property
    def noise_multiplier(self) -> float:
        """Of one iteration and one draw; 0 without a price."""
        return 0.0 if self.epsilon is None else calibrate(self.epsilon, self.delta, self.events)

    @property
    def _count_ratio(self) -> float:
        """Noise multiplier of the counts over that of an iteration, so that the counts have their share."""
        return math.sqrt((1.0 - COUNT_SHARE) / (COUNT_SHARE * self.iterations))

    def _weights(self, federation: Federation, noise: float, source: GaussianNoise) -> Csr:
        """Bounded weights `[A, N]`: the squares of a row sum to at most `cap`."""
        histories = histories_of(federation.train)
        if self.allocation == "sample":
            everyone = np.arange(len(histories))
            drawn = draw_batch(
                histories,
                everyone,
                n_items=federation.n_items,
                max_history=self.cap,
                negatives=0,
                seed=source.integer(),
            )
            users, _places = np.nonzero(drawn.mask_BK)
            cells = np.ones(len(users)), (users, drawn.history_BK[drawn.mask_BK])
            return sparse.csr_matrix(cells, shape=federation.train.shape)
        counts_N = np.ones(federation.n_items)
        if self.exponent:
            plan = PrivacyConfig(
                mechanism="gaussian" if noise else "none",
                epsilon=self.epsilon,
                noise_multiplier=1.0 if noise else 0.0,
                popularity_noise_multiplier=noise * self._count_ratio,
                popularity_cap=self.cap,
            )
            counts_N = np.maximum(1.0, count_items(histories, federation.n_items, plan, source, cap=self.cap))
        return spread(federation.train, counts_N**self.exponent, self.cap)


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """The released item vectors, and how a history becomes a user vector.

    Attributes:
        items_ND: of the catalogue.
        settings: of the user's solve.
    """

    items_ND: Floats
    settings: Dpals

    def scorer(self, visitors: Visitors) -> Scorer:
        """Products with the visitors' exact vectors."""
        rows = (visitors.rows > 0).astype(np.float64)
        users_UD = solve_users(rows, self.items_ND, self.settings.unobserved, self.settings.user_l2)

        def answer(users_B: Ints) -> Scores:
            return np.asarray(users_UD[users_B] @ self.items_ND.T, dtype=np.float32)

        return answer


def spread(rows: Csr, preference_N: Floats, cap: int) -> Csr:
    """Weights of each user's items in proportion to a preference above 0; the squares of a row sum to `cap`."""
    wanted = sparse.csr_matrix((rows > 0).astype(np.float64) @ sparse.diags(preference_N))
    length_A = np.sqrt(np.asarray(wanted.multiply(wanted).sum(axis=1)).ravel())
    scale_A = np.where(length_A > 0.0, math.sqrt(cap) / np.maximum(length_A, np.finfo(np.float64).tiny), 0.0)
    return sparse.csr_matrix(sparse.diags(scale_A) @ wanted)


def solve_users(rows: Csr, items_ND: Floats, unobserved: float, l2: float) -> Floats:
    """Exact vector of every user `[A, D]` from the own row and the item vectors."""
    n_users, dims = rows.shape[0], items_ND.shape[1]
    everywhere_DD = unobserved * items_ND.T @ items_ND + l2 * np.eye(dims)
    triangles_NT = outer_triangles(items_ND)
    users_AD = np.zeros((n_users, dims))
    for start in range(0, n_users, _CHUNK):
        chunk = rows[start : start + _CHUNK]
        left_BDD = square(np.asarray(chunk @ triangles_NT), dims) + everywhere_DD
        users_AD[start : start + _CHUNK] = np.linalg.solve(left_BDD, (chunk @ items_ND)[:, :, None])[:, :, 0]
    return users_AD


def solve_items(found: Statistics, unobserved: float, l2: float) -> Floats:
    """Item vectors `[N, D]` from the statistics; no user's data is read."""
    n_items, dims = found.moment_ND.shape
    everywhere_DD = unobserved * found.gram_DD + l2 * np.eye(dims)
    items_ND = np.zeros((n_items, dims))
    for start in range(0, n_items, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        left_BDD = everywhere_DD[None]
        if found.outer_NT is not None:
            left_BDD = left_BDD + positive(square(found.outer_NT[chunk], dims))
        items_ND[chunk] = np.linalg.solve(left_BDD, found.moment_ND[chunk, :, None])[:, :, 0]
    return items_ND
