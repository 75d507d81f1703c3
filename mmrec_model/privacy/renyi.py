"""The Renyi price of events, and the filter for plans that react to what they released.

1. `renyi_divergence` is the divergence of one order between neighbouring outputs (Mironov, Talwar and Zhang 2019,
   arXiv 1908.10530: for the sampled Gaussian, removing a user is the worse direction), integrated numerically: the
   trapezoid rule converges exponentially here, for fractional orders and small noise too.
2. `renyi_epsilon` converts the sum at the best order (Canonne, Kamath and Steinke 2020, arXiv 2004.00010).
3. `RenyiFilter` keeps a guarantee although noise, rate and number of releases are chosen after seeing outputs, as long
   as order and budget were fixed before the first one (Feldman and Zrnic 2021, arXiv 2008.11193). Stopping on a
   composed loss distribution has no such theorem (arXiv 2602.06756).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.events import (
    GaussianRelease,
    NonPrivate,
    PrivacyEvent,
    Relation,
    SampledGaussian,
    require_delta,
    require_relation,
    unknown_event,
)

ORDERS: Final = (*(1.0 + tenth / 10.0 for tenth in range(1, 100)), *(float(order) for order in range(12, 64)))

_TAIL_DEVIATIONS: Final = 12.0
_LARGEST_SAMPLED_MU: Final = 20.0
_ROUNDING: Final = 1e-12


def renyi_divergence(event: PrivacyEvent, order: float, relation: Relation = "zero_out") -> float:
    """Renyi divergence of `order` > 1 that `event` costs, in nats; infinite for `NonPrivate`.

    Sampling is not credited for a noise multiplier below 0.05: the result stays a bound, if a loose one.

    Raises:
        PrivacyError: unknown event or relation, or `order` not finite and above 1.
    """
    require_relation(relation)
    _require_order(order)
    match event:
        case NonPrivate():
            return math.inf
        case GaussianRelease():
            return event.count * _gaussian_divergence(1.0 / event.noise_multiplier, order, relation)
        case SampledGaussian():
            return event.steps * _step_divergence(event.sample_rate, 1.0 / event.noise_multiplier, order, relation)
    raise unknown_event(event)


def renyi_epsilon(
    events: Sequence[PrivacyEvent],
    delta: float,
    relation: Relation = "zero_out",
    *,
    orders: Sequence[float] = ORDERS,
) -> float:
    """Epsilon of the composition at `delta` by the best of `orders`: an upper bound, looser than `accounting.epsilon`.

    Raises:
        PrivacyError: an event, order, `delta` or `relation` is invalid.
    """
    require_delta(delta)
    if not events:
        return 0.0
    return min(_epsilon_at(events, order, delta, relation) for order in orders)


def best_order(events: Sequence[PrivacyEvent], delta: float, relation: Relation = "zero_out") -> float:
    """The order of `ORDERS` at which a foreseen plan is cheapest: what a filter should be fixed to before it starts.

    Raises:
        PrivacyError: an event, `delta` or `relation` is invalid.
    """
    require_delta(delta)
    return min(ORDERS, key=lambda order: _epsilon_at(events, order, delta, relation))


def epsilon_of_divergence(divergence: float, order: float, delta: float) -> float:
    """Epsilon at `delta` of a mechanism with this Renyi divergence at one `order` > 1.

    Raises:
        PrivacyError: `divergence` is negative, `order` is not above 1, or `delta` is outside (0, 1).
    """
    require_delta(delta)
    _require_order(order)
    if not divergence >= 0.0:
        raise PrivacyError(f"divergence is {divergence!r}, it must be at least 0", remedy="pass a sum of divergences")
    return max(0.0, divergence + _conversion_cost(order, delta))


class RenyiFilter:
    """Admits events one by one while their divergences at one fixed order stay within one fixed budget.

    Args:
        order: Renyi order, above 1, fixed before the first release.
        rho_budget: total divergence that may be spent, in nats, at least 0.
        relation: how two neighbouring data sets differ.

    Raises:
        PrivacyError: an argument is out of range.
    """

    def __init__(self, order: float, rho_budget: float, relation: Relation = "zero_out") -> None:
        _require_order(order)
        require_relation(relation)
        if not 0.0 <= rho_budget < math.inf:
            raise PrivacyError(
                f"rho_budget is {rho_budget!r}, it must be finite and at least 0",
                remedy="derive it with RenyiFilter.for_epsilon",
            )
        self.order = order
        self.rho_budget = rho_budget
        self.relation: Relation = relation
        self.spent = 0.0

    @classmethod
    def for_epsilon(cls, order: float, epsilon: float, delta: float, relation: Relation = "zero_out") -> RenyiFilter:
        """The filter whose whole budget is worth `epsilon` at `delta`.

        Raises:
            PrivacyError: no budget is left at this order, or an argument is out of range.
        """
        require_delta(delta)
        _require_order(order)
        budget = epsilon - _conversion_cost(order, delta)
        if not 0.0 < budget < math.inf:
            raise PrivacyError(
                f"epsilon {epsilon!r} at delta {delta!r} leaves a budget of {budget!r} at order {order!r}",
                remedy="choose a higher order or a larger epsilon",
            )
        return cls(order, budget, relation)

    def admit(self, event: PrivacyEvent) -> bool:
        """Charge `event` and answer True, or leave the budget as it is and answer False: then it must not happen.

        Raises:
            PrivacyError: an unknown event.
        """
        charged = self.spent + renyi_divergence(event, self.order, self.relation)
        if not charged <= self.rho_budget * (1.0 + _ROUNDING):
            return False
        self.spent = charged
        return True

    def guarantee(self, delta: float) -> float:
        """Epsilon at `delta` of everything that was and can still be admitted: that of the whole budget.

        Raises:
            PrivacyError: `delta` is outside (0, 1).
        """
        return epsilon_of_divergence(self.rho_budget, self.order, delta)


def _epsilon_at(events: Iterable[PrivacyEvent], order: float, delta: float, relation: Relation) -> float:
    return epsilon_of_divergence(sum(renyi_divergence(event, order, relation) for event in events), order, delta)


def _conversion_cost(order: float, delta: float) -> float:
    return math.log1p(-1.0 / order) - (math.log(delta) + math.log(order)) / (order - 1.0)


def _gaussian_divergence(mu: float, order: float, relation: Relation) -> float:
    shift = 2.0 * mu if relation == "replace_one" else mu
    return order * shift * shift / 2.0


@lru_cache(maxsize=4096)
def _step_divergence(rate: float, mu: float, order: float, relation: Relation) -> float:
    """Divergence of one sampled step whose outcome is measured in standard deviations of its noise."""
    if rate == 1.0 or mu > _LARGEST_SAMPLED_MU:
        return _gaussian_divergence(mu, order, relation)
    farthest = (2.0 * order - 1.0 if relation == "replace_one" else order) * mu
    step = min(0.125, 0.25 / mu)
    x = np.arange(-_TAIL_DEVIATIONS, farthest + _TAIL_DEVIATIONS, step)
    upper = _log_mixture(x, rate, mu)
    lower = _log_mixture(x, rate, -mu) if relation == "replace_one" else np.zeros_like(x)
    exponent = order * upper + (1.0 - order) * lower - x * x / 2.0
    peak = float(exponent.max())
    log_integral = peak + math.log(float(np.exp(exponent - peak).sum()) * step) - math.log(2.0 * math.pi) / 2.0
    return max(0.0, log_integral / (order - 1.0))


def _log_mixture(x: NDArray[np.float64], rate: float, mu: float) -> NDArray[np.float64]:
    """Log density of a sampled step relative to the standard normal density."""
    return np.asarray(np.logaddexp(math.log1p(-rate), math.log(rate) + mu * x - mu * mu / 2.0))


def _require_order(order: float) -> None:
    if not 1.0 < order < math.inf:
        raise PrivacyError(f"order is {order!r}, it must be finite and above 1", remedy="use one of renyi.ORDERS")
