"""The grid of modalities through its command, on a small partner folder: what it leaves, and that it goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from mmrec_model.config import MODALITIES
from simulations.cli import register
from simulations.scenarios import runner
from simulations.scenarios.grid_record import CellFile, Estimate, read_cell, read_grid
from simulations.scenarios.interface import Evidence
from simulations.scenarios.modality_findings import conclude, judge
from simulations.scenarios.modality_record import ModalityGrid
from simulations.synthetic.answer import KnownAnswer, planted_values

SETTINGS = ("--rounds", "1", "--delta", "1e-3", "--partners", "2", "--epsilon", "20")
FILTERS = ("--only", "fusion=weighted_sum,gated")
CELLS = 12
"""3 subsets of text and image, 2 fusions, 2 shares of hidden media."""


def simulate(data: Path, out: Path, *more: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(
        app, ["--scenario", "modalities", "--data", str(data), "--out", str(out), *SETTINGS, *more]
    )


@pytest.fixture(scope="module")
def grid(small_partner: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that was stopped after three cells, and then run to its end."""
    out = tmp_path_factory.mktemp("grid") / "out"
    started: list[str] = []
    run_cell = runner._run

    def stop_in_the_fourth(cell: runner.Cell, *rest: object) -> CellFile:
        if len(started) == 3:
            (out / "work" / "half").mkdir(parents=True)
            raise KeyboardInterrupt
        started.append(cell.name)
        return run_cell(cell, *rest)  # type: ignore[arg-type]

    def count(cell: runner.Cell, *rest: object) -> CellFile:
        started.append(cell.name)
        return run_cell(cell, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(small_partner.parent / "vectors"))
        patch.setattr(runner, "_run", stop_in_the_fourth)
        assert simulate(small_partner, out, *FILTERS).exit_code != 0
        kept = {path.name: path.read_bytes() for path in (out / "cells").iterdir()}
        assert len(kept) == 3
        assert not (out / "grid.json").exists()
        patch.setattr(runner, "_run", count)
        done = simulate(small_partner, out, *FILTERS)
        assert done.exit_code == 0, done.output
    assert len(started) == len(set(started)) == CELLS
    assert {name: (out / "cells" / name).read_bytes() for name in kept} == kept
    return out


@pytest.fixture(scope="module")
def record(grid: Path) -> ModalityGrid:
    return read_grid(grid, ModalityGrid)


def test_all_cells_are_there_and_the_work_is_gone(grid: Path, record: ModalityGrid) -> None:
    assert len(record.cells) == CELLS
    assert record.cells_in_grid == 3 * 8 * 2
    assert len({cell.plan_digest for cell in record.cells}) == CELLS
    assert len(set(record.bundles.values())) == 2
    assert not (grid / "work").exists()
    assert all(cell.replies == 2 and cell.epsilon is not None and cell.epsilon <= 20.0 for cell in record.cells)


def test_the_tables_numbers_are_those_of_the_cells(grid: Path, record: ModalityGrid) -> None:
    page = (grid / "report.html").read_text(encoding="utf-8")
    cells = {(c.axes["modalities"], c.axes["fusion"], c.axes["hidden"]): c for c in record.cells}
    assert len(record.findings.table) == CELLS
    for entry in record.findings.table:
        cell = cells["+".join(entry.modalities), entry.fusion, entry.hidden]
        assert entry.test.value == pytest.approx(cell.test.ndcg_at_10, abs=1e-12)
        assert entry.test.error == pytest.approx(cell.standard_errors.ndcg_at_10, abs=1e-12)
        assert entry.untrained == pytest.approx(cell.floors["free_content_with_prior"].ndcg_at_10, abs=1e-12)
        shown = rf"{entry.test.value:.4f}<span class=\"pm\">± {entry.test.error:.4f}"
        assert re.search(shown, page)
    for best in record.findings.best:
        rivals = [entry for entry in record.findings.table if entry.hidden == best.hidden]
        assert best.validation == max(entry.validation for entry in rivals)


def test_contributions_add_up_to_all_modalities_minus_chance(record: ModalityGrid) -> None:
    found = record.findings.contributions
    assert {(one.fusion, one.hidden) for one in found} == {
        (fusion, hidden) for fusion in ("weighted_sum", "gated", "mean") for hidden in ("0", "0.3")
    }
    for one in found:
        assert sum(value.value for value in one.values.values()) == pytest.approx(one.full - one.empty, abs=1e-12)
        assert one.empty == pytest.approx(record.chance.ndcg_at_10)


def test_cells_of_one_share_have_the_same_released_popularity(record: ModalityGrid) -> None:
    assert len({cell.floors["popularity_dp"].model_dump_json() for cell in record.cells}) == 1


def test_a_finished_cell_of_other_settings_is_refused(
    small_partner: Path, grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(small_partner.parent / "vectors"))
    before = (grid / "grid.json").read_bytes()
    for other in (("--seed", "1"), ("--epsilon", "10"), ("--partners", "3")):
        assert "other settings" in str(simulate(small_partner, grid, *FILTERS, *other).exception)
    assert (grid / "grid.json").read_bytes() == before


def test_what_would_do_nothing_is_refused(small_partner: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for option, value in (("--fusion", "gated"), ("--scope", "head"), ("--tower", "sequence")):
        assert option in simulate(small_partner, out, option, value).output
    assert "--rivals" in str(simulate(small_partner, out, "--rivals", "none").exception)
    assert "no cell" in str(simulate(small_partner, out, "--only", "fusion=magic").exception)
    assert "no scenario" in str(simulate(small_partner, out, "--scenario", "none").exception)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("mine")
    assert "holds no grid" in str(simulate(small_partner, tmp_path / "taken").exception)


def known(users: int = 300, items: int = 60) -> KnownAnswer:
    return KnownAnswer(users, items, 3, 0, {}, {}, {})


def test_the_truth_is_recovered_and_its_opposite_is_not() -> None:
    rng = np.random.default_rng(0)
    planted = judge({name: rng.normal(1.0, 0.1, 50) for name in MODALITIES}, known()).planted
    assert min(planted.values()) > 0
    noise = {name: rng.normal(0.0, 1e-4, 400) for name in MODALITIES}
    right = judge({name: planted[name] + noise[name] for name in MODALITIES}, known())
    wrong = judge({name: -planted[name] + noise[name] for name in MODALITIES}, known())
    assert right.recovered
    assert {pair.state for pair in right.pairs} <= {"recovered", "undecided"}
    assert not wrong.recovered
    assert set(wrong.signs.values()) == {"contradicted"}


def test_more_media_are_worth_more_in_truth_and_none_is_worth_chance() -> None:
    values = planted_values(known(), MODALITIES)
    assert len(values) == 16
    assert all(values[small] < values[large] + 0.02 for small in values for large in values if small < large)
    assert values[frozenset()] < min(value for chosen, value in values.items() if chosen)


def test_seeds_are_averaged_per_user_before_the_error(grid: Path, record: ModalityGrid) -> None:
    files = [read_cell(path) for path in sorted((grid / "cells").iterdir()) if path.name.endswith("seed-0.json")]
    twice = [*files, *files]
    once, both = (conclude(Evidence(cells, record.chance.ndcg_at_10)) for cells in (files, twice))
    assert [entry.test for entry in once.table] == [entry.test for entry in both.table]
    assert {entry.seeds for entry in both.table} == {2}
    assert isinstance(once.table[0].test, Estimate)
    assert json.loads((grid / "grid.json").read_text())["schema"] == 2


def test_the_commands_of_the_page_run(
    repository: Path, small_partner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(small_partner.parent / "vectors"))
    lines = re.findall(
        r"^mmrec simulate (--scenario modalities.*)$", (repository / "docs/scenarios.md").read_text(), re.MULTILINE
    )
    app = typer.Typer()
    register(app)
    counts = []
    for line, smaller in zip(lines, ("modalities=text", "fusion=attention", "fusion=decision"), strict=True):
        words = [str(tmp_path / word) if word.startswith("runs/") else word for word in line.split()]
        more = ("--data", str(small_partner), *SETTINGS, "--only", smaller, "--only", "modalities=text")
        assert CliRunner().invoke(app, [*words, *more]).exit_code == 0
        counts.append(len(read_grid(tmp_path / "runs/grid", ModalityGrid).cells))
    assert counts == [2, 3, 4]
