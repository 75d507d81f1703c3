"""What the bounds cut is told to the partner, exactly and by activity, and to nobody else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client import making, training
from client.activity import GROUPS, PRIVATE, Cut, cut_items, latest, table
from client.cli import register
from client.release import answer
from mmrec_model.data.histories import Histories
from mmrec_model.protocol import Kind


def histories_of(lengths: list[int]) -> Histories:
    owners = np.repeat(np.arange(len(lengths)), lengths)
    items = np.concatenate([np.arange(length) for length in [0, *lengths]])
    return Histories.grouped(owners, items, len(lengths))


def test_groups_are_by_train_items_and_leave_out_users_without_any() -> None:
    lengths = [0, 1, 2, 3, 5, 6, 10, 11, 20, 21, 90]
    assert Cut.of(np.array(lengths), np.ones(11, bool)) == Cut((2, 2, 2, 2, 2), (2, 2, 2, 2, 2))
    assert cut_items(histories_of(lengths), 5) == Cut((2, 2, 2, 2, 2), (0, 0, 2, 2, 2))
    assert cut_items(histories_of(lengths), 10).shares == [0.0, 0.0, 0.0, 1.0, 1.0]


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 30))
def test_every_user_with_more_items_than_the_bound_is_counted_once(lengths: list[int], most: int) -> None:
    found = cut_items(histories_of(lengths), most)
    assert sum(found.users) == sum(length > 0 for length in lengths)
    assert sum(found.cut) == sum(length > most for length in lengths)
    assert all(cut <= users for cut, users in zip(found.cut, found.users, strict=True))


def test_of_pairs_only_the_selected_items_count() -> None:
    train = histories_of([4, 8, 3])
    selected = np.array([0, 1, 6, 7], np.float32)
    assert cut_items(train, 3, selected) == Cut((0, 2, 1, 0, 0), (0, 0, 1, 0, 0))
    assert cut_items(train, 4, selected).cut == (0, 0, 0, 0, 0)


def test_steps_add_up() -> None:
    one, two = Cut((1, 2, 3, 4, 0), (0, 1, 1, 2, 0)), Cut((1, 0, 0, 0, 0), (1, 0, 0, 0, 0))
    assert Cut.together([one, two]) == Cut((2, 2, 3, 4, 0), (1, 1, 1, 2, 0))
    assert Cut.together([one, two]).shares == [0.5, 0.5, pytest.approx(1 / 3), 0.5, None]


def test_the_last_cut_of_each_release_counts_and_other_lines_do_not() -> None:
    def line(kind: str, number: int, cut: int) -> dict[str, object]:
        figures = {"users": [5, 0, 0, 0, 0], "cut": [cut, 0, 0, 0, 0]}
        return {"run_id": "r", "round": number, "kind": kind, "cut": figures}

    found = latest(
        [line("train", 1, 1), {"kind": "train", "seconds": 2.0}, line("popularity", 0, 5), line("train", 2, 3)]
    )
    assert (found["train"]["round"], found["train"]["shares"][0]) == (2, 0.6)
    assert table(found) == [
        ("train items", "train, round 2", "popularity, round 0"),
        ("1-2", "60% of 5", "100% of 5"),
        *((group, "-", "-") for group in GROUPS[1:]),
    ]


def test_each_release_with_a_bound_tells_the_diary_whom_it_cut(make_site, make_request, make_ladder_request) -> None:
    site = make_site()
    for kind, asked in (
        (Kind.POPULARITY, make_ladder_request(Kind.PAIRS)[0]),
        (Kind.PAIRS, None),
        (Kind.SCORER, None),
        (Kind.TRAIN, None),
        (Kind.COMPARE, None),
    ):
        request, arrays = (asked, {}) if asked is not None else make_ladder_request(kind)
        assert answer(site, kind, request, arrays).reply.refusal == "", kind
    found = latest(site.noted())
    assert set(found) == {"popularity", "pairs", "train"}
    users = np.bincount(np.searchsorted((2, 5, 10, 20), np.diff(site.dataset.train.offsets)), minlength=5)
    assert found["popularity"]["users"] == found["pairs"]["users"] == tuple(users)
    assert found["popularity"]["cut"] == (0,) * 5, "nobody has 20 items"
    assert 0 < sum(found["train"]["users"]) < 2 * len(site.dataset.train)
    assert found["train"]["round"] == 1
    timed = [entry for entry in site.noted() if "seconds" in entry]
    assert len(timed) == 4


def test_the_cut_of_training_is_what_the_steps_found(make_site, make_request, config, monkeypatch) -> None:
    site, seen = make_site(), []
    tight = config.model_copy(update={"privacy": config.privacy.model_copy(update={"max_grad_norm": 0.05})})
    step = training.private_step

    def stepped(*values):
        facts = step(*values)
        seen.append(facts.local.norms_B.numpy())
        return facts

    monkeypatch.setattr(training, "private_step", stepped)
    assert answer(site, Kind.TRAIN, *make_request(1, plan=tight)).reply.refusal == ""
    cut = latest(site.noted())["train"]
    norms = np.concatenate(seen)
    assert sum(cut["users"]) == norms.size
    assert sum(cut["cut"]) == (norms > np.float32(0.05)).sum()
    assert sum(cut["cut"]) > 0


def test_a_reply_is_the_same_bytes_whatever_is_cut(make_site, make_request, monkeypatch) -> None:
    """The figures enter nothing that is sent: forged ones change no byte."""
    honest = answer(make_site("a"), Kind.POPULARITY, *make_request(0))
    site = make_site("b", seed=1)
    object.__setattr__(site.config, "name", "a")
    monkeypatch.setattr(making, "cut_items", lambda *_: Cut((9,) * 5, (9,) * 5))
    forged = answer(site, Kind.POPULARITY, *make_request(0))
    np.testing.assert_array_equal(honest.arrays["counts"], forged.arrays["counts"])
    assert latest(site.noted())["popularity"]["cut"] == (9,) * 5


def test_the_command_shows_the_last_cuts_and_says_that_they_are_private(make_site, make_request) -> None:
    site, app = make_site(), typer.Typer()
    register(app)
    empty = CliRunner().invoke(app, ["site", "activity", str(site.root)])
    assert (empty.exit_code, PRIVATE in empty.output, "No release" in empty.output) == (0, True, True)
    assert answer(site, Kind.POPULARITY, *make_request(0)).reply.refusal == ""
    shown = CliRunner().invoke(app, ["site", "activity", str(site.root)])
    assert shown.exit_code == 0
    assert "3-5" in shown.output
    assert "popularity, round 0" in shown.output
    assert PRIVATE in shown.output
    told = json.loads(CliRunner().invoke(app, ["site", "activity", str(site.root), "--json"]).output)
    assert told["note"] == PRIVATE
    assert told["releases"]["popularity"]["users"] == list(latest(site.noted())["popularity"]["users"])


def test_a_diary_line_that_a_crash_cut_short_is_left_out(make_site) -> None:
    site = make_site()
    site.note("r", 0, "popularity", {"seconds": 1.0})
    with (site.root / "diary.jsonl").open("a") as stream:
        stream.write('{"run_id": "r", "rou')
    assert [entry["seconds"] for entry in site.noted()] == [1.0]
