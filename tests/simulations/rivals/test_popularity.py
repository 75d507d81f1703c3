"""The bound of a user's counts, and the noise and the price of the one release."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.events import GaussianRelease
from simulations.rivals.interface import Federation
from simulations.rivals.popularity import BoundedPopularity, histories_of

CAP = 3


@pytest.fixture
def uneven() -> Federation:
    """40 users with 0 to 12 of 15 items, at 4 partners."""
    generator = np.random.default_rng(1)
    rows = np.zeros((40, 15))
    for user, length in enumerate(generator.integers(0, 13, size=40)):
        rows[user, generator.permutation(15)[:length]] = 1
    return Federation(sparse.csr_matrix(rows), np.arange(40) % 4)


def test_each_user_counts_for_at_most_cap_items_and_short_histories_are_whole(uneven: Federation) -> None:
    found = BoundedPopularity(CAP).fit(uneven, seed=1).scores_N
    lengths = np.asarray(uneven.train.sum(axis=1)).ravel()
    assert found.sum() == np.minimum(lengths, CAP).sum()
    assert (found <= np.asarray(uneven.train.sum(axis=0)).ravel()).all()
    whole = BoundedPopularity(12).fit(uneven, seed=1).scores_N
    assert whole.tolist() == np.asarray(uneven.train.sum(axis=0)).ravel().tolist()


def test_a_user_replaced_by_nothing_moves_the_counts_by_at_most_the_bound(uneven: Federation) -> None:
    whole = BoundedPopularity(CAP).fit(uneven, seed=1).scores_N
    moved = []
    for user in range(40):
        rows = uneven.train.tolil()
        rows[user] = 0
        rest = BoundedPopularity(CAP).fit(Federation(rows.tocsr(), uneven.partner_A), seed=1).scores_N
        moved.append(float(np.linalg.norm(whole - rest)))
    assert max(moved) == pytest.approx(math.sqrt(CAP))


@pytest.mark.parametrize("target", [8.0, 1.0])
def test_the_price_is_spent_and_not_exceeded(target: float) -> None:
    noise = BoundedPopularity(CAP, epsilon=target).noise_multiplier
    assert 0.99 * target < epsilon([GaussianRelease(noise)], 1e-5) <= target


def test_noise_has_the_deviation_of_the_release_and_more_where_every_partner_draws() -> None:
    nobody = Federation(sparse.csr_matrix((8, 20_000)), np.arange(8) % 4)
    central = BoundedPopularity(CAP, epsilon=1.0)
    expected = central.noise_multiplier * math.sqrt(CAP)
    assert central.fit(nobody, 1).scores_N.std() == pytest.approx(expected, rel=0.02)
    apart = replace(central, noise="partners").fit(nobody, 1).scores_N
    assert apart.std() == pytest.approx(2.0 * expected, rel=0.02)


def test_histories_keep_every_row(uneven: Federation) -> None:
    again = histories_of(uneven.train).matrix(15)
    assert (again != uneven.train).nnz == 0
