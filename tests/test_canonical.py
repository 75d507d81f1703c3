"""One form per value, on every machine and for every kind of float that a value may come as."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.canonical import canonical_json


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_numpy_double_has_the_form_of_the_same_python_float(value: float) -> None:
    assert canonical_json({"x": np.float64(value)}) == canonical_json({"x": value})
    text = json.loads(canonical_json(value))
    assert isinstance(text, str)
    assert math.copysign(1.0, float(text)) == math.copysign(1.0, value)
    assert float(text) == value


@pytest.mark.parametrize("value", [np.float32(0.1), np.float16(1), np.int64(3), np.bool_(True), np.zeros(2), b"x", {1}])
def test_values_without_a_json_form_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"x": value})  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no canonical form"):
        canonical_json([value])


def test_keys_are_sorted_and_must_be_text() -> None:
    assert canonical_json({"b": 1, "a": (True, None, "ü")}) == '{"a":[true,null,"ü"],"b":1}'.encode()
    with pytest.raises(ValueError, match="keys"):
        canonical_json({1: 2})  # type: ignore[dict-item]
