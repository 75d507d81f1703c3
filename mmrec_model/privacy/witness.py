"""The witness block: numbers of an update that are noise and nothing else, and what they must look like.

K extra weights with zero gradient pass through the same clip, noise, division and step as the trained weights. What
they hold at the end of a round is therefore

    - learning_rate / divisor * (sum over the local steps of Gaussian noise of deviation sigma C),     divisor = q N

with C the clip of the round and sigma the noise multiplier of the gradients (`mmrec_model.privacy.clipping`), all of it
public but the noise: K normal numbers of a known deviation. Every law below refuses honest noise with
probability `FALSE_ALARM` at most (numbers of the design: sd ratio within 0.894-1.110 after one round with K = 1024,
0.976-1.024 after twenty; correlation of two rounds below 0.15, more where many pairs are compared):
  1. the ratio of the sample deviation (about the known mean 0) to the expected one: chi-square with K n degrees;
  2. the correlation of two blocks, also about 0: Student's t with K - 1 degrees. Noise that repeats correlates at 1.

A block proves nothing against a partner that means to deceive: it can put the noise there alone. It finds bugs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from mmrec_model.config import RunConfig
from mmrec_model.privacy.clipping import gradient_noise_multiplier

FALSE_ALARM: Final = 1e-6

Block = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spread:
    """Squares of one or more blocks of one partner, in units of their expected deviation.

    Attributes:
        squares: their sum.
        count: how many numbers they are; 0 before the first block.
    """

    squares: float = 0.0
    count: int = 0

    def plus(self, block_K: Block, expected: float) -> Spread:
        """With one more block; `expected` is its deviation, above 0."""
        return Spread(self.squares + float(np.square(block_K / np.float64(expected)).sum()), self.count + block_K.size)

    @property
    def ratio(self) -> float:
        """Sample deviation over expected deviation; 1 is right, 0 is no noise."""
        return math.sqrt(self.squares / self.count)

    @property
    def is_honest(self) -> bool:
        """Whether the ratio is one that right noise has."""
        low, high = ratio_bounds(self.count)
        return low <= self.ratio <= high


def witness_size(config: RunConfig) -> int:
    """How many witness numbers an update of this run carries; a run without noise carries none."""
    return config.training.witness_coordinates if config.privacy.mechanism == "gaussian" else 0


def expected_deviation(config: RunConfig, *, users: int, clip: float) -> float:
    """Deviation of each witness number of a round with this `clip` at a partner with the public number of `users`."""
    training, privacy = config.training, config.privacy
    divisor = max(1.0, training.sample_rate * users)
    multiplier = gradient_noise_multiplier(privacy.noise_multiplier, privacy.clip_count_noise)
    return training.learning_rate * multiplier * clip * math.sqrt(training.local_steps) / divisor


def ratio_bounds(count: int) -> tuple[float, float]:
    """Least and largest honest ratio of deviations over `count` numbers."""
    low, high = stats.chi2.ppf([FALSE_ALARM / 2, 1.0 - FALSE_ALARM / 2], count)
    return math.sqrt(low / count), math.sqrt(high / count)


def direction(block_K: Block) -> Block:
    """The block at length 1; an all-zero one stays as it is."""
    values = block_K.astype(np.float64)
    length = float(np.linalg.norm(values))
    return (values / length if length else values).astype(np.float32)


def correlations(direction_K: Block, directions_RK: Block) -> Block:
    """Cosine of one direction and each of R others, [R] in [-1, 1]; 0 where one of the two is all zero."""
    return np.asarray(np.clip(directions_RK @ direction_K, -1.0, 1.0), np.float32)


def correlation_bound(count: int, *, pairs: int = 1) -> float:
    """Largest honest correlation, of either sign, among `pairs` comparisons of blocks of `count` numbers."""
    if count < 2:
        return 1.0
    quantile = float(stats.t.isf(FALSE_ALARM / (2.0 * max(1, pairs)), count - 1))
    return quantile / math.sqrt(quantile * quantile + count - 1)
