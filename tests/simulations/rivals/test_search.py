"""One budget for all, the best on validation is chosen, and the record says everything that was tried."""

from __future__ import annotations

import json

import pytest

from mmrec_model.errors import DataError
from mmrec_model.evaluation import baselines
from mmrec_model.evaluation.ranking import ranking_metrics
from mmrec_model.model.items import Items
from simulations.assessment import Panel
from simulations.rivals.bpr_mf import BprMf
from simulations.rivals.grids import EPSILONS, grids, private_grids
from simulations.rivals.interface import ranks_of
from simulations.rivals.item_similarity import Ease, ItemKnn
from simulations.rivals.popularity import BoundedPopularity
from simulations.rivals.search import BUDGET, search


def test_the_best_on_validation_is_chosen_and_every_trial_is_recorded(planted: Panel) -> None:
    grid = [BprMf(16, epochs, learning_rate=0.05) for epochs in (0, 15, 1)]
    heard = []
    choice = search(grid, planted, None, seeds=[3], progress=lambda *told: heard.append(told))
    assert choice.rival == grid[1]
    figures = [trial.metrics["ndcg_at_10"] for trial in choice.record.trials]
    assert figures[1] == max(figures) > figures[0]
    again = ranking_metrics(ranks_of(grid[1], planted, None, seed=3))
    assert choice.record.trials[1].metrics == again
    assert ranking_metrics(choice.test(planted, None, seed=3)) == again
    assert heard[-1][1:3] == (3, 3)


def test_a_record_is_json_and_says_that_the_choice_was_not_private(planted: Panel) -> None:
    record = search([BoundedPopularity(2, epsilon=1.0)], planted, None, seeds=[3, 4]).record
    read = json.loads(json.dumps(record.as_json()))
    assert read["rival"] == "popularity_dp"
    assert read["selection"].startswith("not private")
    assert read["trials"][0]["settings"] == {"cap": 2, "epsilon": 1.0, "delta": 1e-5, "noise": "central"}
    assert read["chosen"] == 0
    assert read["seeds"] == [3, 4]
    apart = [
        ranking_metrics(ranks_of(BoundedPopularity(2, epsilon=1.0), planted, None, seed))["mrr"] for seed in (3, 4)
    ]
    assert apart[0] != apart[1]
    assert read["trials"][0]["metrics"]["mrr"] == pytest.approx(sum(apart) / 2)


def test_a_grid_over_the_budget_or_of_two_rivals_is_refused(planted: Panel) -> None:
    for grid in ([], [Ease()] * (BUDGET + 1), [Ease(), ItemKnn()]):
        with pytest.raises(DataError, match="allowed are 1 to 8 of one rival"):
            search(grid, planted, None, seeds=[1])
    with pytest.raises(DataError, match="0 seeds"):
        search([Ease()], planted, None, seeds=[])


def test_every_rival_has_the_whole_budget_of_different_configurations(planted_items: Items) -> None:
    declared = grids(1000, planted_items) | private_grids(EPSILONS[0])
    assert {"popularity", "ease", "item_knn", "bpr_mf", "lightgcn", "vbpr", "local_ease", "dpals"} <= set(declared)
    for name, grid in declared.items():
        assert {rival.name for rival in grid} == {name}
        assert len(set(grid)) == len(grid) == (1 if name == "popularity" else BUDGET)


def test_rivals_that_cannot_run_have_no_grid() -> None:
    large = grids(baselines.MAX_ITEMS + 1, None)
    assert not {"ease", "item_knn", "local_ease", "local_item_knn", "vbpr"} & set(large)
    assert {"bpr_mf", "lightgcn", "als"} <= set(large)
