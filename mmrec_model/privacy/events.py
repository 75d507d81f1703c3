"""What was done to private data, as facts without a price: one frozen dataclass per mechanism.

The unit is the user. Every sensitivity is the L2 change that one user's whole data can make when it is replaced by
nothing ("zero-out", the number of users being public; the price is that of add/remove). A replaced user can change
twice as much; the accountants know that, an event does not. Accountants improve and facts stay, so a ledger stores
these records, and an event that is not listed here is refused, never approximated.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from mmrec_model.canonical import JsonValue
from mmrec_model.errors import PrivacyError

Relation: TypeAlias = Literal["zero_out", "replace_one"]

_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", re.IGNORECASE)


@dataclass(frozen=True)
class GaussianRelease:
    """`count` releases of a bounded sum over all users, each with fresh Gaussian noise.

    Attributes:
        noise_multiplier: standard deviation in units of the L2 sensitivity, above 0.
        count: releases with this noise, at least 1.
    """

    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        require_noise_multiplier(self.noise_multiplier)
        _whole("count", self.count)


@dataclass(frozen=True)
class SampledGaussian:
    """`steps` noised sums, each over a fresh Poisson sample of the users.

    Attributes:
        sample_rate: probability of each user, independently, to be in a step's sum; in (0, 1] and public.
        noise_multiplier: standard deviation in units of the L2 sensitivity, above 0.
        steps: sums released, at least 1; an empty sample is released too, as noise alone.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        require_sample_rate(self.sample_rate)
        require_noise_multiplier(self.noise_multiplier)
        _whole("steps", self.steps)


@dataclass(frozen=True)
class NonPrivate:
    """Something left without noise: no epsilon bounds it."""


PrivacyEvent: TypeAlias = GaussianRelease | SampledGaussian | NonPrivate


def to_record(event: PrivacyEvent) -> dict[str, JsonValue]:
    """The event as JSON values: `type` and the fields of its dataclass.

    Raises:
        PrivacyError: `event` is not one of the known mechanisms.
    """
    match event:
        case GaussianRelease():
            return {"type": "gaussian", "noise_multiplier": float(event.noise_multiplier), "count": event.count}
        case SampledGaussian():
            return {
                "type": "sampled_gaussian",
                "sample_rate": float(event.sample_rate),
                "noise_multiplier": float(event.noise_multiplier),
                "steps": event.steps,
            }
        case NonPrivate():
            return {"type": "non_private"}
    raise unknown_event(event)


def from_record(record: Mapping[str, object]) -> PrivacyEvent:
    """The event that `to_record` wrote; a number with a fraction may be a decimal string, as canonical JSON has it.

    Raises:
        PrivacyError: unknown type, missing or additional field, or a value out of range.
    """
    kind = record.get("type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise PrivacyError(
            f"a privacy event of type {kind!r} is not one of {sorted(_READERS)}",
            remedy="read this record with a release that knows its mechanism",
        )
    fields, build = _READERS[kind]
    if set(record) != {"type", *fields}:
        raise PrivacyError(
            f"a {kind!r} event has the fields {sorted(record)}, expected {sorted({'type', *fields})}",
            remedy="write events with to_record",
        )
    return build({name: _number(name, record[name]) for name in fields})


def merge(events: Iterable[PrivacyEvent]) -> tuple[PrivacyEvent, ...]:
    """Join events of the same mechanism, rate and noise, and sort: equal multisets of releases give equal tuples.

    Raises:
        PrivacyError: an event is not one of the known mechanisms.
    """
    releases: Counter[float] = Counter()
    steps: Counter[tuple[float, float]] = Counter()
    open_releases: tuple[PrivacyEvent, ...] = ()
    for event in events:
        match event:
            case GaussianRelease():
                releases[event.noise_multiplier] += event.count
            case SampledGaussian():
                steps[event.sample_rate, event.noise_multiplier] += event.steps
            case NonPrivate():
                open_releases = (event,)
            case _:
                raise unknown_event(event)
    return (
        *(GaussianRelease(sigma, count) for sigma, count in sorted(releases.items())),
        *(SampledGaussian(rate, sigma, count) for (rate, sigma), count in sorted(steps.items())),
        *open_releases,
    )


def unknown_event(event: object) -> PrivacyError:
    """The refusal of an object that is not a privacy event."""
    return PrivacyError(
        f"{type(event).__name__} is not a known privacy event",
        remedy="describe the release as GaussianRelease, SampledGaussian or NonPrivate",
    )


def require_noise_multiplier(value: float) -> None:
    """Refuse a noise multiplier that is not a finite number above 0."""
    if not _is_number(value) or not 0.0 < value < math.inf:
        raise PrivacyError(
            f"noise_multiplier is {value!r}, it must be finite and above 0",
            remedy="add noise, or record the release as NonPrivate",
        )


def require_sample_rate(value: float) -> None:
    """Refuse a sample rate outside (0, 1]."""
    if not _is_number(value) or not 0.0 < value <= 1.0:
        raise PrivacyError(
            f"sample_rate is {value!r}, it must be in (0, 1]",
            remedy="use the public probability with which each user joins a step",
        )


def require_delta(value: float) -> None:
    """Refuse a delta outside (0, 1)."""
    if not _is_number(value) or not 0.0 < value < 1.0:
        raise PrivacyError(
            f"delta is {value!r}, it must be in (0, 1)",
            remedy="choose a failure probability well below 1 / number of users, such as 1e-5",
        )


def require_relation(value: str) -> None:
    """Refuse a neighbouring relation that is not named in `Relation`."""
    if value not in get_args(Relation):
        raise PrivacyError(
            f"relation is {value!r}, it must be one of {get_args(Relation)}",
            remedy="state how two neighbouring data sets differ",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _number(name: str, value: object) -> float | int:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return float(value)
    raise PrivacyError(f"{name} is {value!r}, it must be a decimal number", remedy="write events with to_record")


def _read_gaussian(numbers: Mapping[str, float | int]) -> PrivacyEvent:
    return GaussianRelease(float(numbers["noise_multiplier"]), _whole("count", numbers["count"]))


def _read_sampled(numbers: Mapping[str, float | int]) -> PrivacyEvent:
    rate, sigma = float(numbers["sample_rate"]), float(numbers["noise_multiplier"])
    return SampledGaussian(rate, sigma, _whole("steps", numbers["steps"]))


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PrivacyError(
            f"{name} is {value!r}, it must be a whole number of at least 1",
            remedy="record one event per release that took place",
        )
    return value


_READERS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[Mapping[str, float | int]], PrivacyEvent]]]] = {
    "gaussian": (("noise_multiplier", "count"), _read_gaussian),
    "sampled_gaussian": (("sample_rate", "noise_multiplier", "steps"), _read_sampled),
    "non_private": ((), lambda _: NonPrivate()),
}
