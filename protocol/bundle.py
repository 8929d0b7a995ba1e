"""A bundle: one message and named arrays in one body, as a safetensors file.

Bulk state (a shard, a model) travels this way because the format is plain data with a checked
header: nothing in it can be executed. The message lies in the metadata under the key `message`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from psedge.protocol.calls import decoded
from psedge.protocol.errors import FrameError
from psedge.protocol.ports import Buffer

Array = NDArray[Any]
T = TypeVar("T")

_LENGTH = struct.Struct("<Q")

#: Most bytes that names, shapes and the message may take together.
HEADER_LIMIT_BYTES = 16 * 2**20


class _Header(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


def pack(message: msgspec.Struct, arrays: Mapping[str, Array]) -> bytes:
    """One body of `message` and `arrays`; shapes and dtypes are kept, any memory order is taken."""
    metadata = {"message": msgspec.json.encode(message).decode()}
    # safetensors reads the raw memory of an array, whatever its strides say.
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    packed: bytes = safetensors.numpy.save(whole, metadata=metadata)
    return packed


def unpack(data: Buffer, type_: type[T]) -> tuple[T, dict[str, Array]]:
    """The message and the arrays, each in memory of its own and writable.

    Raises FrameError, and nothing else, whatever the bytes are.
    """
    message = decoded(_message_json(data).encode(), type_, "bundle")
    try:
        arrays: dict[str, Array] = safetensors.numpy.load(bytes(data))
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise FrameError(f"bundle: {error}") from error
    return message, {
        name: array if array.flags.writeable else array.copy() for name, array in arrays.items()
    }


def _message_json(data: Buffer) -> str:
    if len(data) < _LENGTH.size:
        raise FrameError(f"bundle: {len(data)} bytes are too few")
    (length,) = _LENGTH.unpack_from(data)
    if length > min(len(data) - _LENGTH.size, HEADER_LIMIT_BYTES):
        raise FrameError(f"bundle: a header of {length} bytes is too long")
    header = decoded(memoryview(data)[_LENGTH.size : _LENGTH.size + length], _Header, "bundle")
    if "message" not in header.metadata:
        raise FrameError("bundle: it holds no message")
    return header.metadata["message"]
