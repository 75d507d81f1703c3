"""Fingerprints are compared whole, whatever a person types between the digits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec_model.errors import UsageError
from mmrec_model.fingerprint import fingerprint_of, fits

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(DIGESTS, st.sampled_from(["-", ":", " ", "", "."]), st.booleans())
def test_a_fingerprint_fits_its_digest_however_it_is_typed(digest: str, separator: str, loud: bool) -> None:
    typed = fingerprint_of(digest).replace("-", separator)
    assert fits(typed.upper() if loud else typed, digest)


@given(DIGESTS, st.integers(0, 31), st.integers(1, 15))
def test_one_wrong_digit_does_not_fit(digest: str, place: int, change: int) -> None:
    plain = fingerprint_of(digest).replace("-", "")
    wrong = plain[:place] + f"{int(plain[place], 16) ^ change:x}" + plain[place + 1 :]
    assert not fits(wrong, digest)


@given(DIGESTS, st.integers(0, 31))
def test_a_prefix_is_no_fingerprint(digest: str, length: int) -> None:
    with pytest.raises(UsageError, match=f"{length} signs"):
        fits(digest[:length], digest)


@pytest.mark.parametrize("text", ["", "-", "z" * 32, "0" * 33, "\uff10" * 32])
def test_what_is_no_fingerprint_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        fits(text, "0" * 64)
