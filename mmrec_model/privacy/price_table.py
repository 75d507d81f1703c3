"""What a list of releases costs, as a table: two accountants, both neighbouring relations, several deltas.

`accounting` gives an upper bound, `replay` recomputes the figure by other means; where they differ by more than
`AGREEMENT`, one of them is wrong and no figure may be used. Beside them stand the looser Renyi figure and the mu of the
one Gaussian release that has the same (epsilon, delta).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, get_args

from mmrec_model.canonical import JsonValue
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.accounting import REPORT_DELTAS, RunningAccountant, profile
from mmrec_model.privacy.events import PrivacyEvent, Relation, SampledGaussian
from mmrec_model.privacy.gaussian_dp import gaussian_mu
from mmrec_model.privacy.renyi import renyi_epsilon
from mmrec_model.privacy.replay import replay_epsilon, replay_profile

AGREEMENT: Final = 1e-3
"""Largest difference of the two accountants, in nats, up to an epsilon of 40; beyond it grows with epsilon."""
_LARGE: Final = 40.0
_STAGES: Final = 5


@dataclass(frozen=True)
class Price:
    """One figure.

    Attributes:
        users_in: partners that a user's data is at, each with these very releases.
        relation: how two neighbouring data sets differ.
        delta: failure probability.
        epsilon: by `accounting`; infinite if something left without noise.
        replayed: by `replay`.
        renyi: by Renyi divergences.
        mu_gdp: of the Gaussian release with this epsilon and delta; None if epsilon is 0 or infinite.
    """

    users_in: int
    relation: Relation
    delta: float
    epsilon: float
    replayed: float
    renyi: float
    mu_gdp: float | None

    @property
    def agrees(self) -> bool:
        """Whether the two accountants give one figure."""
        return agree(self.epsilon, self.replayed)

    def to_json(self) -> dict[str, JsonValue]:
        """The fields; null where a figure is infinite."""
        return {name: _finite(value) for name, value in asdict(self).items()} | {"agrees": self.agrees}


@dataclass(frozen=True)
class Stage:
    """What the steps of a training cost up to one of them, relation zero-out, with all other releases."""

    steps: int
    delta: float
    epsilon: float
    replayed: float

    def to_json(self) -> dict[str, JsonValue]:
        """The fields; null where a figure is infinite."""
        return {name: _finite(value) for name, value in asdict(self).items()}


def price_table(
    events: Sequence[PrivacyEvent], deltas: Sequence[float] = REPORT_DELTAS, *, users_in: int = 1
) -> list[Price]:
    """The price of `events` for users of one partner and, if `users_in` is above 1, of so many partners.

    Raises:
        PrivacyError: an event or a delta is out of range, or `users_in` is below 1.
    """
    if users_in < 1:
        raise PrivacyError(f"users_in is {users_in}, a user is at 1 partner at least", remedy="Give 1 or more")
    rows = []
    for count in sorted({1, users_in}):
        repeated = [event for event in events for _ in range(count)]
        for relation in get_args(Relation):
            bounds = profile(repeated, deltas, relation)
            seconds = replay_profile(repeated, deltas, relation)
            rows += [_price(repeated, count, relation, (delta, bounds[delta], seconds[delta])) for delta in deltas]
    return rows


def price_by_steps(releases: Sequence[PrivacyEvent], training: SampledGaussian, delta: float) -> list[Stage]:
    """The price after each fifth of a training's steps.

    Raises:
        PrivacyError: an event or `delta` is out of range.
    """
    counts = sorted({max(1, training.steps * part // _STAGES) for part in range(1, _STAGES + 1)})
    accountant, done, stages = RunningAccountant(grid=1e-4, events=releases), 0, []
    for count in counts:
        accountant.compose(SampledGaussian(training.sample_rate, training.noise_multiplier, count - done))
        done = count
        replayed = replay_epsilon(accountant.events, delta)
        stages.append(Stage(count, delta, accountant.epsilon(delta), replayed))
    return stages


def agree(epsilon: float, replayed: float) -> bool:
    """Whether two accountants' figures are one."""
    if math.isinf(epsilon) or math.isinf(replayed):
        return epsilon == replayed
    return abs(epsilon - replayed) <= AGREEMENT * max(1.0, epsilon / _LARGE)


def require_agreement(prices: Sequence[Price], stages: Sequence[Stage] = ()) -> None:
    """Refuse figures on which the two accountants differ.

    Raises:
        PrivacyError: with the first difference.
    """
    figures: list[Price | Stage] = [*prices, *stages]
    pairs = [(item.delta, item.epsilon, item.replayed) for item in figures]
    for delta, epsilon, replayed in pairs:
        if not agree(epsilon, replayed):
            raise PrivacyError(
                f"at delta {delta:g} one accountant says {epsilon:.6g}, the other {replayed:.6g}",
                remedy="Use neither figure; check the installed dp-accounting, numpy and scipy",
            )


def as_json(
    events: Sequence[Mapping[str, JsonValue]], prices: Sequence[Price], stages: Sequence[Stage]
) -> dict[str, JsonValue]:
    """The whole answer as JSON values."""
    return {
        "events": [dict(event) for event in events],
        "prices": [item.to_json() for item in prices],
        "after_steps": [item.to_json() for item in stages],
    }


def _price(
    events: Sequence[PrivacyEvent], count: int, relation: Relation, figures: tuple[float, float, float]
) -> Price:
    delta, bound, second = figures
    mu = gaussian_mu(bound, delta) if 0.0 < bound < math.inf else None
    return Price(count, relation, delta, bound, second, renyi_epsilon(events, delta, relation), mu)


def _finite(value: JsonValue) -> JsonValue:
    return None if isinstance(value, float) and not math.isfinite(value) else value
