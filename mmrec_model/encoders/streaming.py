"""Many parts of media through one encoder without a pause: while the network works, the next files are decoded.

`encode_parts` is the one loop from decoded media to batches that all media encoders share; `parts_of` lets the feature
store drive any encoder, with or without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from mmrec_model.encoders.decoding import Decoder
from mmrec_model.encoders.interface import Encoder, Mask, Vectors

Part: TypeAlias = Sequence[str | Path]
Medium = TypeVar("Medium")


@runtime_checkable
class StreamingEncoder(Protocol):
    """An encoder that decodes ahead over several parts."""

    def encode_parts(self, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
        """What `encode` answers for every part, in order."""


def parts_of(encoder: Encoder, parts: Sequence[Part]) -> Iterator[tuple[Vectors, Mask]]:
    """Encode part by part, decoding ahead where the encoder can."""
    if isinstance(encoder, StreamingEncoder):
        return encoder.encode_parts(parts)
    return map(encoder.encode, parts)


def encode_parts(
    parts: Sequence[Part],
    decoder: Decoder[Medium],
    encode: Callable[[list[Medium]], Vectors],
    *,
    dim: int,
    batch_size: int,
) -> Iterator[tuple[Vectors, Mask]]:
    """Decode all parts in one stream and encode each in batches of what was readable.

    Args:
        parts: files, in parts.
        decoder: of these files.
        encode: one batch of decoded media to float32 [n, dim].
        dim: width of a vector.
        batch_size: media of a batch.
    """
    decoded = decoder.decode(Path(path) for part in parts for path in part)
    for part in parts:
        vectors = np.zeros((len(part), dim), dtype=np.float32)
        ok = np.zeros(len(part), dtype=bool)
        batch: list[Medium] = []
        rows: list[int] = []
        for row in range(len(part)):
            medium = next(decoded)
            if medium is not None:
                batch.append(medium)
                rows.append(row)
            if batch and (len(batch) == batch_size or row + 1 == len(part)):
                vectors[rows], ok[rows] = encode(batch), True
                batch, rows = [], []
        yield vectors, ok
