"""The rungs' scores leave as one noised sum: a user moves it by a known bound, the noise is the planned one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from client import comparison
from client.comparison import compare, sensitivity
from client.inbox import find_scorer, keep_scorer
from client.measurement import measure
from client.release import answer
from mmrec_model.config_ladder import CollaborationConfig, EvaluationConfig
from mmrec_model.data.histories import Histories
from mmrec_model.errors import ProtocolError
from mmrec_model.ladder import rungs_of
from mmrec_model.model.state import state_of_rung
from mmrec_model.privacy.events import GaussianRelease, to_record
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import COMPARED, SCORER, SELECTED, Kind, arrays_digest

RUNGS = ("popularity", "content", "free", "pairs", "collaboration", "trained")


@dataclass(frozen=True)
class Users:
    """As much of a `PartnerDataset` as is compared."""

    train: Histories
    val: np.ndarray
    catalogue: range

    def __len__(self) -> int:
        return len(self.val)


def bare(config):
    return config.model_copy(
        update={
            "privacy": config.privacy.model_copy(update={"mechanism": "none"}),
            "gate": config.gate.model_copy(update={"noise_multiplier": 0.0}),
        }
    )


@pytest.fixture
def state(make_ladder_request, scorer):
    return {**make_ladder_request(Kind.COMPARE)[1], **scorer}


def test_the_sums_are_those_of_each_rung_measured_by_itself_and_then_the_users(
    make_site, ladder, state, monkeypatch
) -> None:
    site, asked = make_site(), bare(ladder)
    assert rungs_of(asked) == RUNGS
    found = compare(asked, site.items, site.dataset, state, GaussianNoise(seed=b"one"))
    assert (found.dtype, found.shape) == (np.float32, (len(RUNGS) + 1,))
    evaluation = EvaluationConfig(metrics=("ndcg_at_10",))
    for place, rung in enumerate(RUNGS):
        alone = asked.model_copy(update={"evaluation": evaluation})
        sums = measure(alone, site.items, site.dataset, state_of_rung(asked, state, rung), GaussianNoise(seed=b"one"))
        assert found[place] == pytest.approx(sums[0], rel=1e-6), rung
        assert found[-1] == sums[-1]
    assert len(set(found.tolist())) > 3, "the rungs differ, so the comparison says something"


def test_the_untrained_rungs_are_made_once_and_with_the_sites_own_encoder(
    make_site, ladder, state, monkeypatch
) -> None:
    site, asked, sources = make_site(), bare(ladder), []
    untrained = comparison.initial_state(asked)

    def made(config, *, encoder_source=None):
        sources.append(encoder_source)
        return untrained

    monkeypatch.setattr(comparison, "initial_state", made)
    monkeypatch.setattr("mmrec_model.model.state.initial_state", None)
    compare(asked, site.items, site.dataset, state, GaussianNoise(seed=b"one"), encoder_source="the site's own")
    assert sources == ["the site's own"]


@pytest.mark.parametrize("who", [0, 3, 59])
def test_one_users_whole_data_moves_the_sums_by_at_most_the_sensitivity(make_site, ladder, state, who) -> None:
    site, asked = make_site(), bare(ladder)
    train, val = site.dataset.train, site.dataset.val
    lists = [train.of(user) for user in range(len(train))]
    sums = []
    for gone in (False, True):
        kept = [items[:0] if gone and user == who else items for user, items in enumerate(lists)]
        owners = np.repeat(np.arange(len(kept)), [len(items) for items in kept])
        left = np.where(gone & (np.arange(len(val)) == who), -1, val)
        users = Users(Histories.grouped(owners, np.concatenate(kept), len(kept)), left, range(40))
        sums.append(compare(asked, site.items, users, state, GaussianNoise(seed=b"one")).astype(np.float64))
    moved = np.linalg.norm(sums[0] - sums[1])
    assert 1.0 <= moved <= sensitivity(ladder) + 1e-5
    assert sums[0][-1] - sums[1][-1] == 1.0


def test_the_bound_is_reached_where_every_rung_ranks_a_user_perfectly(make_site, ladder, state, monkeypatch) -> None:
    site, asked = make_site(), bare(ladder)
    monkeypatch.setattr(comparison, "user_vectors", lambda *_, **__: np.ones((1, 2)))
    found = compare(asked, site.items, site.dataset, state, GaussianNoise(seed=b"one"))
    assert np.linalg.norm(found) == pytest.approx(sensitivity(ladder)) == pytest.approx(math.sqrt(7))


def test_the_noise_of_every_number_has_the_planned_deviation_and_another_would_be_seen(
    make_site, ladder, state, monkeypatch
) -> None:
    site = make_site()
    monkeypatch.setattr(comparison, "state_scorer", lambda *_: None)
    monkeypatch.setattr(comparison, "user_vectors", lambda *_, **__: np.ones((4, 2)))
    draws = [compare(ladder, site.items, site.dataset, state, GaussianNoise(seed=b"%d" % n)) for n in range(600)]
    noise = (np.asarray(draws) - 4.0) / (3.0 * sensitivity(ladder))

    def is_honest(found: np.ndarray) -> bool:
        return abs(found.std() - 1.0) < 3.5 / math.sqrt(2.0 * found.size)

    assert noise.shape == (600, 7)
    assert is_honest(noise)
    assert not is_honest(0.92 * noise)
    assert not is_honest(1.08 * noise)
    assert not is_honest(noise * math.sqrt(6 / 7)), "the users' number is part of the bound"
    assert abs(noise.mean()) < 3.5 / math.sqrt(noise.size)


def kinds(site) -> list[str]:
    with site.open_ledger() as ledger:
        return [record.text("kind") if record.type == "reserve" else str(record.type) for record in ledger.records]


def test_the_comparison_is_charged_as_what_it_is_and_sent_again_for_nothing(make_site, make_ladder_request) -> None:
    site = make_site()
    assert answer(site, Kind.SCORER, *make_ladder_request(Kind.SCORER)).reply.refusal == ""
    first = answer(site, Kind.COMPARE, *make_ladder_request(Kind.COMPARE))
    assert first.reply.refusal == ""
    assert {name: array.shape for name, array in first.arrays.items()} == {COMPARED: (7,)}
    before = kinds(site)
    assert before[-2:] == ["compare", "commit"]
    with site.open_ledger() as ledger:
        reserve, commit = ledger.records[-2:]
    for record in (reserve, commit):
        assert record.table("mechanism") == to_record(GaussianRelease(3.0))
        assert record.number("sensitivity") == pytest.approx(math.sqrt(7))
    again = answer(site, Kind.COMPARE, *make_ladder_request(Kind.COMPARE))
    assert kinds(site) == before
    np.testing.assert_array_equal(again.arrays[COMPARED], first.arrays[COMPARED])


def test_a_scorer_costs_nothing_and_nothing_comes_back(make_site, make_ladder_request, scorer) -> None:
    site = make_site()
    result = answer(site, Kind.SCORER, *make_ladder_request(Kind.SCORER))
    assert (result.reply.refusal, result.arrays) == ("", {})
    assert "reserve" not in {record for record in kinds(site) if record in {"pairs", "compare", "train", "popularity"}}
    assert set(kinds(site)) <= {"open", "code"}
    kept = find_scorer(site.inbox, arrays_digest(scorer))
    assert {name: array.tobytes() for name, array in kept.items()} == {
        name: array.tobytes() for name, array in scorer.items()
    }


def test_a_request_that_names_a_scorer_that_is_not_there_spends_nothing(make_site, make_ladder_request) -> None:
    site = make_site()
    for kind in (Kind.TRAIN, Kind.COMPARE):
        assert answer(site, kind, *make_ladder_request(kind)).reply.refusal == "protocol"
    assert answer(site, Kind.SCORER, *make_ladder_request(Kind.SCORER)).reply.refusal == ""
    file = site.inbox / "scorer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert answer(site, Kind.COMPARE, *make_ladder_request(Kind.COMPARE)).reply.refusal == "protocol"
    assert "compare" not in kinds(site)


def test_the_digest_of_the_scorer_is_part_of_what_a_state_is(make_site, make_ladder_request, scorer) -> None:
    """A second scorer under the same arrays is another state, which was not answered."""
    site = make_site()
    answer(site, Kind.SCORER, *make_ladder_request(Kind.SCORER))
    request, arrays = make_ladder_request(Kind.COMPARE)
    assert answer(site, Kind.COMPARE, replace(request, scorer=""), arrays).reply.refusal == "protocol"
    assert answer(site, Kind.COMPARE, replace(request, scorer="0" * 64), arrays).reply.refusal == "protocol"


def test_an_inbox_keeps_the_last_scorer_alone_and_one_of_the_plans_size(tmp_path, scorer, ladder) -> None:
    keep_scorer(tmp_path, scorer, ladder)
    other = {SCORER: scorer[SCORER] * 2, SELECTED: scorer[SELECTED]}
    keep_scorer(tmp_path, other, ladder)
    assert find_scorer(tmp_path, "") == {}
    assert set(find_scorer(tmp_path, arrays_digest(other))) == {SCORER, SELECTED}
    with pytest.raises(ProtocolError, match="does not have the scorer"):
        find_scorer(tmp_path, arrays_digest(scorer))
    for wrong in ({SCORER: scorer[SCORER]}, {**scorer, "more": scorer[SELECTED]}, {}):
        with pytest.raises(ProtocolError, match="the plan has 12 items"):
            keep_scorer(tmp_path, wrong, ladder)
    with pytest.raises(ProtocolError, match="the plan has 11 items"):
        keep_scorer(tmp_path, scorer, ladder.model_copy(update={"collaboration": CollaborationConfig(items=11)}))


@pytest.mark.parametrize("kind", [Kind.PAIRS, Kind.COMPARE])
def test_a_kind_that_the_policy_does_not_allow_is_refused_alone(make_site, make_ladder_request, kind) -> None:
    allowed = {"popularity", "pairs", "train", "compare"} - {kind.value.rpartition(".")[2]}
    site = make_site(allowed_releases=tuple(sorted(allowed)))
    assert answer(site, Kind.SCORER, *make_ladder_request(Kind.SCORER)).reply.refusal == ""
    assert answer(site, kind, *make_ladder_request(kind)).reply.refusal == "release"
    assert answer(site, Kind.TRAIN, *make_ladder_request(Kind.TRAIN)).reply.refusal == ""


def test_pairs_of_too_many_items_or_too_long_histories_are_refused_whole(make_site, make_ladder_request) -> None:
    for number, (policy, code) in enumerate((({"max_pair_items": 11}, "pair-items"), ({"max_history": 20}, ""))):
        site = make_site(f"site{number}", **policy)
        assert answer(site, Kind.DESCRIBE, *make_ladder_request(Kind.PAIRS)).reply.refusal == code
    tight = make_site("tight", max_history=4)
    assert answer(tight, Kind.DESCRIBE, *make_ladder_request(Kind.PAIRS)).reply.refusal in {"popularity-cap", "history"}
