"""`mmrec self-test` passes on the installed package and fails where a step breaks its bound or the replay is blind."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from client import cli, examination, plan_replay
from client.attestation import SelfTest
from client.made_up_plan import PlanShape
from client.neighbour_replay import SensitivityReport, Step
from client.plan_replay import FAMILIES
from client.sensitivity_cases import broken_cases, made_up_users, measure, real_cases, real_step
from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.noise import SYSTEM_SOURCE


def run(*words: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    cli.register_self_test(app)
    return CliRunner().invoke(app, ["self-test", *words], env={"COLUMNS": "200"})


def test_the_installed_package_passes_and_the_table_has_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    some = {name: FAMILIES[name] for name in ("a default plan", "local decision weights")}  # test_plan_replay has all
    monkeypatch.setattr(examination, "FAMILIES", some)
    done = run("--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["passed"]
    assert (said["random_numbers"], said["training_step"]) == ("passed", "passed")
    rows = {row["name"]: row for row in said["sensitivity"]}
    assert set(rows) == {case.name for case in (*real_cases(), *broken_cases())}
    assert sum(row["violates"] for row in rows.values()) == 13
    assert all(row["holds"] != row["violates"] for row in rows.values())
    assert rows["the real step, bookkeeping"]["measured"] == pytest.approx(1.0, rel=1e-3)
    assert rows["clip per layer, charged as flat"]["measured"] == pytest.approx(2**0.5, rel=1e-3)
    assert rows["a user with NaN, not dropped"]["measured"] is None
    assert rows["half of the noise"]["measured"] == pytest.approx(2.0, rel=1e-3)
    half_count = rows["adaptive: the count with half of its noise"]["measured"]
    z_delta = (1 - 1 / 1.8**2) ** -0.5
    assert half_count == pytest.approx((z_delta**-2 + 0.9**-2) ** 0.5, rel=1e-3)
    half_gradients = rows["adaptive: gradients with half of their noise beside the count"]["measured"]
    assert half_gradients == pytest.approx(((z_delta / 2) ** -2 + 1.8**-2) ** 0.5, rel=1e-3)
    assert rows["adaptive: the count over the realised batch"]["measured"] is None
    assert [row["name"] for row in said["families"]] == list(some)
    assert all(row["holds"] and row["expected"] and not row["violates"] for row in said["families"])
    assert said["left_out"] == {}


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """One real and one broken step, and an attestation that passed before."""
    passed = SelfTest("c" * 64, "passed", "passed", "d" * 64)
    monkeypatch.setattr(examination, "real_cases", lambda: [next(real_cases())])
    monkeypatch.setattr(examination, "broken_cases", lambda: (broken_cases()[0],))
    monkeypatch.setattr(examination, "FAMILIES", {"a default plan": PlanShape(modalities=("text",))})
    monkeypatch.setattr(
        examination,
        "run_self_test",
        lambda _code, source, _shape: replace(passed, rng="passed" if source == SYSTEM_SOURCE else "failed"),
    )


def test_the_table_for_a_person_names_what_was_caught(few_cases: None) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    assert "VIOLATED" in done.stdout
    assert "NOT AS EXPECTED" not in done.stdout


def test_a_real_step_that_breaks_its_bound_fails(few_cases: None, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(broken_cases()[0], name="the real step", least=None)
    monkeypatch.setattr(examination, "real_cases", lambda: [broken])
    done = run()
    assert isinstance(done.exception, PrivacyError)
    assert "NOT AS EXPECTED" in done.stdout


def test_a_violation_that_is_not_found_fails(few_cases: None, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = replace(broken_cases()[0], step=real_step)
    monkeypatch.setattr(examination, "broken_cases", lambda: (blind,))
    done = run("--json")
    assert isinstance(done.exception, PrivacyError)
    assert not json.loads(done.stdout)["passed"]


def test_a_package_whose_attestation_fails_fails(few_cases: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "run_self_test", lambda *_: SelfTest("c" * 64, "failed", "passed", None))
    assert isinstance(run().exception, PrivacyError)


def test_a_family_that_breaks_its_bound_or_is_refused_fails(few_cases: None, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = SensitivityReport(limit=1.0, measured=0.5, user=0, distances=(0.5,), users=(0,), repeatable=True)
    monkeypatch.setattr(examination, "replay_plan", lambda _shape: idle)
    done = run()
    assert isinstance(done.exception, PrivacyError)
    assert "NOT AS EXPECTED" in done.stdout

    def refuse(_shape: PlanShape) -> SensitivityReport:
        raise PrivacyError("no rule for this layer", remedy="Write one")

    monkeypatch.setattr(examination, "replay_plan", refuse)
    said = json.loads(run("--json").stdout)
    assert (said["passed"], said["families"][0]["measured"]) == (False, None)


def test_a_family_without_its_optional_package_is_named_as_not_tried(
    few_cases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_replay, "find_spec", lambda _name: None)
    monkeypatch.setattr(examination, "FAMILIES", {"scope lora": PlanShape(scope="lora")})
    done = run()
    assert done.exit_code == 0, done.output
    assert "peft is not installed: scope lora" in done.stdout


def test_a_case_is_as_expected_only_with_the_sensitivity_that_it_must_show() -> None:
    real, unclipped = next(real_cases()), broken_cases()[0]
    nan = next(case for case in broken_cases() if case.least is not None and math.isnan(case.least))
    assert measure(replace(unclipped, least=1e9)).expected is False
    assert measure(replace(unclipped, least=math.nan)).expected is False
    assert measure(replace(nan, least=0.5)).expected is False
    steps: list[int] = []

    def drifting() -> Step:
        def step(batch: object) -> list:
            steps.append(1)
            return [part + float(len(steps)) for part in real_step()(batch)]

        return step

    assert measure(replace(real, step=drifting, users=made_up_users)).expected is False
    assert measure(replace(real, step=drifting, least=0.1)).expected is False, "not repeatable is not caught"
