"""Pairs leave as one noised sum: a user moves it by one at most, the noise is the planned one, policy is first."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import release
from client.charge import RELEASES
from client.pairs import count_pairs
from client.release import answer
from mmrec_model.collaboration.pairs import BOUND, triangle_size
from mmrec_model.config import FeatureSpec, ModelConfig, PrivacyConfig, RunConfig
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.data.histories import Histories
from mmrec_model.errors import DataError, ProtocolError
from mmrec_model.planning import plan_events
from mmrec_model.privacy.events import GaussianRelease, from_record, merge, to_record
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import PAIRS, SELECTED, TAIL, Kind, arrays_digest

N_ITEMS, M = 9, 4
CHOSEN = {SELECTED: np.array([0, 2, 3, 8], np.float32)}


def plan(noise: float) -> RunConfig:
    private = PrivacyConfig(epsilon=1.0, noise_multiplier=1.0, popularity_noise_multiplier=1.0)
    bare = PrivacyConfig(mechanism="none", epsilon=None, noise_multiplier=0.0, popularity_noise_multiplier=0.0)
    return RunConfig(
        run_id="pairs",
        seed=0,
        features=FeatureSpec(digest="0" * 64, items=N_ITEMS, dims={"text": 4}),
        model=ModelConfig(collaboration_weight=0.1),
        privacy=private if noise else bare,
        collaboration=CollaborationConfig(items=M, history=3, noise_multiplier=noise),
    )


def histories_of(lists: list[list[int]]) -> Histories:
    owners = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    items = np.concatenate([np.asarray(items, dtype=np.int64) for items in [[], *lists]])
    return Histories.grouped(owners.astype(np.int64), items, len(lists))


def counted(lists: list[list[int]], noise: float = 0.0, seed: bytes = b"x") -> np.ndarray:
    return count_pairs(plan(noise), histories_of(lists), CHOSEN, GaussianNoise(seed=seed), {})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=8), min_size=1, max_size=6), st.data())
def test_one_users_whole_data_moves_the_sum_by_at_most_the_bound(lists: list[list[int]], data: st.DataObject) -> None:
    """Of histories with repetitions too, which a catalogue of distinct items would not have."""
    who = data.draw(st.integers(0, len(lists) - 1))
    gone = [[] if user == who else items for user, items in enumerate(lists)]
    assert np.linalg.norm(counted(lists).astype(np.float64) - counted(gone)) <= BOUND + 1e-5


def test_the_bound_is_reached() -> None:
    assert np.linalg.norm(counted([[2, 3]]) - counted([[]])) == pytest.approx(BOUND)


def test_the_noise_of_every_number_has_the_planned_deviation_and_another_would_be_seen() -> None:
    truth = counted([[0, 2, 3], [8, 2]])
    draws = np.array([counted([[0, 2, 3], [8, 2]], 2.5, b"%d" % number) for number in range(400)])
    noise = (draws - truth) / (2.5 * BOUND)

    def is_honest(found: np.ndarray) -> bool:
        return abs(found.std() - 1.0) < 3.5 / math.sqrt(2.0 * found.size)

    assert noise.shape == (400, triangle_size(M))
    assert is_honest(noise)
    assert not is_honest(0.92 * noise)
    assert not is_honest(1.08 * noise)
    assert abs(noise.mean()) < 3.5 / math.sqrt(noise.size)
    correlations = np.corrcoef(noise.T)[np.triu_indices(triangle_size(M), 1)]
    assert np.abs(correlations).max() < 4.5 / math.sqrt(400), "the numbers have noise of their own each"


@pytest.mark.parametrize(
    "selected",
    [None, [0, 2, 3], [0, 2, 3, 8, 7], [0, 3, 2, 8], [0, 2, 2, 8], [-1, 2, 3, 8], [0, 2, 3, 9], [0, 2, 3.5, 8],
     [0, 2, 3, math.nan], [0, 2, 3, math.inf]],
)  # fmt: skip
def test_items_that_the_plan_does_not_mean_are_refused(selected: list[float] | None) -> None:
    state = {} if selected is None else {SELECTED: np.array(selected, np.float32)}
    with pytest.raises(ProtocolError, match="ascending places"):
        count_pairs(plan(0.0), histories_of([[0, 2]]), state, GaussianNoise(seed=b"x"), {})


def weighted(plan: RunConfig) -> RunConfig:
    return plan.model_copy(update={"collaboration": plan.collaboration.model_copy(update={"tail_weight": 0.5})})


def test_weights_of_items_are_part_of_the_one_request_and_change_neither_bound_nor_price(
    make_site, make_ladder_request, ladder
) -> None:
    site, config = make_site(), weighted(ladder)
    plain, arrays = make_ladder_request(Kind.PAIRS)
    priced = {}
    for factor in (1.0, 2.0):
        asked = arrays | {TAIL: np.linspace(1.0, 3.0 * factor, arrays[SELECTED].size).astype(np.float32)}
        request = replace(plain, plan=config.model_dump_json(), model_digest=arrays_digest(asked))
        priced[factor] = answer(site, Kind.PAIRS, request, asked).reply.refusal
    assert priced == {1.0: "", 2.0: "round-changed"}
    with site.open_ledger() as ledger:
        assert [from_record(one) for one in ledger.spent()] == [GaussianRelease(2.0)]
        (reserve,) = (record for record in ledger.records if record.type == "reserve")
    assert reserve.number("sensitivity") == BOUND


def test_weights_that_the_plan_does_not_mean_are_refused(make_site, make_ladder_request, ladder) -> None:
    request, arrays = make_ladder_request(Kind.PAIRS)
    spread = arrays | {TAIL: np.linspace(1.0, 200.0, arrays[SELECTED].size).astype(np.float32)}
    for name, plan_of, asked in (("spread", weighted(ladder), spread), ("none", weighted(ladder), arrays),
                                 ("unasked", ladder, spread)):  # fmt: skip
        site = make_site(name)
        named = replace(request, plan=plan_of.model_dump_json(), model_digest=arrays_digest(asked))
        assert answer(site, Kind.PAIRS, named, asked).reply.refusal == "protocol"
        with site.open_ledger() as ledger:
            assert ledger.spent() == []


def kinds(site) -> list[str]:
    with site.open_ledger() as ledger:
        return [record.text("kind") if record.type == "reserve" else str(record.type) for record in ledger.records]


def test_pairs_are_reserved_before_they_are_computed_and_committed_before_they_leave(
    make_site, make_ladder_request, ladder, monkeypatch
) -> None:
    site, seen = make_site(), []

    def fail(*_):
        seen.append((site.root / "ledger.jsonl").read_text().splitlines()[-1])
        raise DataError("user 17 is odd", remedy="Mend it")

    with monkeypatch.context() as patch:
        patch.setitem(release.MAKERS, Kind.PAIRS, fail)
        reply = answer(site, Kind.PAIRS, *make_ladder_request(Kind.PAIRS)).reply
    assert (reply.refusal, "17" in reply.refusal_text) == ("site", False)
    assert '"kind":"pairs"' in seen[0]
    result = answer(site, Kind.PAIRS, *make_ladder_request(Kind.PAIRS))
    assert {name: array.shape for name, array in result.arrays.items()} == {PAIRS: (triangle_size(12),)}
    assert result.arrays[PAIRS].dtype == np.float32
    assert kinds(site)[-3:] == ["pairs", "pairs", "commit"]


def test_the_ledger_states_what_the_release_was(make_site, make_ladder_request, ladder) -> None:
    site = make_site()
    assert answer(site, Kind.PAIRS, *make_ladder_request(Kind.PAIRS)).reply.refusal == ""
    with site.open_ledger() as ledger:
        *_, reserve, commit = ledger.records
    for record in (reserve, commit):
        assert record.table("mechanism") == to_record(GaussianRelease(2.0))
        assert record.number("sensitivity") == BOUND


def test_a_whole_plan_with_pairs_and_gate_spends_exactly_what_was_planned(
    make_site, make_request, make_ladder_request, ladder
) -> None:
    site = make_site()
    one_round = ladder.model_copy(update={"training": ladder.training.model_copy(update={"rounds": 1})})
    asked = [(Kind.POPULARITY, make_request(0, plan=one_round))]
    for kind in (Kind.PAIRS, Kind.SCORER, Kind.TRAIN, Kind.COMPARE):
        request, arrays = make_ladder_request(kind)
        changes = {"plan": one_round.model_dump_json(), "round": 2 if kind is Kind.COMPARE else request.round}
        asked.append((kind, (replace(request, **changes), arrays)))
    for kind, (request, arrays) in asked:
        assert answer(site, kind, request, arrays).reply.refusal == "", kind
    with site.open_ledger() as ledger:
        assert merge(map(from_record, ledger.spent())) == merge(plan_events(one_round))
    assert [kind for kind in kinds(site) if kind in RELEASES.values()] == [
        "popularity", "pairs", "train", "compare",
    ]  # fmt: skip


def test_other_items_for_pairs_that_were_released_are_refused(make_site, make_ladder_request) -> None:
    """A second selection would be a second release."""
    site = make_site()
    request, arrays = make_ladder_request(Kind.PAIRS)
    first = answer(site, Kind.PAIRS, request, arrays)
    assert kinds(site).count("pairs") == 1
    other = {SELECTED: arrays[SELECTED] + 1}
    moved = replace(request, model_digest=arrays_digest(other))
    assert answer(site, Kind.PAIRS, moved, other).reply.refusal == "round-changed"
    again = answer(site, Kind.PAIRS, request, arrays)
    np.testing.assert_array_equal(again.arrays[PAIRS], first.arrays[PAIRS])
    assert kinds(site).count("pairs") == 1
