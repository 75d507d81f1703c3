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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


def means(names: Sequence[str], total: npt.NDArray[np.float64], *, noise_multiplier: float, partners: int) -> Measured:
    """The mean of each metric over the users of all partners.

    Args:
        names: m of them.
        total: summed releases `[m + 1]`, the number of users last.
        noise_multiplier: sigma, in units of sqrt(m + 1).
        partners: P, how many releases were summed.
    """
    users = float(total[-1])
    deviation = noise_multiplier * math.sqrt(partners * (len(names) + 1))
    if users < max(1.0, LEAST_SIGNAL * deviation):
        return Measured(users, deviation, {})
    values = (float(value) / users for value in total[:-1])
    return Measured(
        users,
        deviation,
        {name: Mean(mean, deviation * math.hypot(1.0, mean) / users) for name, mean in zip(names, values, strict=True)},
    )
