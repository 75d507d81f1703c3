"""The operator's commands: exit statuses, consent, one screen, and JSON for programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from client import cli as site_cli
from client.approval import read_decisions
from client.release import answer
from client.site import Site
from mmrec_model import cli
from mmrec_model.protocol import Kind


def call(*words: object, answer: str = "") -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    site_cli.register(app)
    return CliRunner().invoke(app, ["site", *map(str, words)], input=answer)


def status_of(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The exit status of the whole command."""
    monkeypatch.setattr(sys, "argv", ["mmrec", "site", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def plan(config, tmp_path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(config.model_dump_json())
    return path


@pytest.fixture
def site(make_site) -> Site:
    return make_site(require_approval=True, coordinator=None)


def test_a_check_ends_with_0_without_a_failure_1_with_one_and_2_for_a_wrong_call(site, monkeypatch, capsys):
    assert status_of(monkeypatch, "check", site.root, "--offline", "--port", 39094, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"]
    assert [check["number"] for check in said["checks"]] == list(range(1, 21))
    (site.root / "key.pem").chmod(0o644)
    assert status_of(monkeypatch, "check", site.root, "--offline", "--port", 39094) == 1
    printed = capsys.readouterr()
    assert "secrets" in printed.err
    assert "0644" in printed.out
    assert status_of(monkeypatch, "check") == 2


def test_a_run_is_approved_with_consent_alone(site, plan, make_request):
    refused = call("approve", site.root, plan, answer="n\n")
    assert refused.exit_code == 1
    assert not site.approvals.exists()
    assert call("approve", site.root, plan, answer="y\n").exit_code == 0
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == ""


def test_the_screen_of_an_approval_shows_what_it_binds_and_what_it_costs(site, plan, config):
    shown = call("approve", site.root, plan, "--yes").stdout
    (decision,) = read_decisions(site.approvals)
    assert decision.bound is not None
    bound = decision.bound
    for digest in (bound.plan, bound.code, bound.data, bound.policy, bound.budget):
        assert digest in shown
    assert len(shown.splitlines()) <= 24
    assert "noise_multiplier=1.5" in shown
    assert f"{config.training.rounds} rounds" in shown


def test_an_approval_that_the_policy_refuses_ends_with_1_and_writes_nothing(make_site, plan, monkeypatch):
    site = make_site(max_rounds=1)
    assert status_of(monkeypatch, "approve", site.root, plan, "--yes") == 1
    assert not site.approvals.exists()


def test_a_plan_that_cannot_be_read_is_a_wrong_call(site, tmp_path, monkeypatch):
    assert status_of(monkeypatch, "approve", site.root, tmp_path / "absent.json", "--yes") == 2


def test_withdrawing_takes_effect_with_the_next_message(site, plan, make_request):
    call("approve", site.root, plan, "--yes")
    assert call("withdraw", site.root, "run-1").exit_code == 0
    assert answer(site, Kind.TRAIN, *make_request(1)).reply.refusal == "approval"


def test_a_charged_dry_run_asks_first(site, plan):
    before = (site.root / "ledger.jsonl").read_bytes()
    assert call("dry-run", site.root, plan, answer="n\n").exit_code == 1
    assert (site.root / "ledger.jsonl").read_bytes() == before
    done = call("dry-run", site.root, plan, answer="y\n")
    assert done.exit_code == 0
    assert "no further price" in done.stdout


def test_a_free_dry_run_asks_nothing_and_says_what_its_digest_is_not(site, plan):
    done = call("dry-run", site.root, plan, "--round", 2, "--no-charge")
    assert done.exit_code == 0
    assert "of no later message" in done.stdout


@pytest.mark.parametrize("words", [("budget",), ("status",)])
def test_what_is_shown_has_a_form_for_programs(words, site, plan):
    call("approve", site.root, plan, "--yes")
    call("dry-run", site.root, plan, "--yes")
    assert json.loads(call(*words, site.root, "--json").stdout)
    assert "run-1" in call(*words, site.root).stdout


def test_a_dry_run_has_a_form_for_programs(site, plan):
    said = json.loads(call("dry-run", site.root, plan, "--yes", "--json").stdout)
    assert (said["release"], said["kept"], said["event"]["type"]) == ("popularity", True, "gaussian")


def test_leaving_asks_first(site, make_request):
    assert call("leave", site.root, answer="n\n").exit_code == 1
    assert not site.leaving_statement.exists()
    assert call("leave", site.root, "--yes").exit_code == 0
    assert site.leaving_statement.exists()
