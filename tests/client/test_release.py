"""The single exit: what is charged, when, and what a crash or a second request can and cannot do."""

from __future__ import annotations

import numpy as np
import pytest

from client import outbox, release
from client.pricing import price
from client.release import answer
from mmrec_model.config import RunConfig
from mmrec_model.errors import DataError
from mmrec_model.planning import plan_events
from mmrec_model.privacy.bodies import RecordType
from mmrec_model.protocol import Kind, Request, arrays_digest


def types(site) -> list[str]:
    with site.open_ledger() as ledger:
        return [str(record.type) for record in ledger.records]


def spent(site) -> list[dict]:
    with site.open_ledger() as ledger:
        return ledger.spent()


def changed(config: RunConfig, part: str, **values: object) -> RunConfig:
    inner = getattr(config, part).model_copy(update=values)
    return config.model_copy(update={part: inner})


def test_describing_a_site_costs_nothing_and_leaves_no_array(make_site, make_request):
    site = make_site()
    result = answer(site, Kind.DESCRIBE, *make_request(0))
    assert (result.reply.partner, result.reply.users, result.reply.refusal) == ("north", 60, "")
    assert result.arrays == {}
    assert spent(site) == []


def test_a_round_is_reserved_before_and_committed_after_the_work(make_site, make_request):
    site = make_site()
    assert set(answer(site, Kind.POPULARITY, *make_request(0)).arrays) == {"counts"}
    request, arrays = make_request(1)
    result = answer(site, Kind.TRAIN, request, arrays)
    assert set(result.arrays) == set(arrays) - {"prior"} | {"witness"}
    spend = ["reserve", "commit"]
    assert types(site) == ["open", "code", "data_prep", "plan", *spend, "data_prep", *spend]
    assert spent(site) == [
        {"type": "gaussian", "noise_multiplier": 3.0, "count": 1},
        {"type": "sampled_gaussian", "sample_rate": 0.3, "noise_multiplier": 1.5, "steps": 2},
    ]


def test_the_reserve_is_on_disk_before_any_data_is_read(make_site, make_request, monkeypatch):
    site, seen = make_site(), []

    def fail(*_arguments):
        seen.extend(record_types(site))
        raise DataError("the disk is gone", remedy="Mend it")

    monkeypatch.setitem(release.MAKERS, Kind.TRAIN, fail)
    reply = answer(site, Kind.TRAIN, *make_request(1)).reply
    assert seen[-1] == "reserve"
    assert reply.refusal == "site"
    assert "disk" not in reply.refusal_text
    assert len(spent(site)) == 1


def record_types(site) -> list[str]:
    lines = (site.root / "ledger.jsonl").read_text().splitlines()
    return [line.split('"type":"')[-1].split('"')[0] for line in lines]


def test_the_same_request_again_sends_the_same_bytes_and_charges_nothing(make_site, make_request):
    site = make_site()
    first = answer(site, Kind.TRAIN, *make_request(1))
    before = types(site)
    second = answer(site, Kind.TRAIN, *make_request(1))
    assert types(site) == before
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array)


def test_an_update_that_was_kept_but_not_committed_is_committed_and_sent(make_site, make_request, monkeypatch):
    """The crash between keeping a reply and committing it."""
    site = make_site()
    real_keep = outbox.keep

    def keep_and_die(*arguments):
        real_keep(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(outbox, "keep", keep_and_die)
    with pytest.raises(KeyboardInterrupt):
        answer(site, Kind.TRAIN, *make_request(1))
    monkeypatch.undo()
    assert types(site)[-1] == "reserve"
    result = answer(site, Kind.TRAIN, *make_request(1))
    assert result.reply.refusal == ""
    assert types(site).count("reserve") == 1
    assert types(site)[-1] == "commit"


def test_a_lost_attempt_is_spent_and_the_next_one_is_charged_again_until_the_budget_ends(
    make_site, make_request, config, monkeypatch
):
    site = make_site(max_epsilon=8.0)
    monkeypatch.setitem(release.MAKERS, Kind.TRAIN, failing)
    codes = [answer(site, Kind.TRAIN, *make_request(1)).reply.refusal for _ in range(400)]
    assert codes[0] == "site"
    assert codes[-1] == "budget"
    assert types(site).count("reserve") == codes.index("budget")
    with site.open_ledger() as ledger:
        assert all(record.whole("round") == 1 for record in ledger.records if record.type == RecordType.RESERVE)


def failing(*_arguments):
    raise DataError("lost", remedy="Try again")


def test_another_state_for_a_round_that_was_answered_is_refused(make_site, make_request):
    site = make_site()
    request, arrays = make_request(1)
    answer(site, Kind.TRAIN, request, arrays)
    arrays["prior"] = arrays["prior"] + 1.0
    other = Request(request.run_id, 1, request.plan, arrays_digest(arrays))
    assert answer(site, Kind.TRAIN, other, arrays).reply.refusal == "round-changed"


def test_a_state_that_is_not_the_named_one_is_refused(make_site, make_request):
    site = make_site()
    request, arrays = make_request(1)
    arrays["prior"] = arrays["prior"] + 1.0
    assert answer(site, Kind.TRAIN, request, arrays).reply.refusal == "protocol"
    assert spent(site) == []


def test_a_changed_plan_under_the_same_run_is_refused(make_site, make_request, config):
    site = make_site()
    answer(site, Kind.TRAIN, *make_request(1))
    other = changed(config, "training", learning_rate=0.5)
    assert answer(site, Kind.TRAIN, *make_request(2, plan=other)).reply.refusal == "plan-changed"


@pytest.mark.parametrize("round_number", [0, 4, -1])
def test_a_round_outside_the_plan_is_refused(round_number, make_site, make_request):
    site = make_site()
    request, arrays = make_request(1)
    other = Request(request.run_id, round_number, request.plan, request.model_digest)
    assert answer(site, Kind.TRAIN, other, arrays).reply.refusal == "protocol"


def test_a_plan_that_is_not_json_is_refused_without_an_exception(make_site):
    reply = answer(make_site(), Kind.TRAIN, Request("run-1", 1, "{"), {}).reply
    assert reply.refusal == "site"


def test_a_second_run_is_charged_on_the_same_ledger(make_site, make_request, config):
    site = make_site(max_epsilon=1.1 * price(plan_events(config), 1e-3))
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == ""
    second = config.model_copy(update={"run_id": "run-2"})
    reply = answer(site, Kind.TRAIN, *make_request(1, plan=second)).reply
    assert reply.refusal == "budget"
    assert types(site).count("plan") == 1


def test_a_run_without_noise_needs_the_policys_word(make_site, make_request, config):
    bare = config.model_copy(
        update={
            "privacy": config.privacy.model_copy(
                update={
                    "mechanism": "none",
                    "epsilon": None,
                    "noise_multiplier": 0.0,
                    "popularity_noise_multiplier": 0.0,
                }
            )
        }
    )
    assert answer(make_site("strict"), Kind.TRAIN, *make_request(1, plan=bare)).reply.refusal == "privacy-off"
    open_site = make_site("open", allow_without_privacy=True)
    assert answer(open_site, Kind.TRAIN, *make_request(1, plan=bare)).reply.refusal == ""
    assert spent(open_site) == [{"type": "non_private"}]


def test_code_that_the_partner_has_not_reviewed_spends_nothing(make_site, make_request):
    site = make_site(allowed_code=("c" * 64,))
    for kind, round_number in ((Kind.DESCRIBE, 0), (Kind.POPULARITY, 0), (Kind.TRAIN, 1)):
        assert answer(site, kind, *make_request(round_number)).reply.refusal == "code"
    assert types(site) == ["open"]
    reviewed = make_site("reviewed", allowed_code=("c" * 64, site.code_digest))
    assert answer(reviewed, Kind.TRAIN, *make_request(1)).reply.refusal == ""


def test_counts_differ_from_the_truth_by_noise_of_the_planned_size(make_site, make_request, config):
    site = make_site()
    counts = answer(site, Kind.POPULARITY, *make_request(0)).arrays["counts"]
    truth = np.bincount(site.dataset.train.items, minlength=config.features.items)
    deviation = config.privacy.popularity_noise_multiplier * config.privacy.popularity_cap**0.5
    ratio = (counts - truth).std() / deviation
    assert 0.7 < ratio < 1.35


def test_a_site_without_a_seed_never_repeats_its_noise(make_site, make_request):
    first = answer(make_site("a", seed=None), Kind.POPULARITY, *make_request(0)).arrays["counts"]
    second = answer(make_site("b", seed=None), Kind.POPULARITY, *make_request(0)).arrays["counts"]
    assert np.abs(first - second).min() > 0


def test_simulated_noise_is_labelled_in_the_ledger(make_site, make_request):
    seeded, real = make_site("seeded", seed=4), make_site("real", seed=None)
    for site, expected in ((seeded, "simulated"), (real, "chacha20/os.urandom")):
        answer(site, Kind.TRAIN, *make_request(1))
        with site.open_ledger() as ledger:
            assert ledger.records[-1].text("rng") == expected


def test_a_stored_reply_that_was_changed_after_its_commit_is_not_sent(make_site, make_request):
    site = make_site()
    answer(site, Kind.TRAIN, *make_request(1))
    (kept,) = site.outbox.glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(bytes(content))
    result = answer(site, Kind.TRAIN, *make_request(1))
    assert (result.reply.refusal, result.arrays) == ("site", {})


def test_the_words_of_an_unexpected_error_do_not_leave(make_site, make_request, monkeypatch):
    def fail(*_arguments):
        raise ValueError("user 17 has 300 items")

    monkeypatch.setitem(release.MAKERS, Kind.TRAIN, fail)
    reply = answer(make_site(), Kind.TRAIN, *make_request(1)).reply
    assert reply.refusal == "site"
    assert "17" not in reply.refusal_text
    assert "ValueError" not in reply.refusal_text


def test_a_narrow_scope_trains_sends_and_is_limited_by_its_own_weights_alone(make_site, make_request, config):
    narrow = changed(config, "model", scope="head")
    request, arrays = make_request(1, plan=narrow)
    sizes = sum(array.size for name, array in arrays.items() if name != "prior")
    site = make_site(max_trained_weights=sizes)
    result = answer(site, Kind.TRAIN, request, arrays)
    assert result.reply.refusal == ""
    assert set(result.arrays) == set(arrays) - {"prior"} | {"witness"}
    assert all(np.abs(array).max() > 0 for array in result.arrays.values()), "noise is on every trained weight"
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == "trained-weights"
    with site.open_ledger() as ledger:
        plan = next(record for record in ledger.records if record.type == RecordType.PLAN)
    assert plan.body["hyper_parameters"]["scope"] == "head"
