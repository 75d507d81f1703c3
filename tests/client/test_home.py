"""Own terms are learned from the partner's train items, weighed by its validation items, and kept at the site alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from client import cli
from client.home import MOST_USERS, learn_terms, make_home, weigh_terms
from mmrec_model.data.histories import Histories
from mmrec_model.errors import ModelError
from mmrec_model.evaluation.ranking import RankingTask, ranking_metrics, ranks
from mmrec_model.home_terms import FILE, HomeTerms
from mmrec_model.model.folder import save_model
from mmrec_model.model.recommender import initial_state
from mmrec_model.protocol import PRIOR

N = 12


def histories_of(rows: list[list[int]]) -> Histories:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return Histories(offsets.astype(np.int64), np.array([item for row in rows for item in row], np.int64))


def couples(users: int, seed: int = 0) -> list[list[int]]:
    """Items 2k and 2k + 1 stand together."""
    rng = np.random.default_rng(seed)
    return [[int(item) for one in rng.choice(N // 2, 2, replace=False) for item in (2 * one, 2 * one + 1)]
            for _ in range(users)]  # fmt: skip


def nothing(histories: list[np.ndarray]) -> np.ndarray:
    """A base that prefers nothing."""
    return np.random.default_rng(1).normal(size=(len(histories), N)).astype(np.float32)


def asked(rows: list[list[int]]) -> tuple[list[np.ndarray], RankingTask]:
    shown = [np.array(row[:-1], np.int64) for row in rows]
    return shown, RankingTask.from_histories(shown, np.array([row[-1] for row in rows]), n_items=N)


def test_own_pairs_are_found_and_weighed_in_where_the_validation_items_follow_them() -> None:
    terms = learn_terms(histories_of(couples(80)), {}, N)
    shown, task = asked(couples(60, seed=1))
    weighed = weigh_terms(terms, shown, task, nothing, nothing, seed=0)
    assert weighed.terms.pairs_weight > 0.0
    assert weighed.validation["home"] > weighed.validation["exported"] + 0.1


def test_the_chosen_figure_is_that_of_the_chosen_terms_and_never_below_the_exported_model() -> None:
    terms = learn_terms(histories_of(couples(30)), {}, N)
    shown, task = asked(couples(25, seed=2))
    weighed = weigh_terms(terms, shown, task, nothing, nothing, seed=3)
    score = weighed.terms.scorer(nothing, nothing)
    scores = score(shown)
    again = ranking_metrics(ranks(lambda users: scores[users], task, seed=3))["ndcg_at_10"]
    assert again == pytest.approx(weighed.validation["home"], abs=1e-6)
    assert weighed.validation["home"] >= weighed.validation["exported"]


def test_a_base_that_knows_better_stays_as_it_is() -> None:
    rows = couples(40, seed=4)
    shown, task = asked(rows)
    perfect = np.zeros((40, N), np.float32)
    perfect[np.arange(40), [row[-1] for row in rows]] = 100.0
    places = {id(history): place for place, history in enumerate(shown)}
    weighed = weigh_terms(
        learn_terms(histories_of(couples(40)), {}, N), shown, task,
        lambda histories: perfect[[places[id(history)] for history in histories]], nothing, seed=0,
    )  # fmt: skip
    assert (weighed.terms.pairs_weight, weighed.terms.prior_weight, weighed.terms.content_base) == (0.0, 0.0, False)


def test_without_validation_items_nothing_is_added_and_many_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = learn_terms(histories_of(couples(10)), {}, N)
    shown, task = asked(couples(8))
    empty = weigh_terms(terms, [], task.take(np.zeros(0, np.int64)), nothing, nothing, seed=0)
    assert (empty.terms.pairs_weight, empty.terms.prior_weight, dict(empty.validation)) == (0.0, 0.0, {})
    seen: list[int] = []
    monkeypatch.setattr("client.home.MOST_USERS", 3)
    weigh_terms(terms, shown, task, lambda rows: seen.append(len(rows)) or nothing(rows), nothing, seed=0)
    assert seen == [3]
    assert MOST_USERS > 3


def test_only_train_items_of_the_own_users_are_learned() -> None:
    terms = learn_terms(histories_of([[0, 1], [0, 1], [2, 3]]), {}, N)
    assert terms.prior_N.argmax() in {0, 1}
    assert len(np.unique(terms.prior_N[4:])) == 1
    assert terms.scorer_MM[0, 1] > terms.scorer_MM[0, 3]


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def export(site, ladder, tmp_path: Path):
    """Writes a model of the site's federation, or of another one."""

    def write(**features: str) -> Path:
        config = ladder.model_copy(
            update={
                "features": site.bundle.spec.model_copy(update=features),
                "collaboration": ladder.collaboration.model_copy(update={"items": 0, "noise_multiplier": 0.0}),
                "model": ladder.model.model_copy(update={"collaboration_weight": 0.0}),
            }
        )
        prior = np.linspace(-1.0, 1.0, config.features.items).astype(np.float32)
        save_model(tmp_path / "model", config, {**initial_state(config), PRIOR: prior}, card="# A model\n")
        return tmp_path / "model"

    return write


def test_the_command_keeps_the_terms_at_the_site_and_says_that_they_are_private(site, export) -> None:
    exported = export()
    app = typer.Typer()
    cli.register(app)
    found = CliRunner().invoke(app, ["site", "home", str(site.root), "--model", str(exported), "--json"])
    assert found.exit_code == 0, found.output + repr(found.exception)
    told = json.loads(found.stdout)
    assert Path(told["folder"]) == site.root / "home"
    assert (site.root / "home" / FILE).is_file()
    assert HomeTerms.read(site.root / "home", site.bundle.spec.items).pairs_weight == told["weights"]["pairs"]
    spoken = CliRunner().invoke(app, ["site", "home", str(site.root), "--model", str(exported)])
    assert "do not share them" in spoken.output


def test_a_model_of_other_features_is_refused(site, export) -> None:
    with pytest.raises(ModelError, match="the site has"):
        make_home(site, export(digest="0" * 64))
    assert not site.home.exists()
