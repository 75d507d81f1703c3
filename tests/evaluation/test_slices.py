"""Groups of items and users: borders by counts alone, written out a second time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.evaluation.slices import BANDS, NOBODY, QUARTILES, TASTES, activity_quartile, popularity_band, taste

counts_of = st.lists(st.integers(0, 9), min_size=1, max_size=20).map(np.array)


@given(counts_of)
def test_bands_are_thirds_of_the_interactions_and_equals_share_a_band(counts: np.ndarray) -> None:
    band = popularity_band(counts)
    for count, found in zip(counts, band, strict=True):
        above = sum(int(other) for other in counts if other > count)
        wanted = "cold" if count == 0 else ("head", "mid", "tail")[min(2, 3 * above // max(1, int(counts.sum())))]
        assert BANDS[found] == wanted
    if counts.max() > 0:
        assert BANDS[band[counts.argmax()]] == "head"


@given(counts_of)
@settings(deadline=None)
def test_quartiles_grow_with_activity_and_empty_histories_are_in_none(lengths: np.ndarray) -> None:
    group = activity_quartile(lengths)
    assert ((group == NOBODY) == (lengths == 0)).all()
    assert group.max() < len(QUARTILES)
    known = lengths > 0
    order = np.argsort(lengths[known], kind="stable")
    assert (np.diff(group[known][order]) >= 0).all()
    for length in set(lengths[known].tolist()):
        assert len(set(group[lengths == length].tolist())) == 1


def test_eight_users_fall_into_four_quartiles_of_two() -> None:
    assert activity_quartile(np.arange(1, 9)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_taste_is_the_mean_popularity_of_the_history() -> None:
    counts = np.array([1, 10, 100])
    histories = [np.array([0]), np.array([0, 1]), np.array([2]), np.zeros(0, dtype=np.int64)]
    assert taste(histories, counts).tolist() == [TASTES.index("niche"), 1, TASTES.index("mainstream"), NOBODY]
