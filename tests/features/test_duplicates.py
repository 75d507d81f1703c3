"""Items that show the same are found once each, by the first earlier one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec_model.features import duplicates
from mmrec_model.features.duplicates import find_duplicates
from mmrec_model.features.transform import unit_rows


def test_equal_bytes_are_exact_and_nearly_equal_vectors_are_near(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "c", "d", "e")]
    for path, content in zip(files, (b"one", b"two", b"one", b"three", b"one"), strict=True):
        path.write_bytes(content)
    rows = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
    rows[2] = rows[4] = rows[0]
    rows[3] = rows[1] + 0.01
    found = find_duplicates([*files, None], rows, np.array([True] * 5 + [False]), 0.98)
    assert found.exact_N.tolist() == [-1, -1, 0, -1, 0, -1]
    assert found.near_N.tolist() == [-1, -1, -1, 1, -1, -1]


def test_items_without_a_vector_repeat_nothing() -> None:
    rows = np.ones((3, 4), dtype=np.float32)
    found = find_duplicates(["same"] * 3, rows, np.zeros(3, dtype=bool), 0.5)
    assert (found.exact_N == -1).all()
    assert (found.near_N == -1).all()


def test_a_common_direction_makes_no_duplicates() -> None:
    rows = (np.random.default_rng(0).normal(size=(50, 40)) + 30.0).astype(np.float32)
    unit = unit_rows(rows)
    assert (unit @ unit.T).min() > 0.98
    found = find_duplicates(list(map(str, range(50))), rows, np.ones(50, dtype=bool), 0.98)
    assert (found.near_N == -1).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), items=st.integers(1, 30), threshold=st.floats(0.3, 0.95))
def test_tiles_find_what_comparing_all_pairs_finds(seed: int, items: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(items, 3)).astype(np.float32)
    present = rng.random(items) < 0.8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_TILE", 7)
        found = find_duplicates(list(map(str, range(items))), rows, present, threshold).near_N
    unit = unit_rows(rows)
    centred = unit_rows(unit - unit[present].mean(axis=0)) if present.any() else unit
    for item in range(items):
        alike = [
            earlier
            for earlier in range(item)
            if present[item] and present[earlier] and centred[item] @ centred[earlier] >= threshold
        ]
        assert found[item] == (alike[0] if alike else -1)
