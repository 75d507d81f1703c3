"""Events are facts that survive being written, refuse nonsense, and add up in any order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.canonical import canonical_json
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.events import (
    GaussianRelease,
    NonPrivate,
    PrivacyEvent,
    SampledGaussian,
    from_record,
    merge,
    to_record,
)

NOISES = st.floats(min_value=1e-3, max_value=1e3)
RATES = st.floats(min_value=1e-6, max_value=1.0)
COUNTS = st.integers(min_value=1, max_value=10_000)
EVENTS = st.one_of(
    st.builds(GaussianRelease, NOISES, COUNTS),
    st.builds(SampledGaussian, RATES, NOISES, COUNTS),
    st.builds(NonPrivate),
)


@given(EVENTS)
def test_an_event_survives_canonical_json(event: PrivacyEvent) -> None:
    assert from_record(json.loads(canonical_json(to_record(event)))) == event
    assert from_record(to_record(event)) == event


def test_the_record_of_each_mechanism_is_fixed() -> None:
    assert canonical_json(to_record(GaussianRelease(2, 3))) == b'{"count":3,"noise_multiplier":"2.0","type":"gaussian"}'
    assert canonical_json(to_record(SampledGaussian(0.2, 1.5, 7))) == (
        b'{"noise_multiplier":"1.5","sample_rate":"0.2","steps":7,"type":"sampled_gaussian"}'
    )
    assert canonical_json(to_record(NonPrivate())) == b'{"type":"non_private"}'


@pytest.mark.parametrize("text", ["1.5", "15e-1", "0.15E+1"])
def test_a_decimal_string_of_any_language_is_read(text: str) -> None:
    assert from_record({"type": "gaussian", "noise_multiplier": text, "count": 1}) == GaussianRelease(1.5)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"type": "laplace"},
        {"type": ["gaussian"]},
        {"type": "gaussian", "noise_multiplier": "1.0"},
        {"type": "non_private", "note": "x"},
        {"type": "gaussian", "noise_multiplier": "1.0", "count": 1, "epsilon": "0.1"},
        {"type": "gaussian", "noise_multiplier": "nan", "count": 1},
        {"type": "gaussian", "noise_multiplier": "inf", "count": 1},
        {"type": "gaussian", "noise_multiplier": "1e999", "count": 1},
        {"type": "gaussian", "noise_multiplier": "1_0", "count": 1},
        {"type": "gaussian", "noise_multiplier": " 1", "count": 1},
        {"type": "gaussian", "noise_multiplier": "-1", "count": 1},
        {"type": "gaussian", "noise_multiplier": True, "count": 1},
        {"type": "gaussian", "noise_multiplier": None, "count": 1},
        {"type": "gaussian", "noise_multiplier": "1.0", "count": "1.0"},
        {"type": "gaussian", "noise_multiplier": "1.0", "count": 1.0},
        {"type": "gaussian", "noise_multiplier": "1.0", "count": True},
        {"type": "sampled_gaussian", "noise_multiplier": "1.0", "sample_rate": "1.5", "steps": 1},
        {"type": "sampled_gaussian", "noise_multiplier": "1.0", "sample_rate": "0.5", "steps": 0},
    ],
)
def test_a_record_that_is_not_exactly_an_event_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(PrivacyError):
        from_record(record)


@pytest.mark.parametrize(
    "build",
    [
        lambda: GaussianRelease(0.0),
        lambda: GaussianRelease(-1.0),
        lambda: GaussianRelease(math.nan),
        lambda: GaussianRelease(math.inf),
        lambda: GaussianRelease(True),
        lambda: GaussianRelease(1.0, 0),
        lambda: GaussianRelease(1.0, 1.5),  # type: ignore[arg-type]
        lambda: SampledGaussian(0.0, 1.0, 1),
        lambda: SampledGaussian(1.0000001, 1.0, 1),
        lambda: SampledGaussian(math.nan, 1.0, 1),
        lambda: SampledGaussian(0.5, 0.0, 1),
        lambda: SampledGaussian(0.5, 1.0, -1),
    ],
)
def test_an_impossible_event_cannot_be_made(build: Callable[[], PrivacyEvent]) -> None:
    with pytest.raises(PrivacyError, match="must be"):
        build()


@given(st.lists(EVENTS, max_size=8), st.randoms(use_true_random=False))
def test_merging_forgets_order_and_grouping(events: list[PrivacyEvent], random: object) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert merge(shuffled) == merge(events) == merge((*merge(events[:3]), *merge(events[3:])))


def test_merging_adds_equal_mechanisms_and_keeps_different_ones() -> None:
    events: list[PrivacyEvent] = [
        SampledGaussian(0.1, 1.0, 2),
        GaussianRelease(1.0),
        SampledGaussian(0.1, 1.0, 3),
        SampledGaussian(0.2, 1.0, 1),
    ]
    assert merge(events) == (GaussianRelease(1.0), SampledGaussian(0.1, 1.0, 5), SampledGaussian(0.2, 1.0, 1))
    assert merge([]) == ()


def test_an_unknown_event_is_refused_not_approximated() -> None:
    with pytest.raises(PrivacyError, match="str is not a known privacy event"):
        merge(["gaussian"])  # type: ignore[list-item]
    with pytest.raises(PrivacyError, match="dict is not a known privacy event"):
        to_record({})  # type: ignore[arg-type]
