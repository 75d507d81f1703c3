"""What travels is what arrives; what was forged is refused without allocating what it announces."""

from __future__ import annotations

import contextlib
import io
import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mmrec_model.errors import AdmissionError
from mmrec_model.protocol import ARRAYS, FIELDS, Request
from server.messages import pack, unpack_arrays, wire_size


def record_of(data: bytes, stype: str = "numpy.ndarray") -> ArrayRecord:
    return ArrayRecord({"w": Array(dtype="float32", shape=(2,), stype=stype, data=data)})


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


@given(arrays(np.float32, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)))
def test_every_float32_array_arrives_bit_for_bit(values: np.ndarray) -> None:
    content = pack(Request("run", 1, "{}"), {"w": values})
    assert set(content) == {FIELDS, ARRAYS}
    arrived = unpack_arrays(content.array_records[ARRAYS])["w"]
    assert arrived.tobytes() == values.tobytes()
    assert arrived.shape == np.ascontiguousarray(values).shape


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 4000000000)}", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -2)}", b"\0" * 8),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", b"\0" * 8),
        npy("__import__('os').getcwd()", b"\0" * 8),
        npy("{'descr': '<f4'", b"\0" * 8),
        npy("{'descr': '<f3', 'fortran_order': False, 'shape': (2,), }", b"\0" * 6),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 4000000000), }", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }", b"\0" * 8),
        npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }", b"\0" * 8),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\0" * 8),
        b"\x93NUMPY\x02\x00" + b"\0" * 40,
    ],
    ids=range(19),
)
def test_bytes_that_are_not_the_array_they_announce_are_refused_in_constant_memory(data: bytes) -> None:
    record = record_of(data)
    tracemalloc.start()
    with pytest.raises(AdmissionError) as error:
        unpack_arrays(record)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.value.reason == "protocol"
    assert peak < 1_000_000


@given(st.binary(max_size=200))
def test_random_bytes_end_in_a_refusal_and_nothing_else(data: bytes) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2, np.float32))
    for forged in (data, buffer.getvalue()[: len(data)] + data):
        with contextlib.suppress(AdmissionError):
            assert unpack_arrays(record_of(forged))["w"].nbytes <= len(forged)


def test_another_serialisation_is_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2, np.float32))
    with pytest.raises(AdmissionError):
        unpack_arrays(record_of(buffer.getvalue(), stype="pickle"))


def test_the_size_counts_every_byte_of_arrays_and_fields() -> None:
    small = pack(Request("run", 1, "{}"), {})
    large = pack(Request("run", 1, "{}" + " " * 100), {"w": np.zeros(1000, np.float32)})
    assert wire_size(large) - wire_size(small) == 100 + 4000 + 128
    assert wire_size(RecordDict()) == 0
