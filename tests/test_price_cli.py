"""`mmrec price`: the figures of a plan or a ledger, without an ML stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmrec_model import price_cli
from mmrec_model.errors import MmrecError
from mmrec_model.privacy import price_table
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import GaussianRelease, SampledGaussian, from_record

PLAN = ("price", "--rate", ".2", "--noise", "2", "--steps", "5")
GOLDEN = Path(__file__).parent / "golden" / "ledger" / "good.jsonl"


def run(*words: object, status: int = 0) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    price_cli.register(app)
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, MmrecError):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.stdout


def answer(*words: object) -> dict:
    return json.loads(run(*words, "--json"))


def test_a_plan_is_priced_at_every_delta_for_both_relations() -> None:
    said = answer(*PLAN, "--release", 9, "--delta", "1e-4", "--delta", "1e-6")
    assert [from_record(event) for event in said["events"]] == [GaussianRelease(9.0), SampledGaussian(0.2, 2.0, 5)]
    assert {(row["relation"], row["delta"]) for row in said["prices"]} == {
        (relation, delta) for relation in ("zero_out", "replace_one") for delta in (1e-4, 1e-6)
    }
    assert all(row["agrees"] for row in said["prices"])
    assert said["prices"][0]["epsilon"] == epsilon((GaussianRelease(9.0), SampledGaussian(0.2, 2.0, 5)), 1e-4)
    assert said["after_steps"][-1]["epsilon"] == pytest.approx(said["prices"][0]["epsilon"], abs=1e-6)


def test_the_table_for_a_person_has_the_same_figures() -> None:
    shown, said = run(*PLAN, "--delta", "1e-5"), answer(*PLAN, "--delta", "1e-5")
    for row in said["prices"]:
        assert f"{row['epsilon']:.4f}" in shown
        assert f"{row['replayed']:.4f}" in shown


def test_a_target_gives_the_noise_that_keeps_it() -> None:
    said = answer("price", "--rate", ".2", "--steps", 5, "--epsilon", 1, "--delta", "1e-5")
    assert 0.998 < said["prices"][0]["epsilon"] <= 1.0
    assert said["events"][0]["noise_multiplier"] > 1.0


def test_a_ledger_is_priced_by_what_it_spent_and_a_damaged_one_is_not() -> None:
    said = answer("price", "--ledger", GOLDEN, "--delta", "1e-5")
    records = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    charged = [item["body"] for item in records if item["type"] in {"reserve", "release"} and item["body"]["mechanism"]]
    events = [from_record(item["mechanism"]) for item in charged]
    assert said["prices"][0]["epsilon"] == pytest.approx(epsilon(events, 1e-5), abs=1e-9)


def test_a_ledger_that_was_edited_cut_or_is_none_is_refused(tmp_path: Path) -> None:
    whole, copy = GOLDEN.read_bytes(), tmp_path / "ledger.jsonl"
    for broken in (b"", b"{}\n", whole[:-5], whole.replace(b"1.1", b"1.2", 1), whole[200:]):
        copy.write_bytes(broken)
        with pytest.raises(MmrecError):
            run("price", "--ledger", copy)
    with pytest.raises(MmrecError):
        run("price", "--ledger", tmp_path / "nothing")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--rate", ".2"),
        ("--rate", ".2", "--steps", "5"),
        (*PLAN[1:], "--epsilon", "1"),
        (*PLAN[1:], "--ledger", "x"),
        ("--ledger", "x", "--release", "1"),
        ("--rate", "2", "--noise", "1", "--steps", "5"),
        ("--release", "0"),
        (*PLAN[1:], "--delta", "1"),
    ],
)
def test_numbers_that_make_no_plan_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(MmrecError):
        run("price", *words)


def test_the_command_fails_if_the_accountants_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_table, "replay_epsilon", lambda *_: 0.0)
    with pytest.raises(MmrecError, match="the other 0"):
        run(*PLAN)


def test_no_ml_stack_is_loaded_for_a_price(repository: Path) -> None:
    script = (
        "import sys, typer; from mmrec_model import price_cli\n"
        "app = typer.Typer(); app.callback()(lambda: None); price_cli.register(app)\n"
        f"app(['price', '--ledger', {str(GOLDEN)!r}, '--json'], standalone_mode=False)\n"
        "print('loaded:', [name for name in ('torch', 'flwr', 'opacus', 'pyarrow') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "loaded: []"
