"""Random numbers that privacy rests on: ChaCha20 key streams turned into Gaussian noise and Poisson samples.

1. Without `seed` every call takes a fresh 256-bit key from the operating system and forgets it: nothing in the object,
   in a forked process or in a restored machine image can repeat or reveal noise.
2. With `seed` the same calls give the same numbers. For simulations only: who knows the seed can subtract the noise,
   and `source` says so in every ledger entry.

A normal number is Box-Muller in float64 on uniforms of 52 bits, so its tails end at 8.5 standard deviations
(probability 1e-17). Floating-point numbers are not the reals: the last bits of a float64 sum of value and noise can
betray the value (Mironov 2012; Jin et al. 2021, arXiv 2112.05307). So add the noise in float64 and release the sum
rounded to float32: a float32 stands for about 2^29 neighbouring float64 sums, a pair of normals has 2^104 preimages,
and what differs between two neighbouring data sets is below that rounding. `terms=1` is enough there, at a quarter of
the cost. To release float64 itself, use `terms=4`, the defence of Holohan and Braghin (2021, arXiv 2107.10138) and of
Opacus' secure mode. Neither is a proof; discrete noise would be one.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import Final, NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms
from numpy.typing import NDArray

from mmrec_model.errors import PrivacyError
from mmrec_model.privacy.events import require_sample_rate

SYSTEM_SOURCE: Final = "chacha20/os.urandom"
SEEDED_SOURCE: Final = "chacha20/seeded-simulation"

_SEED_CONTEXT: Final = b"mmrec/noise/v1\0"
_COUNTER_BYTES: Final = 8
_CHUNK: Final = 1 << 15
_MOST_NUMBERS: Final = 1 << 30
_MOST_TERMS: Final = 16  # of 2^30 numbers: 128 GiB of key stream, half of what the block counter of one key covers
_UNIFORM_BITS: Final = 52  # half a step more is still exact in float64; with 53 it would round to 1


class GaussianNoise:
    """A source of noise; not shared between threads where a seed is given.

    Args:
        seed: at least one byte, for reproducible simulations; None for the operating system's entropy.
        terms: independent normals in each number, divided by their square root: 1 for what is released rounded to
            float32, 4 for what is released as float64.

    Attributes:
        source: `SYSTEM_SOURCE` or `SEEDED_SOURCE`, to be recorded with every release.

    Raises:
        PrivacyError: `seed` is empty or not bytes, or `terms` is outside [1, 16].
    """

    def __init__(self, *, seed: bytes | None = None, terms: int = 1) -> None:
        if seed is not None and (not isinstance(seed, bytes) or not seed):
            raise PrivacyError("the noise seed must be bytes, and not empty", remedy="pass None outside simulations")
        if not 1 <= terms <= _MOST_TERMS:
            raise PrivacyError(
                f"terms is {terms!r}, it must be in [1, {_MOST_TERMS}]", remedy="use 1, or 4 for float64 releases"
            )
        self.source = SYSTEM_SOURCE if seed is None else SEEDED_SOURCE
        self.terms = terms
        self._seeded_key = None if seed is None else hashlib.sha256(_SEED_CONTEXT + seed).digest()
        self._calls = 0

    def __reduce__(self) -> NoReturn:
        raise PrivacyError("a noise source cannot be copied or stored", remedy="make a new one where it is needed")

    def draw(self, count: int, standard_deviation: float) -> NDArray[np.float64]:
        """Independent centred normal numbers.

        Args:
            count: how many, from 0 to 2^30.
            standard_deviation: of each, finite and above 0.

        Raises:
            PrivacyError: an argument is out of range.
        """
        _require_count("count", count)
        if not 0.0 < standard_deviation < math.inf:
            raise PrivacyError(
                f"standard_deviation is {standard_deviation!r}, it must be finite and above 0",
                remedy="add no noise at all where a release is recorded as NonPrivate",
            )
        stream = self._stream()
        normals = np.empty(count)
        scale = standard_deviation / math.sqrt(self.terms)
        for start in range(0, count, _CHUNK):
            chunk = normals[start : start + _CHUNK]
            _fill_normals(stream, chunk)
            for _ in range(self.terms - 1):
                chunk += _fill_normals(stream, np.empty_like(chunk))
            chunk *= scale
        return normals

    def poisson_sample(self, population: int, rate: float) -> NDArray[np.int64]:
        """Ascending indices of those who join, each of `population` independently with probability `rate`.

        Raises:
            PrivacyError: `population` is negative or above 2^30, or `rate` outside (0, 1].
        """
        _require_count("population", population)
        require_sample_rate(rate)
        return np.flatnonzero(_uniforms(self._stream(), population) < rate).astype(np.int64, copy=False)

    def integer(self) -> int:
        """A uniform number in [0, 2^63), to seed what need not be secret from the partner: batch order, negatives."""
        return int.from_bytes(_bytes(self._stream(), 8), "little") >> 1

    def _stream(self) -> CipherContext:
        """A key stream that no other call of this or any other source has."""
        if self._seeded_key is None:
            return _encryptor(os.urandom(32), 0)
        self._calls += 1
        return _encryptor(self._seeded_key, self._calls)


def _encryptor(key: bytes, call: int) -> CipherContext:
    nonce = bytes(_COUNTER_BYTES) + call.to_bytes(16 - _COUNTER_BYTES, "little")
    return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()


def _bytes(stream: CipherContext, size: int) -> bytes:
    return stream.update(bytes(size))


def _uniforms(stream: CipherContext, count: int) -> NDArray[np.float64]:
    """Multiples of 2^-52 shifted by half of it: never 0, never 1, exactly symmetric about one half."""
    bits = np.frombuffer(_bytes(stream, 8 * count), dtype="<u8") >> np.uint64(64 - _UNIFORM_BITS)
    uniforms = bits.astype(np.float64)
    uniforms += 0.5
    uniforms *= 2.0**-_UNIFORM_BITS
    return uniforms


def _fill_normals(stream: CipherContext, out: NDArray[np.float64]) -> NDArray[np.float64]:
    half = (len(out) + 1) // 2
    uniforms = _uniforms(stream, 2 * half)
    radius = np.sqrt(-2.0 * np.log(uniforms[:half]))
    angle = 2.0 * math.pi * uniforms[half:]
    np.multiply(radius, np.cos(angle), out=out[:half])
    np.multiply(radius[: len(out) - half], np.sin(angle[: len(out) - half]), out=out[half:])
    return out


def _require_count(name: str, value: int) -> None:
    if not 0 <= value <= _MOST_NUMBERS:
        raise PrivacyError(f"{name} is {value!r}, it must be in [0, {_MOST_NUMBERS}]", remedy="draw in several calls")
