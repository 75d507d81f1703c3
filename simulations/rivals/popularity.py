"""Popularity: raw, bounded per user, and as one differentially private release.

Guarantee of `epsilon`: user level, (epsilon, delta), one user's data replaced by nothing. Each user counts for at most
`cap` distinct items, drawn uniformly where there are more, so one user moves the counts by at most sqrt(cap) in L2
norm; one Gaussian release is calibrated to that. The counts and the noise are those of the federation itself
(`client.popularity`); the scores are the counts, whose order is the order of the model's popularity prior.

`noise` says who adds it: `central` is one draw over all users, as with secure aggregation; with `partners` every
partner adds its own draw of the same price, and the sum has sqrt(partners) times the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from client.popularity import count_items
from mmrec_model.config import PrivacyConfig
from mmrec_model.data.histories import Histories
from mmrec_model.evaluation.baselines import Csr
from mmrec_model.evaluation.baselines import Popularity as Counts
from mmrec_model.privacy.calibration import calibrate
from mmrec_model.privacy.events import GaussianRelease
from mmrec_model.privacy.noise import GaussianNoise
from simulations.progress import Progress
from simulations.rivals.interface import Federation, SameForAll, unheard

NoiseAt = Literal["central", "partners"]


@dataclass(frozen=True)
class Popularity:
    """Number of distinct users of an item: no bound, no privacy, nothing to choose."""

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "popularity"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> SameForAll:
        """Count."""
        del seed, progress
        counted = Counts().fit(federation.train)
        return SameForAll(np.asarray(counted.scores(federation.train[:1]))[0])


@dataclass(frozen=True)
class BoundedPopularity:
    """Counts in which each user has at most `cap` items.

    Attributes:
        cap: distinct items of a user that count, at least 1.
        epsilon: price of the one release; None for exact counts.
        delta: of the guarantee.
        noise: one draw over all users, or one at each partner.
    """

    cap: int = 20
    epsilon: float | None = None
    delta: float = 1e-5
    noise: NoiseAt = "central"

    @property
    def name(self) -> str:
        """What results are listed under."""
        return "popularity_bounded" if self.epsilon is None else "popularity_dp"

    def fit(self, federation: Federation, seed: int, progress: Progress = unheard) -> SameForAll:
        """Count within the bound, and release once where there is a price.

        Raises:
            PrivacyError: no noise meets the price.
        """
        del progress
        draws = noise_draws(self.noise, federation)
        plan = PrivacyConfig(
            mechanism="none" if self.epsilon is None else "gaussian",
            epsilon=self.epsilon,
            delta=self.delta,
            noise_multiplier=0.0 if self.epsilon is None else 1.0,
            popularity_noise_multiplier=self.noise_multiplier * math.sqrt(draws),
            popularity_cap=self.cap,
        )
        source = GaussianNoise(seed=noise_seed(self.name, seed))
        return SameForAll(count_items(histories_of(federation.train), federation.n_items, plan, source, cap=self.cap))

    @property
    def noise_multiplier(self) -> float:
        """Of one draw, in units of sqrt(cap); 0 without a price."""
        return 0.0 if self.epsilon is None else release_noise(self.epsilon, self.delta, 1)


@lru_cache(maxsize=64)
def release_noise(epsilon: float, delta: float, count: int) -> float:
    """Least noise multiplier of `count` Gaussian releases that together cost at most `epsilon` at `delta`.

    Raises:
        PrivacyError: no noise meets the price.
    """
    return calibrate(epsilon, delta, lambda noise: (GaussianRelease(noise, count),))


def noise_draws(noise: NoiseAt, federation: Federation) -> int:
    """Independent draws in one released sum."""
    return 1 if noise == "central" else federation.partners


def noise_seed(name: str, seed: int) -> bytes:
    """Seed of a rival's simulated noise, different for every rival."""
    return f"rival/{name}/{seed}".encode()


def histories_of(train: Csr) -> Histories:
    """The train rows as histories; the order within a user is that of the catalogue."""
    users, items = train.nonzero()
    order = np.lexsort((items, users))
    return Histories.grouped(users[order].astype(np.int64), items[order].astype(np.int64), train.shape[0])
