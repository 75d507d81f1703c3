"""DPALS: its statistics and solves written slowly, the joint sensitivity replayed, the noise and the price."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mmrec_model.errors import ConfigError
from mmrec_model.privacy.accounting import epsilon
from mmrec_model.privacy.noise import GaussianNoise
from simulations.rivals.dpals import Dpals, solve_items, solve_users, spread
from simulations.rivals.dpals_statistics import Bounds, Shares, contributions, positive, release, square, triangle
from simulations.rivals.interface import Federation

SHARES = st.builds(Shares, *(st.floats(0.01, 1.0),) * 3) | st.just(Shares(0.1, 0.0, 0.9))
USERS, ITEMS, DIMS, CAP = 9, 6, 3, 4


def made_up(seed: int, scale: float) -> tuple[npt.NDArray[np.float64], sparse.csr_matrix]:
    """Vectors, some of them long, and weights whose squares sum to at most `CAP`, for most users to `CAP`."""
    generator = np.random.default_rng(seed)
    rows = sparse.csr_matrix(generator.random((USERS, ITEMS)) < 0.6)
    return scale * generator.normal(size=(USERS, DIMS)), spread(rows, generator.random(ITEMS) + 0.1, CAP)


@given(st.integers(0, 99), st.sampled_from([0.1, 1.0, 1e6]), st.sampled_from([0.1, 1.0]), SHARES)
@settings(max_examples=40, deadline=None)
def test_no_user_moves_the_joint_statistics_by_more_than_one(
    seed: int, scale: float, radius: float, shares: Shares
) -> None:
    users, weights = made_up(seed, scale)
    whole = contributions(users, weights, Bounds(radius, CAP, shares))
    for user in range(USERS):
        others = np.arange(USERS) != user
        rest = contributions(users[others], weights[others], Bounds(radius, CAP, shares))
        moved = np.linalg.norm(whole - rest)
        assert moved <= 1.0 + 1e-9
        if scale == 1e6 and weights[user].nnz:
            assert moved == pytest.approx(1.0)


def test_without_noise_the_statistics_are_the_sums() -> None:
    users, weights = made_up(1, 1.0)
    found = release(users, weights, Bounds(0.7, CAP, Shares()), 0.0, GaussianNoise(seed=b"x"))
    clipped = [u * min(1.0, 0.7 / math.sqrt(u @ u)) for u in users]
    dense = weights.toarray()
    assert found.gram_DD == pytest.approx(sum(np.outer(u, u) for u in clipped))
    for item in range(ITEMS):
        outer = sum(dense[user, item] * np.outer(u, u) for user, u in enumerate(clipped))
        assert found.outer_NT is not None
        assert square(found.outer_NT[item], DIMS) == pytest.approx(outer)
        assert found.moment_ND[item] == pytest.approx(sum(dense[user, item] * u for user, u in enumerate(clipped)))


def test_noise_reaches_every_statistic_in_its_own_unit() -> None:
    shares, radius, noise_multiplier = Shares(0.2, 0.3, 0.5), 0.5, 2.0
    users, weights = np.zeros((1, 4)), sparse.csr_matrix((1, 3000))
    found = release(users, weights, Bounds(radius, CAP, shares), noise_multiplier, GaussianNoise(seed=b"x"))
    assert found.outer_NT is not None
    assert found.moment_ND.std() == pytest.approx(2.0 * radius * math.sqrt(CAP / 0.5), rel=0.03)
    assert found.outer_NT.std() == pytest.approx(2.0 * radius**2 * math.sqrt(CAP / 0.3), rel=0.03)
    assert found.gram_DD.any()
    assert np.linalg.eigvalsh(found.gram_DD).min() > -1e-9


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_triangles_keep_length_and_positive_parts_are_nearest(seed: int) -> None:
    raw = np.random.default_rng(seed).normal(size=(2, 4, 4))
    symmetric = raw + np.swapaxes(raw, 1, 2)
    assert np.linalg.norm(triangle(symmetric)) == pytest.approx(np.linalg.norm(symmetric))
    assert square(triangle(symmetric), 4) == pytest.approx(symmetric)
    near = positive(symmetric)
    assert np.linalg.eigvalsh(near).min() > -1e-9
    assert positive(near) == pytest.approx(near)
    assert (near - symmetric)[0] @ near[0] == pytest.approx(0.0, abs=1e-9)


def test_solves_are_the_minima_of_their_losses() -> None:
    generator = np.random.default_rng(3)
    items, rows = generator.normal(size=(ITEMS, DIMS)), generator.random((USERS, ITEMS)) < 0.5
    users = solve_users(sparse.csr_matrix(rows.astype(float)), items, 0.2, 0.7)
    for user in range(USERS):
        left = sum(np.outer(v, v) * (met + 0.2) for v, met in zip(items, rows[user], strict=True)) + 0.7 * np.eye(DIMS)
        right = sum(v * met for v, met in zip(items, rows[user], strict=True))
        assert users[user] == pytest.approx(np.linalg.solve(left, right))
    weights = sparse.csr_matrix(rows.astype(float))
    found = release(users, weights, Bounds(1e6, ITEMS, Shares()), 0.0, GaussianNoise(seed=b"x"))
    solved = solve_items(found, 0.2, 0.7)
    for item in range(ITEMS):
        left = sum(np.outer(u, u) * (met + 0.2) for u, met in zip(users, rows[:, item], strict=True))
        right = sum(u * met for u, met in zip(users, rows[:, item], strict=True))
        assert solved[item] == pytest.approx(np.linalg.solve(left + 0.7 * np.eye(DIMS), right))


@pytest.mark.parametrize("exponent", [0.0, -0.5])
@pytest.mark.parametrize("iterations", [1, 4])
def test_all_iterations_and_the_counts_cost_the_target_together(exponent: float, iterations: int) -> None:
    rival = Dpals(epsilon=2.0, iterations=iterations, exponent=exponent)
    events = rival.events(rival.noise_multiplier)
    assert len(events) == (2 if exponent else 1)
    assert 0.99 * 2.0 < epsilon(events, rival.delta) <= 2.0
    assert Dpals(iterations=iterations).noise_multiplier == 0.0


@pytest.mark.parametrize("allocation", ["sample", "weights"])
@pytest.mark.parametrize("exponent", [0.0, -1.0])
def test_bounded_weights_keep_the_cap_and_tails_get_more(allocation: str, exponent: float) -> None:
    if allocation == "sample" and exponent:
        with pytest.raises(ConfigError, match="allocation 'sample'"):
            Dpals(allocation="sample", exponent=exponent)
        return
    generator = np.random.default_rng(1)
    rows = sparse.csr_matrix(generator.random((300, 20)) < np.linspace(0.1, 0.9, 20))
    rival = Dpals(cap=CAP, allocation=allocation, exponent=exponent)  # type: ignore[arg-type]
    weights = rival._weights(Federation(rows, np.zeros(300, dtype=np.int64)), 0.0, GaussianNoise(seed=b"x"))
    squares = np.asarray(weights.multiply(weights).sum(axis=1)).ravel()
    assert squares.max() <= CAP + 1e-9
    assert not (weights.astype(bool) > rows).nnz
    dense = np.where(rows.toarray(), weights.toarray(), np.nan)
    if exponent:
        assert np.nanmean(dense[:, 0]) > 2 * np.nanmean(dense[:, -1])


def test_noise_at_every_partner_is_larger_by_the_root_of_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = release
    monkeypatch.setattr("simulations.rivals.dpals.release", lambda *given: (seen.append(given[3]), real(*given))[1])
    rows = sparse.csr_matrix(np.ones((9, 5)))
    rival = Dpals(dims=2, iterations=1, epsilon=1.0)
    for noise in ("central", "partners"):
        replace(rival, noise=noise).fit(Federation(rows, np.arange(9) % 3), seed=1)
    assert seen[1] == pytest.approx(seen[0] * math.sqrt(3))


def test_shares_and_exponents_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="shares"):
        Shares(0.0, 0.5, 0.5)
    with pytest.raises(ConfigError, match="exponent"):
        Dpals(exponent=0.5)
