"""The grid of prices through its command, on a small text-only folder: what its figures mean, and that it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner, Result

from mmrec_model.data.dataset import open_partner
from mmrec_model.data.writing import write_partner
from simulations.cli import register
from simulations.panels import panel_of
from simulations.scenarios import rival_runs
from simulations.scenarios.cell_assessment import user_order
from simulations.scenarios.grid_record import CellFile, ColdRecord, Estimate, Traffic, read_cell, read_grid
from simulations.scenarios.rival_record import RivalFile
from simulations.scenarios.utility_figures import label
from simulations.scenarios.utility_findings import values_of
from simulations.scenarios.utility_goals import goals_of
from simulations.scenarios.utility_page import render_utility, words
from simulations.scenarios.utility_record import Cold, PairedTest, Rung, SystemEntry, UtilityGrid

USERS, ITEMS = 60, 56
SETTINGS = ("--delta", "1e-3", "--rivals", "ease,popularity,popularity_dp")
LOCAL = 3
FIRST = ("--only", "epsilon=inf", "--only", "items=all")
SECOND = ("--only", "epsilon=1", "--only", "noise=local")
CELLS = 4
"""Two without noise, and two with local noise: all items and cold ones."""


def simulate(data: Path, out: Path, *more: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["--scenario", "privacy-utility", "--data", str(data), "--out", str(out), *more])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who like one of four kinds of items; enough items for pairs, and words of their own on each."""
    folder = tmp_path_factory.mktemp("prices") / "shop"
    folder.mkdir()
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(200)])
    kinds = ("red", "white", "sparkling", "sweet")
    texts = [f"{kinds[item % 4]} {' '.join(rng.choice(words, 5))}" for item in range(ITEMS)]
    items = pa.table({"item_id": [f"i{item:02}" for item in range(ITEMS)], "title": texts, "text": texts})
    rows = [
        (f"u{user}", f"i{item:02}", 1_600_000_000 + place)
        for user in range(USERS)
        for place, item in enumerate(rng.choice(np.arange(user % 4, ITEMS, 4), size=7, replace=False))
    ]
    interactions = pa.table({n: [row[c] for row in rows] for c, n in enumerate(("user_id", "item_id", "timestamp"))})
    write_partner(folder, interactions=interactions, items=items)
    return folder


@pytest.fixture(scope="module")
def grid(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that is run in two parts, the second of which finds no rival again."""
    out = tmp_path_factory.mktemp("grid") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(shop.parent / "vectors"))
        done = simulate(shop, out, *SETTINGS, "--partners", str(LOCAL), *FIRST)
        assert done.exit_code == 0, done.output
        patch.setattr(rival_runs, "search", None)
        done = simulate(shop, out, "--delta", "1e-3", "--rivals", "none", "--partners", str(LOCAL), *SECOND)
        assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def record(grid: Path) -> UtilityGrid:
    return read_grid(grid, UtilityGrid)


@pytest.fixture(scope="module")
def cells(grid: Path) -> dict[tuple[str, str, str], CellFile]:
    files = [read_cell(path) for path in sorted((grid / "cells").iterdir())]
    return {(f.record.axes["epsilon"], f.record.axes["noise"], f.record.axes["items"]): f for f in files}


def test_both_parts_are_in_the_record_and_rivals_are_kept(grid: Path, record: UtilityGrid) -> None:
    assert len(record.cells) == CELLS
    assert record.cells_in_grid == 5 * 2 * 2
    assert record.partners == LOCAL
    assert record.epsilon is None
    assert record.delta == 1e-3
    assert {one.name for one in record.findings.rivals} == {"ease", "popularity", "popularity_dp"}
    assert len(record.findings.rivals) == 2 + 4 * 2
    assert not (grid / "work").exists()


def test_users_stand_side_by_side_whatever_the_partners(cells: dict[tuple[str, str, str], CellFile]) -> None:
    central, local = cells["inf", "central", "all"], cells["inf", "local", "all"]
    assert central.test_ranks["free_content"] == local.test_ranks["free_content"]
    assert len(set(central.test_ranks["free_content"])) > 5


def test_users_are_ordered_by_their_ids(shop: Path) -> None:
    data = open_partner(shop)
    panel = panel_of([data], "test")
    assert np.array_equal(user_order([data], panel), np.arange(USERS))
    turned = panel.take(np.arange(USERS)[::-1])
    assert np.array_equal(user_order([data], turned), np.arange(USERS)[::-1])


def test_what_was_exported_is_the_rung_of_the_gate(cells: dict[tuple[str, str, str], CellFile]) -> None:
    names = {"popularity": "popularity_dp", "content": "free_content", "free": "free_content_with_prior"}
    for file in cells.values():
        ladder = file.record.ladder
        assert ladder is not None
        assert file.test_ranks["exported"] == file.test_ranks[names.get(ladder.rung, ladder.rung)]
        if ladder.released:
            assert ladder.released[ladder.rung].value == max(one.value for one in ladder.released.values())
    free = cells["inf", "local", "all"].record.ladder
    assert free is not None
    assert free.pairs == ITEMS
    assert set(free.released) == {"popularity", "content", "free", "pairs", "collaboration"}


def test_partners_spend_what_the_cell_says_and_no_more(cells: dict[tuple[str, str, str], CellFile]) -> None:
    for (epsilon, _, _), file in cells.items():
        spent = file.record.ladder.spent if file.record.ladder else None
        assert (spent is None) == (epsilon == "inf")
        if spent is not None:
            assert 0.9 < spent <= float(epsilon)


def test_the_tables_numbers_are_those_of_the_cells(
    record: UtilityGrid, cells: dict[tuple[str, str, str], CellFile]
) -> None:
    exported = [one for one in record.findings.systems if one.kind == "exported"]
    assert len(exported) == 3
    for one in exported:
        cell = cells[str(one.epsilon), str(one.noise), "all"].record
        assert one.ndcg.value == pytest.approx(cell.test.ndcg_at_10, abs=1e-12)
        assert one.recall.value == pytest.approx(cell.test.recall_at_10, abs=1e-12)
        assert one.validation == pytest.approx(cell.validation.ndcg_at_10, abs=1e-12)
        assert one.train_items_alone is not None
        assert one.train_items_alone.value != one.ndcg.value


def test_tests_are_paired_and_adjusted(record: UtilityGrid, cells: dict[tuple[str, str, str], CellFile]) -> None:
    tests = {(one.epsilon, one.noise, one.other): one for one in record.findings.tests}
    assert len(tests) == 3 * 3 + 1, "three floors each, and the rival popularity where it has that price"
    assert any(test.p_holm > test.p for test in tests.values())
    for (epsilon, noise, other), test in tests.items():
        assert test.p <= test.p_holm
        if other == "free_content":
            ranks = cells[epsilon, noise, "all"].test_ranks
            own, free = (values_of(ranks[name], "ndcg_at_10") for name in ("exported", "free_content"))
            assert test.difference == pytest.approx(float((own - free).mean()))
            assert test.low <= test.difference <= test.high


def test_several_partners_are_also_measured_with_their_own_terms_and_one_alone_is_not(
    cells: dict[tuple[str, str, str], CellFile], record: UtilityGrid
) -> None:
    for (_, noise, _), cell in cells.items():
        assert ("at_home" in cell.record.ladder.test) is (noise == "local")
        assert ("at_home" in cell.test_ranks) is (noise == "local")
    home = [one for one in record.findings.systems if one.kind == "home"]
    assert home
    assert {one.noise for one in home} == {"local"}
    assert all(one.validation >= 0.0 for one in home)


def test_cold_items_are_items_that_no_partner_trained_on(cells: dict[tuple[str, str, str], CellFile]) -> None:
    ladder = cells["1", "local", "cold"].record.ladder
    assert ladder is not None
    assert set(ladder.cold) >= {"exported", "new_places", "free_content"}
    assert ladder.cold["new_places"].recall.value >= ladder.cold["exported"].recall.value
    assert "new_places" in ladder.test
    assert "new_places" not in cells["1", "local", "all"].record.ladder.test
    found = ladder.cold["free_content"]
    assert 10 <= found.users <= USERS
    assert found.chance == pytest.approx(10 / (ITEMS - 5), rel=0.1)
    for items, rung in (("all", cells["1", "local", "all"]), ("cold", cells["1", "local", "cold"])):
        assert rung.record.axes["items"] == items
    assert cells["1", "local", "cold"].inputs != cells["1", "local", "all"].inputs


def test_train_items_alone_change_the_input_and_not_the_candidates(shop: Path) -> None:
    data = open_partner(shop)
    usual, alone = panel_of([data], "test"), panel_of([data], "test", train_items_alone=True)
    assert [len(history) for history in alone.histories] == [len(history) - 1 for history in usual.histories]
    assert np.array_equal(usual.task.excluded.items, alone.task.excluded.items)
    assert alone.rows.sum() == usual.rows.sum() - USERS


def test_rivals_that_learn_by_gradients_stand_in_the_record_the_figure_and_the_page(
    shop: Path, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(grid, out)
    monkeypatch.setenv("MMREC_CACHE", str(shop.parent / "vectors"))
    names = ("bpr_mf", "lightgcn", "vbpr")
    more = ("--delta", "1e-3", "--partners", str(LOCAL), "--rivals", ",".join(names), *FIRST)
    done = simulate(shop, out, *more)
    assert done.exit_code == 0, done.output + repr(done.exception)
    record = read_grid(out, UtilityGrid)
    page = (out / "report.html").read_text(encoding="utf-8")
    figure = page[page.index("<svg") : page.index("</svg>")]
    for name in names:
        (entry,) = (one for one in record.findings.systems if one.system == name)
        (found,) = (one for one in record.findings.rivals if one.name == name)
        assert len(found.trials) == 8
        assert entry.validation == max(trial.ndcg_at_10 for trial in found.trials)
        assert entry.train_items_alone is not None
        assert entry.train_items_alone.value != entry.ndcg.value
        assert label(name) in figure
        assert page.count(label(name)) >= 3, "the figure, the table, and how it was found"
    assert "train items alone" in page


def test_more_seeds_test_a_rival_again_without_another_search(
    shop: Path, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(grid, out)
    monkeypatch.setenv("MMREC_CACHE", str(shop.parent / "vectors"))
    monkeypatch.setattr(rival_runs, "search", None)
    again = ("--only", "epsilon=inf", "--only", "seed=0", "--partners", str(LOCAL), "--seeds", "2", *SETTINGS)
    done = simulate(shop, out, *again)
    assert done.exit_code == 0, done.output
    noised = RivalFile.model_validate_json((out / "rivals" / "popularity_dp_epsilon-1_noise-local.json").read_bytes())
    assert set(noised.test_ranks) == {"0", "1"}
    assert noised.test_ranks["0"] != noised.test_ranks["1"]
    assert noised.train_items_alone is not None
    assert noised.record.seeds == [0, 1, 2]
    fixed = RivalFile.model_validate_json((out / "rivals" / "ease.json").read_bytes())
    assert set(fixed.test_ranks) == {"0"}
    assert fixed.train_items_alone != fixed.test_ranks["0"]
    (out / "rivals" / "ease.json").write_text(fixed.model_copy(update={"inputs": "0" * 64}).model_dump_json())
    assert "other settings" in str(simulate(shop, out, *again).exception)


def test_what_would_do_nothing_is_refused(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(shop.parent / "vectors"))
    out = tmp_path / "out"
    assert "--epsilon" in str(simulate(shop, out, "--epsilon", "3").exception)
    assert "--clipping" in str(simulate(shop, out, "--clipping", "adaptive").exception)
    assert "no cell" in str(simulate(shop, out, "--only", "epsilon=3").exception)
    app = typer.Typer()
    register(app)
    assert "--rivals" in CliRunner().invoke(app, ["--rivals", "none", "--out", str(out)]).output


def test_a_rival_that_does_not_exist_is_refused_before_any_cell_runs(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(shop.parent / "vectors"))
    found = simulate(shop, tmp_path / "out", "--rivals", "magic", *FIRST)
    assert "no rival 'magic'" in str(found.exception)
    assert not list((tmp_path / "out" / "cells").iterdir())


def entry(system: str, kind: str, epsilon: str | None, noise: str | None, value: float) -> SystemEntry:
    figure = Estimate(value=value, error=0.001)
    return SystemEntry.model_validate(
        {
            "system": system, "kind": kind, "epsilon": epsilon, "noise": noise, "seeds": 1, "validation": value,
            "ndcg": figure, "recall": figure, "train_items_alone": figure, "seed_error": 0.0,
        }
    )  # fmt: skip


def paired(difference: float, p_holm: float, epsilon: str = "8") -> PairedTest:
    return PairedTest(
        epsilon=epsilon, noise="local", other="x", difference=difference, low=0.0, high=0.0, p=p_holm, p_holm=p_holm
    )


def test_goals_are_shares_of_ease_and_times_chance() -> None:
    ease = entry("ease", "rival", None, None, 0.113)
    rung = Rung(
        epsilon="8", noise="local", exported={"pairs": 1}, pairs=3, metric="recall_at_20", released={}, spent=8.0,
        traffic={"pairs": Traffic(up=10**7, down=1), "round": Traffic(up=50_000, down=60_000)},
    )  # fmt: skip
    recall = Estimate(value=0.05, error=0.01)
    cold = Cold(
        epsilon="1", noise="local", held_out=True, rung="pairs",
        systems={"new_places": ColdRecord(users=9, recall=recall, chance=0.01)}, others={},
    )  # fmt: skip

    def met(
        *systems: SystemEntry, tests: tuple[PairedTest, ...] = (), colds: tuple[Cold, ...] = ()
    ) -> list[bool | None]:
        return [goal.met for goal in goals_of([ease, *systems], [rung], list(tests), list(colds))]

    exported = entry("exported", "exported", "8", "local", 0.0565)
    nothing = met()
    assert nothing == [None] * 12 + [False], "only the messages were measured, and one is too large"
    at_8 = met(entry("exported", "exported", "8", "local", 0.1131))
    assert at_8[2:4] == [True, True]
    (share, _) = (one for one in goals_of([ease, exported], [rung], [], []) if one.found and "EASE" in one.text)
    assert (share.found, share.wanted) == (pytest.approx(0.5), 1.0)
    assert met(entry("exported", "exported", "8", "local", 0.1129))[2:4] == [False, False]
    assert met(entry("exported", "exported", "4", "local", 0.1071))[4:6] == [True, True]
    assert met(entry("exported", "exported", "1", "local", 0.0949))[6:8] == [False, False]
    assert met(entry("exported", "exported", "inf", "local", 0.1244))[:2] == [True, True]
    assert met(tests=(paired(0.01, 0.01), paired(0.0, 0.3)))[8:10] == [None, False]
    assert met(tests=(paired(0.01, 0.01), paired(-0.001, 0.01)))[8:10] == [False, False]
    assert met(tests=(paired(0.01, 0.01),))[8:10] == [None, None], "one price is not every price"
    assert met(tests=tuple(paired(0.01, 0.01, one) for one in ("inf", "8", "4", "2", "1")))[8:10] == [True, True]
    assert met(colds=(cold,))[10:12] == [True, None]
    own = cold.model_copy(update={"systems": {"exported": cold.systems["new_places"]}})
    assert met(colds=(own,))[10:12] == [None, True]
    assert met(colds=(cold.model_copy(update={"held_out": False}),))[10] is None


def test_the_words_name_the_prices_at_which_staying_alone_is_better(record: UtilityGrid) -> None:
    systems = [
        entry("exported", "exported", "8", "local", 0.12),
        entry("exported", "exported", "1", "local", 0.09),
        entry("pairs", "rung", "8", "local", 0.12),
        entry("pairs", "rung", "1", "local", 0.094),
        entry("local_ease", "rival", None, None, 0.1),
    ]
    findings = record.findings.model_copy(update={"systems": systems, "cold": []})
    gate, alone = words(record.model_copy(update={"findings": findings}))
    assert "0.0040 at most (at ε 1, local noise), and by 0.0020" in gate
    assert "0.1000 with EASE alone" in alone
    assert alone.endswith("below that at ε 1 with local noise.")


def test_the_page_says_what_central_noise_is_and_shows_every_goal(grid: Path, record: UtilityGrid) -> None:
    page = (grid / "report.html").read_text(encoding="utf-8")
    assert render_utility(record) == page
    assert "secure aggregation" in page
    assert "does not have" in page
    for goal in record.findings.goals:
        assert goal.text.replace("<", "&lt;") in page
    assert "src=" not in page
    assert "http:" not in page.replace("http://www.w3.org", "")
