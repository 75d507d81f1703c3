"""From a target epsilon to the least noise that keeps it.

The returned noise multiplier never costs more than the target, by the accountant and the grid that will enforce it, and
at most `tolerance` less. A coarser grid never gives a lower price, so the promise also holds on every finer grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.accounting import ENFORCEMENT_GRID, epsilon
from mmrec_model.privacy.events import PrivacyEvent, Relation, require_delta, require_relation

_LEAST_NOISE: Final = 2.0**-7
_MOST_NOISE: Final = 2.0**17
_NARROWEST: Final = 1e-9
_ROUNDING_SHARE: Final = 0.01

_Point: TypeAlias = tuple[float, float]  # noise multiplier, price


def calibrate(
    target_epsilon: float,
    delta: float,
    events_of: Callable[[float], Sequence[PrivacyEvent]],
    *,
    relation: Relation = "zero_out",
    tolerance: float = 1e-3,
    grid: float = ENFORCEMENT_GRID,
) -> float:
    """Smallest noise multiplier whose whole plan costs at most `target_epsilon` at `delta`.

    Args:
        target_epsilon: price that must not be exceeded, above 0.
        delta: failure probability in (0, 1).
        events_of: the whole plan as a function of the noise multiplier; its price must fall as noise grows.
        relation: how two neighbouring data sets differ.
        tolerance: how much of the target may be left unspent, in nats; in parts of the target where that is below 1.
        grid: rounding of the losses, as the accountant that enforces the plan has it.

    Raises:
        PrivacyError: an argument is out of range, or no noise multiplier in [0.008, 131072] meets the target.
    """
    require_delta(delta)
    require_relation(relation)
    for name, value in (("target_epsilon", target_epsilon), ("tolerance", tolerance)):
        if not 0.0 < value < math.inf:
            raise PrivacyError(f"{name} is {value!r}, it must be finite and above 0", remedy=f"pass a positive {name}")
    allowed = tolerance * min(1.0, target_epsilon)
    most = target_epsilon - _ROUNDING_SHARE * allowed  # so that the same plan in another order, rounded otherwise, fits

    def point(noise: float) -> _Point:
        return noise, epsilon(events_of(noise), delta, relation, grid=grid)

    low, high = _bracket(point, most)
    return _narrow(point, low, high, target_epsilon - allowed, most)


def _bracket(point: Callable[[float], _Point], most: float) -> tuple[_Point, _Point]:
    """Two noises a factor of two apart, the first below the noise that is needed and the second within `most`."""
    high = low = point(1.0)
    while high[1] > most:
        if high[0] >= _MOST_NOISE:
            raise PrivacyError(
                f"the plan still costs epsilon {high[1]:.4g} at noise multiplier {high[0]:g}, the target is {most:.4g}",
                remedy="raise the target, or drop the releases whose noise is fixed",
            )
        low, high = high, point(2.0 * high[0])
    while low[1] <= most:
        if low[0] <= _LEAST_NOISE:
            raise PrivacyError(
                f"the plan costs epsilon {low[1]:.4g} even at noise multiplier {low[0]:g}, the target is {most:.4g}",
                remedy="lower the target, or let events_of use the noise multiplier that it is given",
            )
        low, high = point(low[0] / 2.0), low
    return low, high


def _narrow(point: Callable[[float], _Point], low: _Point, high: _Point, least: float, most: float) -> float:
    """Secant steps in (log noise, log price); bisection wherever a secant step did not halve the bracket."""
    bisects = False
    while high[1] < least and high[0] > low[0] * (1.0 + _NARROWEST):
        width = math.log(high[0] / low[0])
        share = 0.5 if bisects else _secant_share(low[1], high[1], (least + most) / 2.0)
        middle = point(low[0] * math.exp(share * width))
        low, high = (low, middle) if middle[1] <= most else (middle, high)
        bisects = not bisects and math.log(high[0] / low[0]) > width / 2.0
    return high[0]


def _secant_share(low_price: float, high_price: float, aim: float) -> float:
    """Where in the bracket, from 0 to 1, a straight line through the logarithms of the prices meets the aim."""
    if math.isinf(low_price) or high_price <= 0.0:
        return 0.5
    share = math.log(low_price / aim) / math.log(low_price / high_price)
    return min(max(share, 0.01), 0.99)
