"""Both forms together are one vector of length one; what is taken apart again has the units it was made from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.collaboration.layout import join, part, released_numbers
from mmrec_model.config_ladder import CollaborationConfig
from mmrec_model.errors import ModelError


def unit(size: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=size)
    return rows / np.linalg.norm(rows) if size else rows


@given(st.integers(0, 4), st.integers(0, 4), st.floats(0.01, 0.99), st.integers(0, 99))
def test_one_user_has_length_one_and_every_form_comes_back_in_its_own_units(
    items: int, dims: int, share: float, seed: int
) -> None:
    asked = CollaborationConfig(items=items, dims=dims, feature_share=share)
    of_items, of_features = unit(items * (items + 1) // 2, seed), unit(dims * (dims + 1) // 2, seed + 1)
    whole = join(asked, of_items, of_features)
    assert whole.shape == (released_numbers(asked),)
    assert np.linalg.norm(whole) == pytest.approx(1.0 if asked.released else 0.0)
    one, two = part(asked, whole, 3.0)
    np.testing.assert_allclose(one.triangle, of_items, atol=1e-12)
    np.testing.assert_allclose(two.triangle, of_features, atol=1e-12)
    for form, own in ((one, 1.0 - asked.feature_part), (two, asked.feature_part)):
        if form.triangle.size:
            assert form.noise == pytest.approx(3.0 / own**0.5), "a smaller part has relatively more noise"


def test_a_release_of_another_size_is_refused() -> None:
    with pytest.raises(ModelError, match="2 items and 1 dim"):
        part(CollaborationConfig(items=2, dims=1), np.zeros(3), 1.0)
