"""Where a site stands is what its ledger, decisions, outbox and diary say, also while it answers."""

from __future__ import annotations

import json

from client.approval import approve, bind, withdraw
from client.dry_run import rehearse
from client.pricing import price
from client.release import answer
from client.site import Site
from client.standing import budget_of, standing_of
from mmrec_model.planning import plan_events, training_event
from mmrec_model.privacy.events import GaussianRelease
from mmrec_model.protocol import Kind


def test_the_budget_of_a_new_site_is_whole(make_site):
    standing = budget_of(make_site(max_epsilon=6.0))
    assert (standing.limit, standing.remaining, standing.total.zero_out, standing.runs) == (6.0, 6.0, 0.0, {})


def test_the_budget_is_what_the_accountant_makes_of_the_ledger(make_site, make_request, config):
    site = make_site(max_epsilon=6.0)
    answer(site, Kind.POPULARITY, *make_request(0))
    answer(site, Kind.TRAIN, *make_request(1))
    rehearse(site, config.model_copy(update={"run_id": "run-2"}), 0, "popularity", {})
    standing = budget_of(site)
    counts = GaussianRelease(config.privacy.popularity_noise_multiplier)
    step = training_event(config.privacy, config.training, rounds=1)
    assert standing.total.zero_out == price((counts, step, counts), 1e-3)
    assert standing.total.replace_one == price((counts, step, counts), 1e-3, "replace_one")
    assert standing.runs["run-1"].zero_out == price((counts, step), 1e-3)
    assert standing.runs["run-1"].releases == {"popularity": 1, "train": 1}
    assert standing.runs["run-2"].releases == {"popularity": 1}
    assert standing.remaining == 6.0 - standing.total.zero_out
    assert standing.without_commit == 1


def test_a_budget_without_limit_has_json(make_site, make_request, config):
    site = make_site(allow_without_privacy=True)
    privacy = {"mechanism": "none", "epsilon": None, "noise_multiplier": 0.0, "popularity_noise_multiplier": 0.0}
    bare = config.model_copy(update={"privacy": config.privacy.model_copy(update=privacy)})
    assert answer(site, Kind.POPULARITY, *make_request(0, plan=bare)).reply.refusal == ""
    said = json.loads(json.dumps(budget_of(site).to_json(), allow_nan=False))
    assert (said["epsilon_limit"], said["epsilon_remaining"], said["total"]["zero_out"]) == (None, None, None)


def test_the_standing_can_be_read_while_the_site_answers(make_site):
    site = make_site()
    with site.open_ledger():
        assert standing_of(site).records == 1
        assert budget_of(site).total.zero_out == 0.0


def test_what_waits_and_what_was_done_is_listed(make_site, make_request, config):
    site = make_site()
    answer(site, Kind.POPULARITY, *make_request(0))
    rehearse(site, config, 1, "train", make_request(1)[1])
    standing = standing_of(site)
    assert [(reply.release, reply.round, reply.committed) for reply in standing.waiting] == [
        ("popularity", 0, True),
        ("train", 1, False),
    ]
    assert [(work.kind, work.round) for work in standing.works] == [("popularity", 0), ("train", 1)]


def test_a_diary_that_a_crash_cut_short_is_read_as_far_as_it_goes(make_site, make_request):
    site = make_site()
    answer(site, Kind.POPULARITY, *make_request(0))
    with (site.root / "diary.jsonl").open("a") as stream:
        stream.write('{"run_id": "run-1", "rou')
    assert [work.kind for work in standing_of(site).works] == ["popularity"]


def test_an_approval_is_shown_with_what_voids_it(make_site, config, monkeypatch):
    site = make_site(require_approval=True)
    approve(site, config, bind(site, site.inspect_ledger().history, config))
    (shown,) = standing_of(site).approvals
    assert (shown.run_id, shown.decision, shown.objection) == ("run-1", "approved", "")
    monkeypatch.setattr("client.site.code_digest", lambda: "c" * 64)
    assert "code digest" in standing_of(Site.open(site.root)).approvals[0].objection
    withdraw(site, "run-1")
    assert "withdrawn" in standing_of(site).approvals[0].objection


def test_receipts_are_heads_that_the_coordinator_signed(federation):
    federation.start(2)
    standing = standing_of(federation.site)
    records = federation.site.inspect_ledger().history.records
    sizes = [record.whole("size") for record in records if record.type == "countersign"]
    assert standing.receipts == tuple(reversed(sizes))[:3] != ()
    assert json.loads(json.dumps(standing.to_json()))["receipts"] == list(standing.receipts)
    assert budget_of(federation.site).total.zero_out < price(plan_events(federation_plan(federation)), 1e-3)


def federation_plan(federation):
    from mmrec_model.config import RunConfig

    return RunConfig.model_validate_json(federation.request(Kind.TRAIN, 1)[0].plan)
