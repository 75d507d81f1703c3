"""What a list of privacy events costs one user: privacy loss distributions, composed.

Guarantees, each tested:
1. `epsilon` is an upper bound: losses are rounded pessimistically (connect-the-dots, Doroshenko et al. 2022,
   arXiv 2207.04380), and a finer grid only lowers it, towards the exact figure.
2. It is the price of a plan that was fixed before its first release. A plan that reacts to what it released needs
   `mmrec_model.privacy.renyi.RenyiFilter` (arXiv 2008.11193, 2602.06756).
3. Order and grouping of the events do not matter.

The only module that imports dp_accounting; `mmrec_model.privacy.replay` recomputes the same figure without it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.events import (
    GaussianRelease,
    NonPrivate,
    PrivacyEvent,
    Relation,
    SampledGaussian,
    merge,
    require_delta,
    require_relation,
)

REPORT_GRID: Final = 1e-4
ENFORCEMENT_GRID: Final = 1e-3
REPORT_DELTAS: Final = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)

_RELATIONS: Final = {
    "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    "replace_one": NeighboringRelation.REPLACE_ONE,
}
_MOST_POINTS: Final = 2_000_000
_COARSEST_GRID: Final = 0.1
_TAIL_DEVIATIONS: Final = 12.0

LossDistribution: TypeAlias = Any  # dp_accounting ships no types


def epsilon(
    events: Sequence[PrivacyEvent], delta: float, relation: Relation = "zero_out", *, grid: float = REPORT_GRID
) -> float:
    """Smallest epsilon that the composition of `events` is shown to have at `delta`.

    Args:
        events: all releases that saw the user; the order is irrelevant.
        delta: failure probability, in (0, 1); below about 1e-12 the answer is infinite.
        relation: how two neighbouring data sets differ.
        grid: distance of the rounded losses, in nats, up to 0.1; coarsened where the losses would not fit in memory,
            as for an epsilon of many hundreds.

    Returns:
        At least 0; 0 for no event, infinite if one of them is `NonPrivate`, or if epsilon is many thousands.

    Raises:
        PrivacyError: `delta`, `relation`, `grid` or an event is invalid.
    """
    return profile(events, (delta,), relation, grid=grid)[delta]


def profile(
    events: Sequence[PrivacyEvent],
    deltas: Sequence[float] = REPORT_DELTAS,
    relation: Relation = "zero_out",
    *,
    grid: float = REPORT_GRID,
) -> dict[float, float]:
    """`epsilon` at several deltas for the price of one composition.

    Raises:
        PrivacyError: as `epsilon`.
    """
    for delta in deltas:
        require_delta(delta)
    accountant = RunningAccountant(relation, grid=grid, events=events)
    return {delta: accountant.epsilon(delta) for delta in deltas}


class RunningAccountant:
    """The composed distribution of everything so far, so that one more round costs milliseconds.

    The first event with a new rate or noise also pays for its own distribution (0.05 s at the default grid). Gaussian
    releases are summed exactly, as 1 / noise^2, and meet the rest when a price is asked for.
    """

    def __init__(
        self,
        relation: Relation = "zero_out",
        *,
        grid: float = ENFORCEMENT_GRID,
        events: Iterable[PrivacyEvent] = (),
    ) -> None:
        require_relation(relation)
        if not 0.0 < grid <= _COARSEST_GRID:
            raise PrivacyError(f"grid is {grid!r}, it must be in (0, {_COARSEST_GRID}]", remedy=f"use {REPORT_GRID}")
        self.relation: Relation = relation
        self.grid = grid
        self._events = merge(events)
        self._sampled: LossDistribution | None
        self._total: LossDistribution | None
        self._compose_all()

    @property
    def events(self) -> tuple[PrivacyEvent, ...]:
        """What was composed, merged."""
        return self._events

    def compose(self, event: PrivacyEvent) -> None:
        """Count `event` as released.

        Raises:
            PrivacyError: an unknown event.
        """
        self._events = merge((*self._events, event))
        if _fitting_grid(self._events, self.relation, self.grid) != self._fitted_grid:
            self._compose_all()
        else:
            self._compose_sampled((event,))
        self._total = None

    def epsilon(self, delta: float) -> float:
        """Price of everything composed so far; infinite after a `NonPrivate` event, 0 before the first event.

        Raises:
            PrivacyError: `delta` is outside (0, 1).
        """
        require_delta(delta)
        if self._is_unbounded:
            return math.inf
        if self._total is None:
            self._total = _composed(self._sampled, self._losses_of_gaussians())
        return 0.0 if self._total is None else float(self._total.get_epsilon_for_delta(delta))

    def would_cost(self, event: PrivacyEvent, delta: float) -> float:
        """Price at `delta` if `event` were composed too; nothing is committed.

        Raises:
            PrivacyError: an unknown event, or `delta` outside (0, 1).
        """
        candidate = copy.copy(self)
        candidate.compose(event)
        return candidate.epsilon(delta)

    @property
    def _is_unbounded(self) -> bool:
        return NonPrivate() in self._events or self._fitted_grid > _COARSEST_GRID

    def _compose_all(self) -> None:
        self._fitted_grid = _fitting_grid(self._events, self.relation, self.grid)
        self._sampled = None
        self._total = None
        self._compose_sampled(self._events)

    def _compose_sampled(self, events: Iterable[PrivacyEvent]) -> None:
        if self._is_unbounded:
            return
        for event in _sampled(events):
            step = _step_losses(event.sample_rate, event.noise_multiplier, self.relation, self._fitted_grid)
            self._sampled = _composed(self._sampled, step.self_compose(event.steps))

    def _losses_of_gaussians(self) -> LossDistribution | None:
        squared_mu = _squared_mu(self._events)
        if squared_mu == 0.0:
            return None
        return _step_losses(1.0, 1.0 / math.sqrt(squared_mu), self.relation, self._fitted_grid)


@lru_cache(maxsize=16)
def _step_losses(sample_rate: float, noise_multiplier: float, relation: Relation, grid: float) -> LossDistribution:
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        value_discretization_interval=grid,
        sampling_prob=sample_rate,
        neighboring_relation=_RELATIONS[relation],
    )


def _composed(left: LossDistribution | None, right: LossDistribution | None) -> LossDistribution | None:
    if left is None or right is None:
        return right if left is None else left
    return left.compose(right)


def _sampled(events: Iterable[PrivacyEvent]) -> list[SampledGaussian]:
    return [event for event in events if isinstance(event, SampledGaussian) and event.sample_rate < 1.0]


def _squared_mu(events: Iterable[PrivacyEvent]) -> float:
    """Sum of count / noise^2 over the releases without sampling: Gaussians compose to one Gaussian."""
    total = 0.0
    for event in events:
        if isinstance(event, GaussianRelease):
            total += event.count / event.noise_multiplier**2
        elif isinstance(event, SampledGaussian) and event.sample_rate == 1.0:
            total += event.steps / event.noise_multiplier**2
    return total


def _fitting_grid(events: Sequence[PrivacyEvent], relation: Relation, grid: float) -> float:
    """`grid`, or the first power-of-two multiple whose loss distributions stay below `_MOST_POINTS` points.

    Only the cost depends on this estimate: rounding is pessimistic on every grid.
    """
    shift = 2.0 if relation == "replace_one" else 1.0
    steps = [(shift / event.noise_multiplier, event.sample_rate, event.steps) for event in _sampled(events)]
    steps.append((shift * math.sqrt(_squared_mu(events)), 1.0, 1))
    widest, variance = 0.0, 0.0
    for mu, rate, count in steps:
        widest = max(widest, 2 * _TAIL_DEVIATIONS * mu + mu * mu)
        variance += count * min(rate * rate * math.expm1(min(mu * mu, 500.0)), rate * (mu**2 + mu**4 / 4), mu * mu)
    width = max(widest, 2 * _TAIL_DEVIATIONS * math.sqrt(variance) + variance, grid)
    return grid * 2.0 ** max(0, math.ceil(math.log2(width / (_MOST_POINTS * grid))))
