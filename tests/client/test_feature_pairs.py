"""Pairs of features leave in the same noised sum: a user moves both forms together by one at most."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.pairs import count_pairs
from client.release import answer
from mmrec_model.collaboration.layout import released_numbers
from mmrec_model.collaboration.pairs import BOUND
from mmrec_model.config import FeatureSpec, ModelConfig, PrivacyConfig, RunConfig
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.data.histories import Histories
from mmrec_model.errors import ProtocolError
from mmrec_model.planning import pairs_event
from mmrec_model.privacy.events import from_record
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import FEATURE_MAP, METRIC, PAIRS, SELECTED, Kind, Request, arrays_digest

N_ITEMS, WIDTH, DIMS = 9, 4, 3
MAP = np.random.default_rng(1).normal(size=(WIDTH, DIMS)).astype(np.float32)
STATE = {SELECTED: np.array([0, 2, 3, 8], np.float32), FEATURE_MAP: MAP}


def vectors() -> dict:
    rows = np.random.default_rng(2).normal(size=(N_ITEMS, WIDTH)).astype(np.float32)
    rows[5], rows[6] = 0.0, np.nan
    return {"text": rows}


def plan(items: int, noise: float) -> RunConfig:
    private = PrivacyConfig(epsilon=1.0, noise_multiplier=1.0, popularity_noise_multiplier=1.0)
    bare = PrivacyConfig(mechanism="none", epsilon=None, noise_multiplier=0.0, popularity_noise_multiplier=0.0)
    share = {"feature_share": 0.4} if items else {}
    return RunConfig(
        run_id="pairs",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=N_ITEMS, dims={"text": WIDTH}),
        model=ModelConfig(collaboration_weight=0.1 if items else 0.0, metric_weight=0.1),
        privacy=private if noise else bare,
        collaboration=CollaborationConfig(items=items, dims=DIMS, history=3, noise_multiplier=noise, **share),
    )


def counted(lists: list[list[int]], items: int, noise: float = 0.0, seed: bytes = b"x") -> np.ndarray:
    owners = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    flat = np.concatenate([np.asarray(one, dtype=np.int64) for one in [[], *lists]])
    histories = Histories.grouped(owners.astype(np.int64), flat, len(lists))
    return count_pairs(plan(items, noise), histories, STATE, GaussianNoise(seed=seed), vectors())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=8), min_size=1, max_size=6),
    st.sampled_from([0, 4]),
    st.data(),
)
def test_one_users_whole_data_moves_the_sum_by_at_most_the_bound(
    lists: list[list[int]], items: int, data: st.DataObject
) -> None:
    who = data.draw(st.integers(0, len(lists) - 1))
    gone = [[] if user == who else one for user, one in enumerate(lists)]
    moved = counted(lists, items).astype(np.float64) - counted(gone, items)
    assert np.isfinite(moved).all()
    assert np.linalg.norm(moved) <= BOUND + 1e-5


@pytest.mark.parametrize("items", [0, 4])
def test_the_bound_is_reached(items: int) -> None:
    assert np.linalg.norm(counted([[2, 3]], items)) == pytest.approx(BOUND)


@pytest.mark.parametrize("items", [0, 4])
def test_every_number_of_both_forms_has_the_planned_noise(items: int) -> None:
    truth = counted([[0, 2, 3]], items)
    draws = np.array([counted([[0, 2, 3]], items, 2.5, b"%d" % number) for number in range(300)])
    noise = (draws - truth) / (2.5 * BOUND)
    assert truth.shape == (released_numbers(plan(items, 0.0).collaboration),)
    assert abs(noise.std() - 1.0) < 3.5 / math.sqrt(2.0 * noise.size)
    assert np.abs(noise.std(axis=0) - 1.0).max() < 4.5 / math.sqrt(2.0 * 300), "in each of them"


@pytest.mark.parametrize("wrong", [None, MAP[:, :2], MAP[:3], MAP.ravel(), np.where(MAP > 1.0, np.nan, MAP) * np.inf])
def test_a_map_that_the_plan_does_not_mean_is_refused(wrong: np.ndarray | None) -> None:
    state = {SELECTED: STATE[SELECTED]} if wrong is None else {**STATE, FEATURE_MAP: wrong}
    histories = Histories.grouped(np.zeros(2, np.int64), np.array([0, 2]), 1)
    with pytest.raises(ProtocolError, match="map of features"):
        count_pairs(plan(4, 0.0), histories, state, GaussianNoise(seed=b"x"), vectors())


@pytest.fixture
def asked(ladder: RunConfig) -> RunConfig:
    """The plan with pairs of features in 6 dimensions and none of items."""
    return ladder.model_copy(
        update={
            "model": ladder.model.model_copy(update={"collaboration_weight": 0.0, "metric_weight": 0.05}),
            "collaboration": CollaborationConfig(dims=6, history=5, noise_multiplier=2.0),
        }
    )


def request(plan_: RunConfig, seed: int = 0) -> tuple[Request, dict]:
    shape = (sum(plan_.model_dims.values()), plan_.collaboration.dims)
    arrays = {FEATURE_MAP: np.random.default_rng(seed).normal(size=shape).astype(np.float32)}
    return Request(plan_.run_id, 0, plan_.model_dump_json(), arrays_digest(arrays)), arrays


def test_a_site_releases_them_once_at_the_planned_price_and_refuses_another_map(make_site, asked) -> None:
    site = make_site()
    first = answer(site, Kind.PAIRS, *request(asked))
    assert first.arrays[PAIRS].shape == (21,)
    again = answer(site, Kind.PAIRS, *request(asked))
    np.testing.assert_array_equal(first.arrays[PAIRS], again.arrays[PAIRS])
    assert answer(site, Kind.PAIRS, *request(asked, 1)).reply.refusal == "round-changed"
    with site.open_ledger() as ledger:
        assert [from_record(one) for one in ledger.spent()] == [pairs_event(asked.privacy, asked.collaboration)]


def test_a_site_keeps_the_metric_of_the_plans_size_alone(make_site, asked) -> None:
    site = make_site()
    message, arrays = request(asked)
    good = {**arrays, METRIC: np.eye(6, dtype=np.float32)}
    for wrong in (arrays, {**arrays, METRIC: np.eye(5, dtype=np.float32)}, {**good, SELECTED: np.zeros(6, np.float32)}):
        sent = replace(message, model_digest=arrays_digest(wrong))
        assert answer(site, Kind.SCORER, sent, wrong).reply.refusal == "protocol"
    assert answer(site, Kind.SCORER, replace(message, model_digest=arrays_digest(good)), good).reply.refusal == ""


@pytest.mark.parametrize("limit", [0, 5])
def test_a_partner_bounds_the_dimensions(make_site, asked, limit: int) -> None:
    assert answer(make_site(max_pair_dims=limit), Kind.PAIRS, *request(asked)).reply.refusal == "pair-dims"
