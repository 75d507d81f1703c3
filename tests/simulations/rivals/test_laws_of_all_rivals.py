"""What holds for every rival: it finds what was planted, finds nothing in noise, and is a function of its seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmrec_model.errors import DataError
from mmrec_model.evaluation.ranking import chance_level, ranking_metrics, standard_errors
from mmrec_model.model.items import Items
from simulations.assessment import Panel
from simulations.rivals.bpr_mf import BprMf
from simulations.rivals.dpals import Dpals
from simulations.rivals.interface import UNKNOWN, Federation, Rival, federation_of, ranks_of, visitors_of
from simulations.rivals.item_similarity import Ease, ItemKnn
from simulations.rivals.lightgcn import LightGcn
from simulations.rivals.local_only import LocalOnly
from simulations.rivals.popularity import BoundedPopularity, Popularity
from simulations.rivals.vbpr import Vbpr

ALS = Dpals(dims=8, iterations=3, cap=6, user_l2=1.0, item_l2=1.0)
PERSONAL: list[Rival] = [
    Ease(10.0),
    ItemKnn(),
    LocalOnly(Ease(10.0)),
    LocalOnly(ItemKnn()),
    BprMf(dims=16, epochs=15, learning_rate=0.05),
    LightGcn(dims=16, epochs=15, learning_rate=0.05),
    Vbpr(dims=8, epochs=15, learning_rate=0.05),
    ALS,
    replace(ALS, allocation="sample", cap=4),
    replace(ALS, epsilon=30.0),
]
EVERY: list[Rival] = [*PERSONAL, Popularity(), BoundedPopularity(4), BoundedPopularity(4, epsilon=2.0)]


@pytest.mark.parametrize("rival", PERSONAL, ids=str)
def test_a_planted_taste_is_found(rival: Rival, planted: Panel, planted_items: Items) -> None:
    found = ranks_of(rival, planted, planted_items, seed=1)
    assert chance_level(found)["recall_at_10"] < 0.2
    assert ranking_metrics(found)["recall_at_10"] > 0.9


@pytest.mark.parametrize("rival", EVERY, ids=str)
def test_on_noise_every_rival_stands_at_chance(rival: Rival, noise: Panel, noise_items: Items) -> None:
    found = ranks_of(rival, noise, noise_items, seed=1)
    means, errors, chance = ranking_metrics(found), standard_errors(found), chance_level(found)
    for name in ("recall_at_10", "ndcg_at_10"):
        assert abs(means[name] - chance[name]) < 3 * errors[name], name


@pytest.mark.parametrize("rival", EVERY, ids=str)
def test_a_seed_gives_the_same_scores_again_and_unknown_users_are_answered(
    rival: Rival, planted: Panel, planted_items: Items
) -> None:
    federation, visitors = federation_of(planted, planted_items), visitors_of(planted)
    asked = np.arange(0, 800, 97)
    first, second = (rival.fit(federation, seed=5).scorer(visitors)(asked) for _ in range(2))
    assert first.shape == (len(asked), 60)
    assert np.array_equal(first, second)
    strangers = replace(visitors, train_rows_U=np.full(800, UNKNOWN))
    answer = rival.fit(federation, seed=5).scorer(strangers)(asked)
    assert np.isfinite(answer).all()


@pytest.mark.parametrize("rival", [BprMf(epochs=1), LightGcn(epochs=1), Vbpr(epochs=1), ALS, EVERY[-1]], ids=str)
def test_another_seed_gives_other_scores(rival: Rival, planted: Panel, planted_items: Items) -> None:
    federation, visitors = federation_of(planted, planted_items), visitors_of(planted)
    first, second = (rival.fit(federation, seed).scorer(visitors)(np.arange(3)) for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_every_user_needs_a_partner_and_every_item_a_row(planted: Panel, noise_items: Items) -> None:
    with pytest.raises(DataError, match="799 partners"):
        Federation(planted.train, planted.train_partner_A[:-1])
    with pytest.raises(DataError, match="80 described items"):
        federation_of(planted, noise_items)
    with pytest.raises(DataError, match="without item features"):
        Vbpr().fit(federation_of(planted), seed=1)
