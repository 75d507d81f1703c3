"""One byte string per value: the form of everything that is hashed or signed.

Keys are sorted, there is no white space, text is UTF-8, and a float is written as the shortest decimal *string* that
reads back to the same number, because languages print JSON numbers differently. A float64 of numpy is a float and has
the form of the Python float of the same value; every other number of numpy is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | list[JsonValue] | tuple[JsonValue, ...] | dict[str, JsonValue] | None"
)


def canonical_json(value: JsonValue) -> bytes:
    """Encode `value`.

    Raises:
        ValueError: a float is not finite, or a key is not text.
        TypeError: a value has no JSON form, such as a float32 or a whole number of numpy.
    """
    plain = _plain(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_hex(content: bytes) -> str:
    """SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _plain(value: JsonValue) -> JsonValue:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical form")
        return float.__repr__(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise ValueError("keys must be text")
        return {key: _plain(item) for key, item in value.items()}
    return value
