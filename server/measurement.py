"""From the partners' noised sums to mean metrics of the whole federation; public numbers and post-processing alone.

Each partner sends, for m metrics in [0, 1], the sum over its evaluated users and how many they are, with noise of
deviation sigma sqrt(m + 1) on each of the m + 1 numbers, sigma being the plan's noise multiplier. With P partners the
mean of a metric is M = S / n, both numbers taken from the summed releases. Its standard error from the noise is, to
first order (delta method),

    sigma sqrt(P (m + 1)) sqrt(1 + M^2) / n.

It says how far M is from the figure without noise over the same users; it does not count that other users would give
another figure. Where n does not stand out of its noise, a ratio means nothing and no figure is given. A mean is not cut
to [0, 1], because that would shift it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmrec_model.config import RunConfig
from mmrec_model.protocol import METRICS, Arrays
from server.admission import FALSE_ALARM, ROUNDING

LEAST_SIGNAL = 5.0
"""Evaluated users over the deviation of their noise, from which on a mean is given."""


@dataclass(frozen=True)
class Mean:
    """A metric over the users of all accepted partners, and the standard error that the noise gives it."""

    value: float
    error: float


@dataclass(frozen=True)
class Measured:
    """One evaluation of a global state.

    Attributes:
        users: evaluated users of all accepted partners, as released, so with noise.
        users_error: deviation of that noise.
        metrics: means by name; empty where the users do not stand out of the noise.
    """

    users: float
    users_error: float
    metrics: Mapping[str, Mean]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `run.jsonl`."""
        return asdict(self)


def metrics_bound(config: RunConfig, *, users: int) -> float:
    """What the norm of an honest release exceeds with probability below `FALSE_ALARM`.

    Args:
        config: the public plan.
        users: the partner's public number of users, of whom each adds at most sqrt(m + 1).
    """
    width = len(config.evaluation.metrics) + 1
    tail = math.log(1.0 / FALSE_ALARM)
    noise = config.evaluation.noise_multiplier * (math.sqrt(width) + math.sqrt(2.0 * tail))
    return 1.001 * math.sqrt(width) * (ROUNDING * users + noise)


def mean_metrics(config: RunConfig, releases: Mapping[str, Arrays]) -> Measured:
    """The mean metrics of all partners.

    Args:
        config: the public plan.
        releases: admitted arrays by partner, at least one.
    """
    names = config.evaluation.metrics
    total = np.sum([releases[name][METRICS].astype(np.float64) for name in sorted(releases)], axis=0)
    users = float(total[-1])
    deviation = config.evaluation.noise_multiplier * math.sqrt(len(releases) * (len(names) + 1))
    if users < max(1.0, LEAST_SIGNAL * deviation):
        return Measured(users, deviation, {})
    means = (float(value) / users for value in total[:-1])
    return Measured(
        users,
        deviation,
        {name: Mean(mean, deviation * math.hypot(1.0, mean) / users) for name, mean in zip(names, means, strict=True)},
    )
