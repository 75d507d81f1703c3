"""The cap that activity gives: a user is in one public bucket, and the cap is the edge that the quantile asks for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.activity import BOUND, bucket_edges, bucket_users, cap_array, cap_of, chosen_cap
from mmrec_model.config import PrivacyConfig
from mmrec_model.config_reader import parse_config
from mmrec_model.errors import ConfigError, ProtocolError
from mmrec_model.protocol import CAP, Arrays

Lengths = st.lists(st.integers(0, 500), min_size=1, max_size=40)


def privacy(quantile: float = 0.5, cap: int = 20, **changes: object) -> PrivacyConfig:
    noises = {"noise_multiplier": 1.0, "popularity_noise_multiplier": 1.0}
    noises |= {"activity_noise_multiplier": 1.0 if quantile else 0.0}
    values = {"epsilon": 1.0, "popularity_cap": cap, "activity_quantile": quantile, **noises, **changes}
    return parse_config(PrivacyConfig, values, source="a plan")


@given(st.integers(1, 70_000))
def test_edges_rise_from_one_to_the_cap_and_are_few(cap: int) -> None:
    edges = bucket_edges(cap)
    assert (edges[0], edges[-1]) == (1, cap)
    assert all(low < high <= max(low + 1, 1.5 * low) for low, high in itertools.pairwise(edges))
    assert len(edges) <= 40


@settings(max_examples=60)
@given(Lengths, st.integers(1, 80), st.data())
def test_one_users_whole_data_moves_the_histogram_by_at_most_the_bound(
    lengths: list[int], cap: int, data: st.DataObject
) -> None:
    who = data.draw(st.integers(0, len(lengths) - 1))
    gone = [0 if user == who else length for user, length in enumerate(lengths)]
    before, after = (bucket_users(np.array(some), cap) for some in (lengths, gone))
    assert np.linalg.norm(before - after) == (BOUND if lengths[who] else 0.0)


@settings(max_examples=60)
@given(Lengths.filter(any), st.integers(2, 80), st.floats(0.01, 0.99))
def test_without_noise_the_cap_is_the_smallest_edge_that_covers_the_quantile(
    lengths: list[int], cap: int, quantile: float
) -> None:
    known = np.array([length for length in lengths if length])
    found = chosen_cap(bucket_users(np.array(lengths), cap), privacy(quantile, cap), noise=0.0)
    covered = {edge: np.mean(np.minimum(known, cap) <= edge) for edge in bucket_edges(cap)}
    assert covered[found] >= quantile - 1e-6
    assert all(share < quantile + 1e-6 for edge, share in covered.items() if edge < found)


@settings(max_examples=60)
@given(st.lists(st.floats(-1e4, 1e4), min_size=9, max_size=9), st.floats(0.01, 0.99), st.floats(0.0, 100.0))
def test_whatever_the_noise_the_cap_is_an_edge_of_the_plan(counts: list[float], quantile: float, noise: float) -> None:
    assert chosen_cap(np.array(counts), privacy(quantile), noise=noise) in bucket_edges(20)


def test_a_larger_quantile_never_gives_a_smaller_cap_and_a_dip_of_noise_does_not_unsettle_it() -> None:
    counts = np.array([10.0, -30.0, 200.0, 5.0, -60.0, 300.0, 100.0, -5.0, 40.0])
    caps = [chosen_cap(counts, privacy(quantile), noise=1.0) for quantile in np.linspace(0.01, 0.99, 50)]
    assert caps == sorted(caps)
    assert (caps[0], caps[-1]) == (3, 20)


def test_users_who_do_not_stand_out_of_the_noise_leave_the_plans_cap() -> None:
    counts = np.array([90.0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert chosen_cap(counts, privacy(0.5), noise=9.0) == 1
    assert chosen_cap(counts, privacy(0.5), noise=11.0) == 20
    assert chosen_cap(-counts, privacy(0.5), noise=0.0) == 20


@pytest.mark.parametrize("cap", [1, 7, 20])
def test_a_cap_within_the_plan_is_read_back(cap: int) -> None:
    assert cap_of(privacy(), cap_array(cap)) == cap


def test_without_a_quantile_the_cap_is_the_plans() -> None:
    assert cap_of(privacy(0.0, cap=7), {}) == 7


@pytest.mark.parametrize(
    "state",
    [{}, cap_array(0), cap_array(21), {CAP: np.float32([2.5])}, {CAP: np.float32([np.nan])}, {CAP: np.float32([1, 2])}],
)
def test_a_cap_that_the_plan_does_not_allow_is_refused(state: Arrays) -> None:
    with pytest.raises(ProtocolError, match="the plan allows 1 to 20"):
        cap_of(privacy(), state)


def test_a_cap_for_a_plan_without_a_quantile_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no quantile"):
        cap_of(privacy(0.0), cap_array(20))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activity_noise_multiplier": 0.0}, "is above 0"),
        ({"quantile": 0.0, "activity_noise_multiplier": 1.0}, "nothing is released with it"),
        ({"cap": 1}, "chooses a cap"),
        ({"cap": 70_000}, "chooses a cap"),
        ({"quantile": 1.0}, "activity_quantile"),
    ],
)
def test_a_plan_that_asks_for_a_cap_has_noise_for_it_and_caps_to_choose_from(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        privacy(**changes)  # type: ignore[arg-type]
