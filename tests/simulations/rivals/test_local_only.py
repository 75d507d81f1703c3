"""Staying alone: a partner's answers are a function of its own rows, and its users are answered by nobody else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from mmrec_model.evaluation import baselines
from simulations.assessment import Panel
from simulations.rivals.bpr_mf import BprMf
from simulations.rivals.interface import Federation, Visitors, federation_of, visitors_of
from simulations.rivals.item_similarity import Ease
from simulations.rivals.local_only import LocalOnly


def test_each_user_gets_what_the_own_partner_learned_from_its_rows(planted: Panel) -> None:
    asked = np.array([5, 0, 799, 4, 4])
    found = LocalOnly(Ease(7.0)).fit(federation_of(planted), seed=1).scorer(visitors_of(planted))(asked)
    for row, user in enumerate(asked):
        own = planted.train[np.flatnonzero(planted.train_partner_A == user % 2)]
        alone = baselines.EASE(7.0).fit(own).scores(planted.rows[[user]])
        assert np.allclose(found[row], alone[0], atol=1e-6)


def test_rows_of_another_partner_change_nothing(planted: Panel) -> None:
    federation, visitors = federation_of(planted), visitors_of(planted)
    rows = federation.train.tolil()
    rows[np.flatnonzero(federation.partner_A == 1)[:300]] = 0
    other = Federation(rows.tocsr(), federation.partner_A)
    mine = np.flatnonzero(visitors.partner_U == 0)
    rival = LocalOnly(BprMf(dims=4, epochs=1))
    before, after = (rival.fit(data, seed=1).scorer(visitors)(mine) for data in (federation, other))
    assert np.array_equal(before, after)
    theirs = np.flatnonzero(visitors.partner_U == 1)
    assert not np.array_equal(*(rival.fit(data, 1).scorer(visitors)(theirs) for data in (federation, other)))


def test_users_of_a_partner_without_rows_have_equal_scores(planted: Panel) -> None:
    visitors = Visitors(planted.rows[:2], np.array([0, 7]), np.array([0, -1]))
    found = LocalOnly(Ease(7.0)).fit(federation_of(planted), seed=1).scorer(visitors)(np.arange(2))
    assert np.ptp(found[0]) > 0.0
    assert np.ptp(found[1]) == 0.0


def test_trained_vectors_of_a_user_are_those_at_the_own_partner(planted: Panel) -> None:
    federation, visitors = federation_of(planted), visitors_of(planted)
    swapped = replace(visitors, rows=sparse.csr_matrix(visitors.rows.shape))
    found = LocalOnly(BprMf(dims=4, epochs=3)).fit(federation, seed=1).scorer(swapped)(np.array([6, 7]))
    for row, (user, partner) in enumerate([(6, 0), (7, 1)]):
        mine = np.flatnonzero(federation.partner_A == partner)
        alone = BprMf(dims=4, epochs=3).fit(Federation(federation.train[mine], federation.partner_A[mine]), seed=1)
        place = int(np.flatnonzero(mine == user)[0])
        visitor = Visitors(sparse.csr_matrix((1, 60)), np.array([partner]), np.array([place]))
        assert np.allclose(found[row], alone.scorer(visitor)(np.arange(1))[0], atol=1e-6)
