"""Bundles: arrays and message come back as they were, and no bytes break the reader."""

from __future__ import annotations

import json
import struct

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from psedge.protocol.bundle import pack, unpack
from psedge.protocol.errors import FrameError


class Note(msgspec.Struct, frozen=True):
    text: str
    number: int = 0


ARRAYS = {
    "parameters": np.arange(12, dtype=np.float32),
    "counters": np.array([1, 2, 255], np.uint8),
    "empty": np.zeros(0, np.float32),
    "scalar": np.array(2.5, np.float64),
    "flags": np.array([[True], [False]]),
    "steps": np.array([[1, -2]], np.int64),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(10, dtype=np.float32)[::2],
}


def test_message_and_arrays_survive():
    message, arrays = unpack(memoryview(pack(Note("grün", 3), ARRAYS)), Note)
    assert message == Note("grün", 3)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].shape == array.shape


def test_arrays_are_writable_and_apart_from_the_body():
    body = bytearray(pack(Note("x"), {"a": np.ones(3, np.float32)}))
    _, arrays = unpack(body, Note)
    body[-12:] = bytes(12)
    arrays["a"][0] = 5
    np.testing.assert_array_equal(arrays["a"], [5, 1, 1])


def test_no_arrays_is_fine():
    assert unpack(pack(Note("x"), {}), Note) == (Note("x"), {})


@given(st.binary(max_size=200))
def test_random_bytes_raise_frame_error_only(data):
    with pytest.raises(FrameError):
        unpack(data, Note)


@given(st.data())
def test_damaged_bundles_raise_frame_error_or_still_fit_the_type(data):
    body = bytearray(pack(Note("x"), {"a": np.ones(3, np.float32)}))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] = data.draw(st.integers(0, 255))
    try:
        message, _ = unpack(body, Note)
    except FrameError:
        return
    assert isinstance(message, Note)


def with_header(header: dict[str, object], rest: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + rest


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "too few"),
        (struct.pack("<Q", 2**63) + b"{}", "too long"),
        (with_header({}), "no message"),
        (with_header({"__metadata__": {"message": "{"}}), "not a valid Note"),
        (with_header({"__metadata__": {"message": '{"text": 5}'}}), "not a valid Note"),
        (with_header({"__metadata__": 3}), "bundle"),
        (
            with_header(
                {
                    "__metadata__": {"message": '{"text": "x"}'},
                    "a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
                }
            ),
            "bundle",
        ),
        (
            with_header(
                {
                    "__metadata__": {"message": '{"text": "x"}'},
                    "a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]},
                },
                b"12",
            ),
            "bundle",
        ),
        (safetensors.numpy.save({"a": np.ones(1, np.float32)}), "no message"),
        (pack(Note("x"), {"a": np.ones(3, np.float32)})[:-1], "bundle"),
    ],
)
def test_what_is_wrong_is_said(body, words):
    with pytest.raises(FrameError, match=words):
        unpack(body, Note)
