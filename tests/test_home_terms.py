"""A partner's own terms: the stated sum, kept and read unchanged, refused when damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.errors import ModelError
from mmrec_model.home_terms import FILE, HomeTerms

N = 7


def terms(seed: int = 0) -> HomeTerms:
    rng = np.random.default_rng(seed)
    selected = np.array([0, 2, 3, 6])
    return HomeTerms(rng.normal(size=N).astype(np.float32), selected, rng.normal(size=(4, 4)).astype(np.float32))


@given(st.lists(st.integers(0, N - 1), unique=True, max_size=N), st.integers(0, 9))
def test_the_pairs_term_is_the_weighted_sum_of_its_definition(history: list[int], seed: int) -> None:
    found = terms(seed)
    weights = [(1 + len(history) - 1 - place) ** -0.5 for place in range(len(history))]
    norm = sum(weight**2 for weight in weights) ** 0.5
    wanted = np.zeros(N)
    for weight, item in zip(weights, history, strict=True):
        if item in found.selected_M:
            row = found.selected_M.tolist().index(item)
            wanted[found.selected_M] += weight / norm * found.scorer_MM[row]
    np.testing.assert_allclose(found.pairs([np.array(history, np.int64)])[0], wanted, atol=1e-5)


def test_the_score_is_the_base_and_both_terms_with_their_weights() -> None:
    own, histories = terms(), [np.array([2, 5]), np.array([], np.int64)]
    exported, content = np.ones((2, N), np.float32), np.full((2, N), 3.0, np.float32)

    def scored(pairs: float, prior: float, *, content_base: bool) -> np.ndarray:
        weighed = own.weighing(pairs, prior, content_base=content_base)
        return weighed.scorer(lambda _: exported, lambda _: content)(histories)

    np.testing.assert_array_equal(scored(0.0, 0.0, content_base=False), exported)
    np.testing.assert_array_equal(scored(0.0, 0.0, content_base=True), content)
    both = scored(0.5, 2.0, content_base=False)
    np.testing.assert_allclose(both, 1.0 + 0.5 * own.pairs(histories) + 2.0 * own.prior_N, rtol=1e-5)


def test_what_is_kept_is_read_again_and_only_its_owner_may(tmp_path: Path) -> None:
    own = terms().weighing(0.25, 0.5, content_base=True)
    own.write(tmp_path / "home")
    assert stat.S_IMODE((tmp_path / "home" / FILE).stat().st_mode) == 0o600
    read = HomeTerms.read(tmp_path / "home", N)
    assert (read.pairs_weight, read.prior_weight, read.content_base) == (0.25, 0.5, True)
    for one, other in ((read.prior_N, own.prior_N), (read.selected_M, own.selected_M), (read.scorer_MM, own.scorer_MM)):
        np.testing.assert_array_equal(one, other)


def test_terms_that_are_absent_damaged_of_another_catalogue_or_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        HomeTerms.read(tmp_path, N)
    terms().write(tmp_path)
    with pytest.raises(ModelError, match="for 8 items"):
        HomeTerms.read(tmp_path, N + 1)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read"):
        HomeTerms.read(tmp_path, N)
    terms().weighing(float("nan"), 0.0, content_base=False).write(tmp_path)
    with pytest.raises(ModelError, match="not finite"):
        HomeTerms.read(tmp_path, N)
