"""One Gaussian release, exactly: the closed form that every accountant is tested against, and a one-number summary.

A release with mu = sensitivity / standard deviation is (epsilon, delta)-private for
delta(epsilon) = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2) and for no smaller delta (Balle and Wang
2018, arXiv 1805.06530; Dong, Roth and Su 2019, arXiv 1905.02383).
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.special import log_ndtr

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.events import require_delta

_TOLERANCE = 1e-12


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Smallest delta of a mu-Gaussian release at `epsilon` >= 0.

    Raises:
        PrivacyError: `mu` is not above 0, or `epsilon` is negative.
    """
    _require_positive("mu", mu)
    if not epsilon >= 0.0:
        raise PrivacyError(f"epsilon is {epsilon!r}, it must be at least 0", remedy="ask at epsilon 0 or more")
    if math.isinf(epsilon):
        return 0.0
    log_above = float(log_ndtr(mu / 2 - epsilon / mu))
    log_below = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return -math.exp(log_above) * math.expm1(min(0.0, log_below - log_above))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon >= 0 of a mu-Gaussian release at `delta`.

    Raises:
        PrivacyError: `mu` is not above 0, or `delta` is outside (0, 1).
    """
    _require_positive("mu", mu)
    require_delta(delta)
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    ceiling = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    return float(brentq(lambda epsilon: _log_ratio(epsilon, mu, delta), 0.0, ceiling, xtol=_TOLERANCE))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu whose Gaussian release has exactly this (epsilon, delta).

    It summarises a guarantee at one point of its curve; it is no proof that the whole mechanism is mu-Gaussian private.

    Raises:
        PrivacyError: `epsilon` is not a finite number above 0, or `delta` is outside (0, 1).
    """
    _require_positive("epsilon", epsilon)
    require_delta(delta)
    ceiling = 1.0
    while gaussian_delta(epsilon, ceiling) < delta:
        ceiling *= 2.0
    floor = ceiling
    while gaussian_delta(epsilon, floor) > delta:
        floor /= 2.0
    return float(brentq(lambda mu: _log_ratio(epsilon, mu, delta), floor, ceiling, xtol=_TOLERANCE))


def _log_ratio(epsilon: float, mu: float, delta: float) -> float:
    return math.log(max(gaussian_delta(epsilon, mu), 1e-300) / delta)


def _require_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise PrivacyError(f"{name} is {value!r}, it must be finite and above 0", remedy=f"pass a positive {name}")
