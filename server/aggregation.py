"""From admitted updates to the next global state, on plain numpy. Everything here is post-processing of releases that
were noised at the partners: it costs no privacy, and it never reads a private number.

The rule. Partner p's update is a step on the mean gradient of its own users, noised; the state moves by

    sum over accepted p of w_p update_p / sum over accepted p of w_p,        w_p = public number of users of p.

This is the step on the pooled mean over all users of the accepted partners: the users weigh the same, whichever partner
holds them, and the noise of partner p, whose deviation is proportional to 1 / w_p, counts w_p times, so the relative
noise falls with the whole number of users. Weights are fixed at enrolment: a number in a reply can neither take over
the average nor unsettle the noise. A missing partner is left out of both sums: dividing by all enrolled partners would
shrink the step whenever one is late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import ModelError
from mmrec_model.protocol import Arrays


def weighted_mean(updates: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """Mean of arrays with equal names and shapes, summed in float64 in the given order.

    Args:
        updates: at least one.
        weights: one finite number above 0 each; only their ratios matter.

    Raises:
        ModelError: no update, a weight out of range, or names or shapes that differ.
    """
    if not updates or len(updates) != len(weights):
        raise ModelError(f"{len(updates)} updates with {len(weights)} weights have no mean", remedy="Give both alike")
    if not all(math.isfinite(weight) and weight > 0.0 for weight in weights):
        raise ModelError(f"weights are finite and above 0, got {list(weights)[:5]}", remedy="Use the enrolled users")
    total = math.fsum(weights)
    mean = {name: np.zeros(array.shape, np.float64) for name, array in updates[0].items()}
    for update, weight in zip(updates, weights, strict=True):
        _same_schema(mean, update)
        for name, array in update.items():
            mean[name] += array.astype(np.float64) * (weight / total)
    return {name: array.astype(np.float32) for name, array in mean.items()}


@dataclass(frozen=True)
class ServerOptimizer:
    """Momentum on the averaged update: velocity = momentum * velocity + update; state += learning_rate * velocity."""

    learning_rate: float
    momentum: float

    def step(self, state: Arrays, velocity: Arrays, update: Arrays) -> tuple[Arrays, Arrays]:
        """The next (state, velocity), as new float32 arrays.

        Raises:
            ModelError: names or shapes differ, or the next state is not finite.
        """
        _same_schema(state, update)
        _same_schema(state, velocity)
        with np.errstate(over="ignore"):
            faster = {
                name: (self.momentum * velocity[name].astype(np.float64) + update[name]).astype(np.float32)
                for name in state
            }
            moved = {
                name: (state[name].astype(np.float64) + self.learning_rate * faster[name]).astype(np.float32)
                for name in state
            }
        for name, array in moved.items():
            if not np.isfinite(array).all():
                raise ModelError(
                    f"array '{name}' of the global model would overflow at learning rate {self.learning_rate}",
                    remedy="Lower training.server_learning_rate or training.learning_rate",
                )
        return moved, faster


def sum_arrays(releases: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
    """Sum of arrays of one shape in float64, in the given order."""
    total_N = np.zeros(releases[0].shape, np.float64)
    for release in releases:
        total_N += release
    return total_N


def _same_schema(reference: dict[str, npt.NDArray[Any]], other: Arrays) -> None:
    if {name: array.shape for name, array in reference.items()} != {name: other[name].shape for name in other}:
        raise ModelError(
            f"arrays {sorted(other)[:5]} do not have the names and shapes of {sorted(reference)[:5]}",
            remedy="Train and resume with one configuration",
        )
