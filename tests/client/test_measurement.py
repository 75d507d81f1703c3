"""Metrics leave as one noised sum: a user moves it by a known bound, the noise is the planned one, policy is first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import measurement, release
from client.measurement import measure, sensitivity, user_vectors
from client.release import answer
from mmrec_model.config import RunConfig
from mmrec_model.config_ladder import EvaluationConfig
from mmrec_model.data.dataset import PartnerDataset
from mmrec_model.data.histories import Histories
from mmrec_model.errors import DataError
from mmrec_model.model.recommender import initial_state
from mmrec_model.planning import plan_events
from mmrec_model.privacy.events import from_record, merge
from mmrec_model.privacy.noise import GaussianNoise
from mmrec_model.protocol import METRICS, Kind

MANY = ("mrr", *(f"{kind}_at_{k}" for kind in ("recall", "ndcg") for k in (1, 2, 3, 5, 8, 13, 21)))
ALLOWED = ("recall_at_10", "ndcg_at_10", "mrr")


@dataclass(frozen=True)
class Users:
    """As much of a `PartnerDataset` as is measured."""

    train: Histories
    val: np.ndarray
    catalogue: range

    def __len__(self) -> int:
        return len(self.val)


def users_of(histories: list[list[int]], val: list[int], n_items: int) -> PartnerDataset:
    owners = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    items = np.concatenate([np.asarray(items, dtype=np.int64) for items in [[], *histories]])
    train = Histories.grouped(owners.astype(np.int64), items, len(histories))
    return Users(train, np.asarray(val, dtype=np.int64), range(n_items))  # type: ignore[return-value]


@st.composite
def populations(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int]:
    """Histories, validation items (-1: none), and the size of the catalogue."""
    n_items = draw(st.integers(1, 9))
    item = st.integers(0, n_items - 1)
    histories = draw(st.lists(st.lists(item, unique=True, max_size=n_items), min_size=1, max_size=6))
    return histories, [draw(st.integers(-1, n_items - 1)) for _ in histories], n_items


def scorer(draws: int, levels: int, n_items: int):
    """Scores that depend on the history alone, with many ties, and with infinities."""

    def score(_users, histories):
        rows = [np.random.default_rng([draws, *items]).integers(levels, size=n_items) for items in histories]
        scores = np.asarray(rows, dtype=np.float32).reshape(len(histories), n_items)
        return np.where(scores == 0, -np.inf, scores).astype(np.float32)

    return score


@settings(max_examples=60, deadline=None)
@given(populations(), st.integers(0, 99), st.integers(1, 4), st.data())
def test_one_users_whole_data_moves_the_sum_by_at_most_the_sensitivity(population, seed, levels, data) -> None:
    histories, val, n_items = population
    evaluation = EvaluationConfig(metrics=data.draw(st.sampled_from([("mrr",), ("recall_at_1", "ndcg_at_3"), MANY])))
    who = data.draw(st.integers(0, len(val) - 1))
    score = scorer(seed, levels, n_items)
    sums = []
    for gone in (False, True):
        kept = [[] if gone and user == who else items for user, items in enumerate(histories)]
        left = [-1 if gone and user == who else item for user, item in enumerate(val)]
        vectors = user_vectors(evaluation, users_of(kept, left, n_items), score, seed=seed)
        assert (np.linalg.norm(vectors, axis=1) <= sensitivity(evaluation)).all()
        sums.append(vectors.sum(axis=0))
    assert np.linalg.norm(sums[0] - sums[1]) <= sensitivity(evaluation) + 1e-9
    assert sums[0][-1] - sums[1][-1] == (val[who] >= 0)


def test_the_bound_is_reached() -> None:
    evaluation = EvaluationConfig(metrics=ALLOWED)
    vectors = user_vectors(evaluation, users_of([[1]], [0], 2), lambda *_: np.float32([[1.0, 0.0]]), seed=0)
    assert np.linalg.norm(vectors) == pytest.approx(sensitivity(evaluation)) == pytest.approx(2.0)


def test_without_a_validation_item_nobody_counts() -> None:
    vectors = user_vectors(EvaluationConfig(), users_of([[1], []], [-1, -1], 3), scorer(0, 3, 3), seed=0)
    assert not vectors.any()
    assert vectors.shape == (2, 3)


@pytest.fixture
def evaluated(config: RunConfig) -> RunConfig:
    """Metrics after round 2 and of the exported state."""
    evaluation = EvaluationConfig(metrics=ALLOWED, every=2, final=True, noise_multiplier=3.0)
    return config.model_copy(update={"evaluation": evaluation})


def global_state(config: RunConfig):
    return {**initial_state(config), "prior": np.zeros(config.features.items, dtype=np.float32)}


def test_the_noise_of_every_number_has_the_planned_deviation_and_less_would_be_seen(make_site, evaluated) -> None:
    site = make_site()
    evaluation = evaluated.evaluation.model_copy(update={"metrics": MANY})
    noisy = evaluated.model_copy(update={"evaluation": evaluation})
    bare = noisy.model_copy(update={"privacy": noisy.privacy.model_copy(update={"mechanism": "none"})})
    state = global_state(noisy)
    truth = measure(bare, site.items, site.dataset, state, GaussianNoise(seed=b"ties"))
    deviation = 3.0 * math.sqrt(len(MANY) + 1)
    draws = [
        measure(noisy, site.items, site.dataset, state, GaussianNoise(seed=b"%d" % number)) for number in range(320)
    ]
    noise = (np.asarray(draws) - truth) / deviation

    def is_honest(found: np.ndarray) -> bool:
        return abs(found.std() - 1.0) < 3.5 / math.sqrt(2.0 * found.size)

    assert noise.size > 5000
    assert is_honest(noise)
    assert not is_honest(0.95 * noise)
    assert abs(noise.mean()) < 3.5 / math.sqrt(noise.size)
    by_number = noise.std(axis=0)
    assert np.all(np.abs(by_number - 1.0) < 4.5 / math.sqrt(2.0 * len(draws)))


def test_a_user_whose_scores_are_not_numbers_ends_nothing_and_is_ranked_last(make_site, evaluated, monkeypatch) -> None:
    bare = evaluated.model_copy(update={"privacy": evaluated.privacy.model_copy(update={"mechanism": "none"})})
    site, real = make_site(), measurement.score_catalogue

    def broken(*values):
        scores = real(*values)
        scores[:5] = np.nan
        scores[5:10, 0] = np.nan
        return scores

    state = global_state(bare)
    whole = measure(bare, site.items, site.dataset, state, GaussianNoise(seed=b"a"))
    monkeypatch.setattr(measurement, "score_catalogue", broken)
    found = measure(bare, site.items, site.dataset, state, GaussianNoise(seed=b"a"))
    assert np.isfinite(found).all()
    assert found[-1] == whole[-1] == 60
    assert np.linalg.norm(found - whole) <= 10 * sensitivity(bare.evaluation)


def test_ties_are_broken_anew_in_every_release(make_site, evaluated, monkeypatch) -> None:
    bare = evaluated.model_copy(update={"privacy": evaluated.privacy.model_copy(update={"mechanism": "none"})})
    site, n_items = make_site(), evaluated.features.items
    monkeypatch.setattr(measurement, "score_catalogue", lambda _model, _items, who, _own: np.ones((len(who), n_items)))
    found = [
        measure(bare, site.items, site.dataset, global_state(bare), GaussianNoise(seed=seed)) for seed in (b"a", b"b")
    ]
    assert (found[0][:-1] != found[1][:-1]).any()
    assert found[0][-1] == found[1][-1]


def kinds(site) -> list[str]:
    with site.open_ledger() as ledger:
        return [record.text("kind") if record.type == "reserve" else str(record.type) for record in ledger.records]


def test_metrics_are_reserved_before_they_are_computed_and_committed_before_they_leave(
    make_site, make_request, evaluated, monkeypatch
) -> None:
    site, seen = make_site(allowed_metrics=ALLOWED), []

    def fail(*_):
        seen.append((site.root / "ledger.jsonl").read_text().splitlines()[-1])
        raise DataError("user 17 is odd", remedy="Mend it")

    with monkeypatch.context() as patch:
        patch.setitem(release.MAKERS, Kind.EVALUATE, fail)
        reply = answer(site, Kind.EVALUATE, *make_request(2, plan=evaluated)).reply
    assert (reply.refusal, "17" in reply.refusal_text) == ("site", False)
    assert '"kind":"evaluate"' in seen[0]
    result = answer(site, Kind.EVALUATE, *make_request(2, plan=evaluated))
    assert {name: array.shape for name, array in result.arrays.items()} == {METRICS: (4,)}
    assert result.arrays[METRICS].dtype == np.float32
    assert kinds(site)[-3:] == ["evaluate", "evaluate", "commit"]


def test_a_whole_run_spends_exactly_what_was_planned(make_site, make_request, evaluated) -> None:
    site = make_site(allowed_metrics=ALLOWED)
    asked = [(Kind.POPULARITY, 0), (Kind.TRAIN, 1), (Kind.TRAIN, 2), (Kind.EVALUATE, 2), (Kind.TRAIN, 3)]
    for kind, number in [*asked, (Kind.EVALUATE, 4)]:
        assert answer(site, kind, *make_request(number, plan=evaluated)).reply.refusal == ""
    with site.open_ledger() as ledger:
        spent = merge(map(from_record, ledger.spent()))
        charged = [
            record for record in ledger.records if record.type == "reserve" and record.text("kind") == "evaluate"
        ]
    assert spent == merge(plan_events(evaluated))
    assert [record.number("sensitivity") for record in charged] == [2.0, 2.0]


def test_training_and_evaluation_of_one_round_do_not_answer_for_each_other(make_site, make_request, evaluated) -> None:
    site = make_site(allowed_metrics=ALLOWED)
    trained = answer(site, Kind.TRAIN, *make_request(2, plan=evaluated))
    measured = answer(site, Kind.EVALUATE, *make_request(2, plan=evaluated))
    before = kinds(site)
    again = [answer(site, kind, *make_request(2, plan=evaluated)) for kind in (Kind.TRAIN, Kind.EVALUATE)]
    assert kinds(site) == before
    np.testing.assert_array_equal(again[0].arrays["witness"], trained.arrays["witness"])
    np.testing.assert_array_equal(again[1].arrays[METRICS], measured.arrays[METRICS])


@pytest.mark.parametrize("number", [0, 1, 3, 5])
def test_metrics_of_a_round_that_the_plan_does_not_name_are_refused(make_site, make_request, evaluated, number) -> None:
    site = make_site(allowed_metrics=ALLOWED)
    assert answer(site, Kind.EVALUATE, *make_request(number, plan=evaluated)).reply.refusal == "protocol"
    assert kinds(site) == ["open"]


def test_another_state_under_an_evaluated_round_is_refused(make_site, make_request, evaluated) -> None:
    site = make_site(allowed_metrics=ALLOWED)
    request, arrays = make_request(2, plan=evaluated)
    answer(site, Kind.EVALUATE, request, arrays)
    moved = {**arrays, "prior": arrays["prior"] + 1}
    assert answer(site, Kind.EVALUATE, request, moved).reply.refusal == "protocol"
    other = replace(request, model_digest=release.arrays_digest(moved))
    assert answer(site, Kind.EVALUATE, other, moved).reply.refusal == "round-changed"


@pytest.mark.parametrize(
    ("code", "policy"),
    [
        ("metrics", {}),
        ("metrics", {"allowed_metrics": ALLOWED[:2]}),
        ("metric-noise", {"allowed_metrics": ALLOWED, "min_metric_noise_multiplier": 3.01}),
        ("metric-releases", {"allowed_metrics": ALLOWED, "max_metric_releases": 1}),
    ],
)
def test_a_policy_that_does_not_allow_the_metrics_refuses_them_alone(
    make_site, make_request, evaluated, code, policy
) -> None:
    site = make_site(**policy)
    assert answer(site, Kind.DESCRIBE, *make_request(0, plan=evaluated)).reply.refusal == ""
    refused = answer(site, Kind.EVALUATE, *make_request(2, plan=evaluated))
    assert (refused.reply.refusal, refused.arrays) == (code, {})
    assert "evaluate" not in kinds(site)
    assert answer(site, Kind.TRAIN, *make_request(1, plan=evaluated)).reply.refusal == ""


def test_the_limits_themselves_are_allowed(make_site, make_request, evaluated) -> None:
    site = make_site(allowed_metrics=ALLOWED, min_metric_noise_multiplier=3.0, max_metric_releases=2)
    assert answer(site, Kind.EVALUATE, *make_request(2, plan=evaluated)).reply.refusal == ""
