"""The operator's approval: without a valid one nothing is spent, and each of what it binds can void it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from client import approval, rotation
from client.approval import NotApproved, approve, bind, check_approval, read_decisions, withdraw, withdraw_all
from client.pricing import price
from client.release import answer
from client.site import Site
from mmrec_model.config import RunConfig
from mmrec_model.errors import ConfigError, LedgerError, PolicyRefusal
from mmrec_model.planning import plan_events
from mmrec_model.protocol import Kind

KINDS = [(Kind.DESCRIBE, 0), (Kind.POPULARITY, 0), (Kind.TRAIN, 1)]


@pytest.fixture
def strict(make_site) -> Site:
    """A site whose policy asks for an approval."""
    return make_site("strict", require_approval=True, max_epsilon=3.3)


def reopened(site: Site) -> Site:
    """What the next message sees."""
    return Site.open(site.root)


def approved(site: Site, config) -> Site:
    approve(site, config, bind(site, site.inspect_ledger().history, config))
    return reopened(site)


def objection(site: Site, config) -> str:
    with pytest.raises(NotApproved) as caught:
        check_approval(site, site.inspect_ledger().history, config)
    return caught.value.problem


@pytest.mark.parametrize(("kind", "round_number"), KINDS)
def test_without_an_approval_every_kind_is_refused_and_the_ledger_stays_as_it_was(
    kind, round_number, strict, make_request
):
    before = (strict.root / "ledger.jsonl").read_bytes()
    result = answer(strict, kind, *make_request(round_number))
    assert (result.reply.refusal, result.arrays) == ("approval", {})
    assert (strict.root / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(("kind", "round_number"), KINDS)
def test_an_approved_run_goes_on(kind, round_number, strict, make_request, config):
    assert answer(approved(strict, config), kind, *make_request(round_number)).reply.refusal == ""


def test_a_policy_that_asks_for_none_lets_a_run_go_on_without(make_site, make_request):
    assert answer(make_site(), Kind.TRAIN, *make_request(1)).reply.refusal == ""


def test_a_new_policy_asks_for_an_approval():
    from client.policy import Policy

    assert Policy().require_approval


def other_code(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.site.code_digest", lambda: "c" * 64)


def other_policy(site: Site, _monkeypatch: pytest.MonkeyPatch) -> None:
    with (site.root / "policy.toml").open("a") as stream:
        stream.write("# reviewed\n")


def other_data(site: Site, _monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = (site.root / "data").glob("interactions.*")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 1), path)


def other_budget(site: Site, _monkeypatch: pytest.MonkeyPatch) -> None:
    with site.open_ledger() as ledger:
        ledger.release(
            name="survey",
            payload_digest="d" * 64,
            mechanism={"type": "gaussian", "noise_multiplier": 1.1, "count": 1},
            sensitivity=1.0,
        )


@pytest.mark.parametrize(
    ("name", "change"),
    [("code", other_code), ("policy", other_policy), ("data", other_data), ("budget", other_budget)],
)
def test_a_change_of_each_digest_voids_the_approval_and_is_named(
    name: str, change: Callable, strict, make_request, monkeypatch
):
    config = RunConfig.model_validate_json(make_request(0)[0].plan)
    site = approved(strict, config)
    change(site, monkeypatch)
    now = reopened(site)
    assert f"the {name} digest" in objection(now, config)
    before = (now.root / "ledger.jsonl").read_bytes()
    reply = answer(now, Kind.TRAIN, *make_request(1)).reply
    assert reply.refusal == "approval"
    assert name not in reply.refusal_text.replace("approval", "")
    assert (now.root / "ledger.jsonl").read_bytes() == before


def test_what_other_runs_spend_voids_it_only_if_the_plan_no_longer_fits(make_site, config, make_request):
    site = make_site("ample", require_approval=True, max_epsilon=50.0)
    site = approved(site, config)
    other_budget(site, None)
    assert answer(reopened(site), Kind.TRAIN, *make_request(1)).reply.refusal == ""


def test_what_its_own_run_spends_does_not_void_it(make_site, config, make_request):
    site = make_site("tight", require_approval=True, max_epsilon=1.001 * price(plan_events(config), 1e-3))
    site = approved(site, config)
    refusals = [answer(site, Kind.POPULARITY, *make_request(0)).reply.refusal]
    refusals += [answer(site, Kind.TRAIN, *make_request(number)).reply.refusal for number in (1, 2, 3)]
    assert refusals == ["", "", "", ""]


def test_another_plan_under_the_same_name_is_not_approved(strict, config, make_request):
    site = approved(strict, config)
    training = config.training.model_copy(update={"learning_rate": 0.5})
    other = config.model_copy(update={"training": training})
    assert "the plan digest" in objection(site, other)
    assert answer(site, Kind.TRAIN, *make_request(1, plan=other)).reply.refusal == "approval"


def test_a_withdrawn_approval_refuses_the_next_message_and_a_new_one_lets_it_go_on(strict, config, make_request):
    site = approved(strict, config)
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == ""
    withdraw(site, config.run_id)
    assert answer(site, Kind.TRAIN, *make_request(2)).reply.refusal == "approval"
    approve(site, config, bind(site, site.inspect_ledger().history, config))
    assert answer(site, Kind.TRAIN, *make_request(2)).reply.refusal == ""


def test_a_withdrawal_counts_where_no_approval_is_asked_for(make_site, config, make_request):
    site = make_site()
    withdraw(site, config.run_id)
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == "approval"


def test_a_reply_that_waits_in_the_outbox_is_not_sent_after_a_withdrawal(strict, config, make_request):
    site = approved(strict, config)
    answer(site, Kind.TRAIN, *make_request(1))
    withdraw(site, config.run_id)
    result = answer(site, Kind.TRAIN, *make_request(1))
    assert (result.reply.refusal, result.arrays) == ("approval", {})


def test_leaving_ends_every_run_until_another_is_approved(strict, config, make_request):
    site = approved(strict, config)
    withdraw_all(site)
    assert answer(site, Kind.DESCRIBE, *make_request(0)).reply.refusal == "approval"
    approve(site, config, bind(site, site.inspect_ledger().history, config))
    assert answer(site, Kind.DESCRIBE, *make_request(0)).reply.refusal == ""


def edited(site: Site, **values: object) -> None:
    (line,) = site.approvals.read_text().splitlines()
    site.approvals.write_text(json.dumps(json.loads(line) | values) + "\n")


@pytest.mark.parametrize("values", [{"at": "2020-01-01T00:00:00+00:00"}, {"signature": "0" * 128}, {"run_id": "run-2"}])
def test_an_approval_that_was_edited_is_none(values, strict, config):
    site = approved(strict, config)
    edited(site, **values)
    other = config.model_copy(update={"run_id": values.get("run_id", config.run_id)})
    assert "not signed" in objection(site, other)


def test_an_approval_by_a_key_that_was_rotated_away_is_none(strict, config):
    site = approved(strict, config)
    rotation.rotate_key(site.root)
    assert "not signed" in objection(reopened(site), config)
    check_approval(approved(site, config), site.inspect_ledger().history, config)


def test_an_approval_given_for_another_ledger_is_none(strict, make_site, config):
    site = approved(strict, config)
    other = make_site("other", require_approval=True)
    history = other.inspect_ledger().history
    last = approval.last_about(read_decisions(site.approvals), config.run_id)
    assert last is not None
    history.keys["partner"] = site.inspect_ledger().history.keys["partner"]
    assert "the budget digest" in (approval.objection(site, history, last, config.run_id, config) or "")


def test_the_file_keeps_every_decision_and_is_open_to_nobody_else(strict, config):
    approved(strict, config)
    withdraw(strict, config.run_id)
    withdraw_all(strict)
    assert [decision.decision for decision in read_decisions(strict.approvals)] == ["approved", "withdrawn", "left"]
    assert strict.approvals.stat().st_mode & 0o077 == 0


def test_a_file_that_holds_anything_else_refuses_the_run(strict, config, make_request):
    strict.approvals.write_text('{"decision": "approved"}\n')
    with pytest.raises(ConfigError, match=r"approvals\.jsonl line 1"):
        check_approval(strict, strict.inspect_ledger().history, config)
    assert answer(strict, Kind.TRAIN, *make_request(1)).reply.refusal == "site"


def test_two_commands_do_not_write_at_once(strict, config):
    with approval._writing(strict.approvals), pytest.raises(LedgerError, match="other command"):
        withdraw(strict, config.run_id)
    assert not strict.approvals.exists()


def test_a_name_that_no_run_can_have_is_refused(strict):
    with pytest.raises(ConfigError, match="run_id"):
        withdraw(strict, "../run")


def test_the_refusal_is_a_policy_code(strict, config):
    with pytest.raises(PolicyRefusal) as caught:
        check_approval(strict, strict.inspect_ledger().history, config)
    assert caught.value.code == "approval"
    assert Path(strict.approvals).name == "approvals.jsonl"
