"""Arrays as bytes that anybody may have written: plain npy 1.0, read strictly, by both sides.

numpy's own reader evaluates the header's text, which raises errors of many kinds on hostile text and can be brought to
allocate what the bytes do not hold. Here the header must be exactly the one that numpy writes, in C order, and exactly
as many bytes as it announces must follow; nothing is ever unpickled, allocated or copied.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmrec_model.errors import ProtocolError

NPY: Final = "numpy.ndarray"
"""What Flower calls the serialisation."""
_MAGIC: Final = b"\x93NUMPY\x01\x00"
_HEADER: Final = re.compile(
    rb"\{'descr': '(?P<dtype>[<>|][biufc][0-9]{1,2})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:[0-9]{1,12}(?:, ?|(?=\)))){0,8})\), \} *\n"
)


def read_npy(name: str, stype: str, data: bytes) -> npt.NDArray[Any]:
    """Read one array; the result cannot be written to.

    Args:
        name: for the message.
        stype: how the sender says that it was serialised.
        data: the bytes.

    Raises:
        ProtocolError: another serialisation, another header than numpy's, an unknown dtype, or bytes that are not the
            array they announce.
    """
    start = len(_MAGIC) + 2 + int.from_bytes(data[len(_MAGIC) : len(_MAGIC) + 2], "little")
    header = _HEADER.fullmatch(data[len(_MAGIC) + 2 : start])
    if stype != NPY or not data.startswith(_MAGIC) or header is None:
        raise _malformed(f"array '{name[:80]}' is not a plain npy 1.0 array in C order")
    try:
        dtype = np.dtype(header["dtype"].decode())
    except TypeError as error:
        raise _malformed(f"array '{name[:80]}' has no known dtype") from error
    shape = tuple(int(side) for side in header["shape"].split(b",") if side.strip())
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise _malformed(f"array '{name[:80]}' announces {dtype} {shape} but holds {len(data) - start} bytes")
    return np.frombuffer(data, dtype=dtype, offset=start, count=math.prod(shape)).reshape(shape)


def _malformed(problem: str) -> ProtocolError:
    return ProtocolError(problem, remedy="Install the same minor version of mmrec on both sides")
