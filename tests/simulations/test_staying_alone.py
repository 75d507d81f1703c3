"""Laws of staying alone: nothing crosses a partner's walls, and each partner takes what its own validation prefers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from mmrec_model.config import TrainingConfig
from mmrec_model.evaluation.baselines import EASE, scorer
from mmrec_model.evaluation.ranking import ranking_metrics
from mmrec_model.model.recommender import initial_state
from mmrec_model.protocol import PRIOR, Arrays
from simulations import federation, staying_alone
from simulations.panels import Panel, panel_of
from simulations.rivals.interface import unheard
from simulations.staying_alone import EASE_ALONE, FREE, AtHome, stay_alone
from simulations.workspace import Recipe

PARTNERS = 3


@pytest.fixture(scope="module")
def prepared(small_partner: Path, tmp_path_factory: pytest.TempPathFactory) -> federation.Prepared:
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(small_partner.parent / "vectors"))
        recipe = Recipe(
            small_partner, out, 8.0, 1e-3, 0, TrainingConfig(rounds=1), partners=PARTNERS, minimum_users=5, pairs=False
        )
        return federation.prepare(recipe, unheard, federation.Stopwatch())


@pytest.fixture(scope="module")
def state(prepared: federation.Prepared) -> Arrays:
    return {**initial_state(prepared.config), PRIOR: np.zeros(24, np.float32)}


@pytest.fixture(scope="module")
def panels(prepared: federation.Prepared) -> tuple[Panel, Panel]:
    datasets = [site.dataset for site in prepared.sites]
    return panel_of(datasets, "val"), panel_of(datasets, "test")


def alone(prepared: federation.Prepared, state: Arrays, validation: Panel, test: Panel) -> AtHome:
    return stay_alone(prepared.config, prepared.sites[0].items, validation, test, state)


def test_a_partner_takes_what_is_better_on_its_own_validation_items(
    prepared: federation.Prepared, state: Arrays, panels: tuple[Panel, Panel]
) -> None:
    found = alone(prepared, state, *panels)
    assert set(found.chosen) == set(range(PARTNERS))
    for number, values in found.validation.items():
        assert set(values) == {FREE, EASE_ALONE}
        assert values[found.chosen[number]] == max(values.values())
    assert found.left_out == {}


@pytest.mark.parametrize("number", range(PARTNERS))
def test_ease_alone_is_ease_of_the_partners_own_rows(
    number: int, prepared: federation.Prepared, state: Arrays, panels: tuple[Panel, Panel]
) -> None:
    validation, test = panels
    mine = validation.partner_U == number
    own = EASE().fit(validation.train[validation.train_partner_A == number])
    ranks = validation.rank(scorer(own, validation.rows)).take(mine)
    found = alone(prepared, state, validation, test)
    assert found.validation[number][EASE_ALONE] == ranking_metrics(ranks)["ndcg_at_10"]


def test_what_other_partners_hold_changes_nothing(
    prepared: federation.Prepared, state: Arrays, panels: tuple[Panel, Panel]
) -> None:
    before = alone(prepared, state, *panels)
    rng = np.random.default_rng(0)

    def changed(panel: Panel) -> Panel:
        others = panel.train_partner_A != 0
        train = panel.train.toarray()
        train[others] = rng.random(train[others].shape) < 0.3
        return replace(panel, train=sparse.csr_matrix(train))

    after = alone(prepared, {**state, PRIOR: np.ones(24, np.float32)}, changed(panels[0]), changed(panels[1]))
    mine = panels[1].partner_U == 0
    assert after.validation[0] == before.validation[0]
    assert after.chosen[0] == before.chosen[0]
    assert np.array_equal(after.test.rank_U[mine], before.test.rank_U[mine])
    assert not np.array_equal(after.test.rank_U, before.test.rank_U)


def test_a_partner_without_validation_items_takes_what_needs_no_pairs(
    prepared: federation.Prepared, state: Arrays, panels: tuple[Panel, Panel]
) -> None:
    validation, test = panels
    some = validation.take(np.flatnonzero(validation.partner_U != 1))
    found = alone(prepared, state, some, test)
    assert found.chosen[1] == FREE
    assert 1 not in found.validation


def test_a_large_catalogue_leaves_ease_out_and_says_so(
    prepared: federation.Prepared, state: Arrays, panels: tuple[Panel, Panel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staying_alone, "MAX_ITEMS", 23)
    found = alone(prepared, state, *panels)
    assert set(found.chosen.values()) == {FREE}
    assert "24 items" in found.left_out[EASE_ALONE]
