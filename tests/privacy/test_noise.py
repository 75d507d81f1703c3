"""Noise has the claimed law (and a test that would notice 5 % less), never repeats, and cannot be stored."""

from __future__ import annotations

import copy
import math
import os
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray
from scipy import stats

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy import noise as noise_module
from mmrec_model.privacy.noise import SEEDED_SOURCE, SYSTEM_SOURCE, GaussianNoise

SIZE = 100_000
GOLDEN = [-0.36228985992896284, 0.3512077844014802, -0.22097524155160542]
GOLDEN_INTEGER = 8429173305185160886
LEVEL = 1e-6


def spread_is_plausible(numbers: NDArray[np.float64], claimed: float) -> bool:
    """Two-sided chi-square test of the standard deviation, mean zero known."""
    statistic = float(np.square(numbers / claimed).sum())
    tail = min(stats.chi2.cdf(statistic, len(numbers)), stats.chi2.sf(statistic, len(numbers)))
    return bool(2 * tail > LEVEL)


def shape_is_plausible(numbers: NDArray[np.float64], claimed: float) -> bool:
    """Kolmogorov-Smirnov test against the claimed normal law."""
    return bool(stats.kstest(numbers / claimed, "norm").pvalue > LEVEL)


@pytest.mark.parametrize("terms", [1, 4])
def test_noise_has_the_claimed_spread_and_shape(terms: int) -> None:
    numbers = GaussianNoise(seed=b"law", terms=terms).draw(SIZE, 1.7)
    assert spread_is_plausible(numbers, 1.7)
    assert shape_is_plausible(numbers, 1.7)
    assert abs(numbers.mean()) < 5 * 1.7 / math.sqrt(SIZE)


@pytest.mark.parametrize("factor", [0.95, 1.05, 0.5, 0.004])
def test_the_same_tests_reject_any_other_noise(factor: float) -> None:
    numbers = GaussianNoise(seed=b"law").draw(SIZE, 1.7 * factor)
    assert not spread_is_plausible(numbers, 1.7)
    assert not shape_is_plausible(numbers, 1.7)


def test_the_shape_test_rejects_a_law_of_the_same_spread() -> None:
    uniform = np.random.default_rng(0).uniform(-math.sqrt(3), math.sqrt(3), SIZE)
    assert spread_is_plausible(uniform, 1.0) or uniform.std() == pytest.approx(1.0, abs=0.01)
    assert not shape_is_plausible(uniform, 1.0)


def test_tails_are_as_heavy_as_they_must_be() -> None:
    numbers = np.abs(GaussianNoise(seed=b"tail").draw(1_000_000, 1.0))
    for deviations in (3.0, 4.0):
        expected = len(numbers) * 2 * stats.norm.sf(deviations)
        assert abs(int((numbers > deviations).sum()) - expected) < 5 * math.sqrt(expected)
    assert numbers.max() < 8.6


def test_numbers_within_and_between_draws_are_uncorrelated() -> None:
    source = GaussianNoise(seed=b"pairs")
    first, second = source.draw(SIZE, 1.0), source.draw(SIZE, 1.0)
    bound = 5 / math.sqrt(SIZE)
    assert abs(np.corrcoef(first, second)[0, 1]) < bound
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < bound
    half = noise_module._CHUNK // 2
    block = first[: 2 * half]
    assert abs(np.corrcoef(block[:half], block[half:])[0, 1]) < 5 / math.sqrt(half)
    assert abs(np.corrcoef(block[:half] ** 2, block[half:] ** 2)[0, 1]) < 5 / math.sqrt(half)


def test_uniforms_are_flat_and_never_reach_the_ends() -> None:
    uniforms = noise_module._uniforms(noise_module._encryptor(bytes(32), 1), SIZE)
    assert 0.0 < uniforms.min() < 1e-4
    assert 1.0 - 1e-4 < uniforms.max() < 1.0
    assert stats.chisquare(np.histogram(uniforms, 100, (0.0, 1.0))[0]).pvalue > LEVEL
    assert len(np.unique(uniforms)) == SIZE
    extremes = np.array([0, 2**64 - 1], dtype="<u8").tobytes()
    assert all(0.0 < uniform < 1.0 for uniform in noise_module._uniforms(_Fixed(extremes), 2))  # type: ignore[arg-type]


class _Fixed:
    """A key stream of chosen bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def update(self, zeros: bytes) -> bytes:
        return self._content[: len(zeros)]


def test_the_key_stream_is_chacha20_with_one_nonce_per_call() -> None:
    key = bytes(range(32))
    expected = Cipher(algorithms.ChaCha20(key, bytes(8) + (5).to_bytes(8, "little")), mode=None).encryptor()
    assert noise_module._bytes(noise_module._encryptor(key, 5), 100) == expected.update(bytes(100))
    streams = {noise_module._bytes(noise_module._encryptor(key, call), 64) for call in range(1000)}
    assert len(streams) == 1000


@pytest.mark.parametrize("seed", [None, b"repeat"])
def test_no_number_is_ever_drawn_twice(seed: bytes | None) -> None:
    source = GaussianNoise(seed=seed)
    numbers = np.concatenate([source.draw(10_000, 1.0) for _ in range(10)])
    assert len(np.unique(numbers)) == len(numbers)
    assert len({source.integer() for _ in range(1000)}) == 1000


def test_a_seed_repeats_and_is_labelled_and_its_absence_does_not() -> None:
    def everything(source: GaussianNoise) -> list[object]:
        return [source.draw(5, 1.0).tolist(), source.poisson_sample(50, 0.5).tolist(), source.integer()]

    assert everything(GaussianNoise(seed=b"a")) == everything(GaussianNoise(seed=b"a"))
    assert everything(GaussianNoise(seed=b"a")) != everything(GaussianNoise(seed=b"b"))
    assert everything(GaussianNoise()) != everything(GaussianNoise())
    assert GaussianNoise(seed=b"a").source == SEEDED_SOURCE == "chacha20/seeded-simulation"
    assert GaussianNoise().source == SYSTEM_SOURCE == "chacha20/os.urandom"


def test_seeded_numbers_are_the_same_on_every_machine() -> None:
    numbers = GaussianNoise(seed=b"golden").draw(3, 1.0)
    assert numbers.tolist() == pytest.approx(GOLDEN, rel=1e-12)
    assert GaussianNoise(seed=b"golden").integer() == GOLDEN_INTEGER


def test_an_unseeded_source_holds_nothing_that_could_repeat_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bytes] = []
    urandom = os.urandom

    def recorded(size: int) -> bytes:
        taken.append(urandom(size))
        return taken[-1]

    monkeypatch.setattr(os, "urandom", recorded)
    source = GaussianNoise()
    before = dict(vars(source))
    source.draw(10, 1.0)
    source.poisson_sample(10, 0.5)
    source.integer()
    assert len(set(taken)) == 3
    assert {len(key) for key in taken} == {32}
    assert vars(source) == before
    assert not any(key in repr(vars(source)).encode() for key in taken)


@pytest.mark.parametrize("store", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("seed", [None, b"x"])
def test_a_source_can_neither_be_copied_nor_stored(store: Callable[[object], object], seed: bytes | None) -> None:
    with pytest.raises(PrivacyError, match="cannot be copied"):
        store(GaussianNoise(seed=seed))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 32_767, 32_768, 32_769])
def test_every_count_is_served_in_full(count: int) -> None:
    numbers = GaussianNoise(seed=b"n").draw(count, 2.0)
    assert numbers.shape == (count,)
    assert numbers.dtype == np.float64
    assert np.isfinite(numbers).all()
    assert (numbers != 0.0).all()


def test_users_join_independently_at_the_claimed_rate() -> None:
    source, users, rate, steps = GaussianNoise(seed=b"poisson"), 500, 0.2, 400
    joins = np.zeros((steps, users))
    for step in range(steps):
        sample = source.poisson_sample(users, rate)
        assert (np.diff(sample) > 0).all()
        joins[step, sample] = 1.0
    trials = steps * users
    assert abs(joins.sum() - trials * rate) < 5 * math.sqrt(trials * rate * (1 - rate))
    assert abs(joins.sum() - trials * rate * 1.05) > 5 * math.sqrt(trials * rate * (1 - rate))
    sizes = joins.sum(axis=1)
    dispersion = float(np.square(sizes - users * rate).sum() / (users * rate * (1 - rate)))
    assert stats.chi2.ppf(LEVEL, steps) < dispersion < stats.chi2.isf(LEVEL, steps)
    assert abs(np.corrcoef(joins[:, 0], joins[:, 1])[0, 1]) < 5 / math.sqrt(steps)


def test_poisson_samples_have_their_edges() -> None:
    source = GaussianNoise(seed=b"edges")
    assert source.poisson_sample(0, 0.5).tolist() == []
    assert source.poisson_sample(4, 1.0).tolist() == [0, 1, 2, 3]
    assert source.poisson_sample(3, 1e-12).tolist() == []
    assert source.poisson_sample(3, 1.0).dtype == np.int64


def test_integers_fill_sixty_three_bits() -> None:
    source = GaussianNoise(seed=b"integers")
    drawn = [source.integer() for _ in range(2000)]
    assert min(drawn) >= 0
    assert 2**62 < max(drawn) < 2**63
    ones = sum(number.bit_count() for number in drawn)
    assert abs(ones - 2000 * 31.5) < 5 * math.sqrt(2000 * 63 / 4)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_standard_deviation_that_hides_nothing_is_refused(value: float) -> None:
    with pytest.raises(PrivacyError, match="standard_deviation is"):
        GaussianNoise().draw(1, value)


def test_other_invalid_arguments_are_refused() -> None:
    for rate in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(PrivacyError, match="sample_rate is"):
            GaussianNoise().poisson_sample(10, rate)
    with pytest.raises(PrivacyError, match="population is -1"):
        GaussianNoise().poisson_sample(-1, 0.5)
    with pytest.raises(PrivacyError, match="count is"):
        GaussianNoise().draw(2**40, 1.0)
    with pytest.raises(PrivacyError, match="terms is 0"):
        GaussianNoise(terms=0)
    for seed in (b"", "text", 7):
        with pytest.raises(PrivacyError, match="seed must be bytes"):
            GaussianNoise(seed=seed)  # type: ignore[arg-type]
