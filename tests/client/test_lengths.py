"""Activity leaves once, noised and charged; the cap it gives is taken once, and changes no price."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.lengths import count_users
from client.release import answer
from mmrec_model.activity import BOUND, bucket_edges, bucket_users, cap_array
from mmrec_model.config import PrivacyConfig, RunConfig
from mmrec_model.data.histories import Histories
from mmrec_model.planning import plan_events
from mmrec_model.privacy.events import GaussianRelease, from_record, merge, to_record
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import ACTIVITY, CAP, Arrays, Kind, Request, arrays_digest

CAP_OF_PLAN = 6
MakeBounded = Callable[[Kind, int], tuple[Request, Arrays]]


@pytest.fixture
def bounded(config: RunConfig) -> RunConfig:
    """The plan with a cap that activity chooses."""
    changes = {"popularity_cap": CAP_OF_PLAN, "activity_quantile": 0.5, "activity_noise_multiplier": 2.0}
    return config.model_copy(update={"privacy": config.privacy.model_copy(update=changes)})


@pytest.fixture
def make_bounded(bounded: RunConfig) -> MakeBounded:
    """ACTIVITY, or POPULARITY with a cap; a cap of 0 for none."""

    def make(kind: Kind, cap: int = 0) -> tuple[Request, Arrays]:
        arrays = cap_array(cap) if cap else {}
        digest = arrays_digest(arrays) if arrays else ""
        return Request(bounded.run_id, 0, bounded.model_dump_json(), digest), arrays

    return make


def spent(site) -> list[dict]:
    with site.open_ledger() as ledger:
        return ledger.spent()


def last(site, number: int):
    with site.open_ledger() as ledger:
        return ledger.records[-number:]


def test_the_noise_of_every_number_has_the_planned_deviation_and_another_would_be_seen() -> None:
    owners = np.repeat(np.arange(30), np.arange(30))
    histories = Histories.grouped(owners, np.arange(owners.size) % 31, 30)
    privacy = PrivacyConfig(
        epsilon=1.0, noise_multiplier=1.0, popularity_noise_multiplier=1.0, activity_quantile=0.5,
        activity_noise_multiplier=2.5,
    )  # fmt: skip
    truth = bucket_users(np.diff(histories.offsets), 20)
    draws = [count_users(histories, privacy, GaussianNoise(seed=b"%d" % number)) for number in range(400)]
    noise = (np.array(draws) - truth) / (2.5 * BOUND)

    def is_honest(found: np.ndarray) -> bool:
        return abs(found.std() - 1.0) < 3.5 / math.sqrt(2.0 * found.size)

    assert noise.shape == (400, len(bucket_edges(20)))
    assert is_honest(noise)
    assert not is_honest(0.9 * noise)
    assert not is_honest(1.1 * noise)
    assert abs(noise.mean()) < 3.5 / math.sqrt(noise.size)


def test_the_ledger_states_what_activity_was(make_site, make_bounded: MakeBounded) -> None:
    site = make_site()
    result = answer(site, Kind.ACTIVITY, *make_bounded(Kind.ACTIVITY, 0))
    assert {name: array.shape for name, array in result.arrays.items()} == {ACTIVITY: (len(bucket_edges(CAP_OF_PLAN)),)}
    reserve, commit = last(site, 2)
    assert (reserve.text("kind"), reserve.maybe_text("model_digest")) == ("activity", None)
    for record in (reserve, commit):
        assert record.table("mechanism") == to_record(GaussianRelease(2.0))
        assert record.number("sensitivity") == BOUND


def test_activity_asked_for_again_is_the_same_bytes_at_no_price(make_site, make_bounded: MakeBounded) -> None:
    site = make_site(seed=None)
    first, second = (answer(site, Kind.ACTIVITY, *make_bounded(Kind.ACTIVITY, 0)).arrays[ACTIVITY] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(spent(site)) == 1


def test_the_price_of_popularity_does_not_depend_on_the_cap_and_its_noise_does(
    make_site, make_bounded: MakeBounded, bounded: RunConfig
) -> None:
    noises = {}
    for cap in (1, CAP_OF_PLAN):
        site = make_site(f"cap-{cap}")
        counts = answer(site, Kind.POPULARITY, *make_bounded(Kind.POPULARITY, cap)).arrays["counts"]
        assert spent(site) == [to_record(GaussianRelease(bounded.privacy.popularity_noise_multiplier))]
        assert last(site, 1)[0].number("sensitivity") == pytest.approx(math.sqrt(cap))
        lengths = np.diff(site.dataset.train.offsets)
        noises[cap] = abs(counts.sum() - np.minimum(lengths, cap).sum())
        noises[cap, "spread"] = counts.std()
    assert noises[CAP_OF_PLAN, "spread"] > 1.5 * noises[1, "spread"]
    # the sum over 40 items has 40 such noises
    for cap in (1, CAP_OF_PLAN):
        assert noises[cap] < 4.0 * 3.0 * math.sqrt(cap * 40)


def test_activity_and_popularity_spend_what_the_plan_says_they_do(
    make_site, make_bounded: MakeBounded, bounded: RunConfig
) -> None:
    site = make_site()
    for kind, cap in ((Kind.ACTIVITY, 0), (Kind.POPULARITY, 3)):
        assert answer(site, kind, *make_bounded(kind, cap)).reply.refusal == ""
    assert merge(map(from_record, spent(site))) == merge(plan_events(bounded)[:2])


def test_a_second_cap_in_a_run_is_refused_and_the_first_one_answered_again(
    make_site, make_bounded: MakeBounded
) -> None:
    site = make_site()
    first = answer(site, Kind.POPULARITY, *make_bounded(Kind.POPULARITY, 3)).arrays["counts"]
    assert answer(site, Kind.POPULARITY, *make_bounded(Kind.POPULARITY, 4)).reply.refusal == "round-changed"
    again = answer(site, Kind.POPULARITY, *make_bounded(Kind.POPULARITY, 3)).arrays["counts"]
    np.testing.assert_array_equal(first, again)
    assert len(spent(site)) == 1


@pytest.mark.parametrize("cap", [None, 0.0, -1.0, 2.5, 7.0, math.nan, math.inf])
def test_a_cap_that_is_not_within_the_plan_is_refused_before_anything_is_spent(
    cap: float | None, make_site, bounded: RunConfig
) -> None:
    site = make_site()
    arrays: Arrays = {} if cap is None else {CAP: np.array([cap], np.float32)}
    request = Request(bounded.run_id, 0, bounded.model_dump_json(), arrays_digest(arrays) if arrays else "")
    assert answer(site, Kind.POPULARITY, request, arrays).reply.refusal == "protocol"
    assert spent(site) == []


def test_a_cap_that_the_request_does_not_name_is_refused(make_site, make_bounded: MakeBounded) -> None:
    site = make_site()
    request, _ = make_bounded(Kind.POPULARITY, 3)
    assert answer(site, Kind.POPULARITY, request, cap_array(4)).reply.refusal == "protocol"
    assert answer(site, Kind.POPULARITY, replace(request, model_digest=""), cap_array(3)).reply.refusal == "protocol"
    assert spent(site) == []


def test_a_plan_without_a_quantile_has_neither_activity_nor_a_cap(make_site, make_request) -> None:
    site = make_site()
    request, _ = make_request(0)
    assert answer(site, Kind.ACTIVITY, request, {}).reply.refusal == "protocol"
    capped = replace(request, model_digest=arrays_digest(cap_array(20)))
    assert answer(site, Kind.POPULARITY, capped, cap_array(20)).reply.refusal == "protocol"
    assert spent(site) == []


def test_a_partner_can_keep_its_users_activity_to_itself_and_still_release_popularity(
    make_site, make_bounded: MakeBounded
) -> None:
    site = make_site(allowed_releases=("popularity", "train"))
    assert answer(site, Kind.ACTIVITY, *make_bounded(Kind.ACTIVITY, 0)).reply.refusal == "release"
    assert answer(site, Kind.POPULARITY, *make_bounded(Kind.POPULARITY, CAP_OF_PLAN)).reply.refusal == ""


def test_the_policy_checks_the_plans_cap_whatever_the_quantile(make_site, make_bounded: MakeBounded) -> None:
    site = make_site(max_history=CAP_OF_PLAN - 1)
    assert answer(site, Kind.POPULARITY, *make_bounded(Kind.POPULARITY, 2)).reply.refusal == "popularity-cap"
    assert spent(site) == []
