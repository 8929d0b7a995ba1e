"""What the kernels ask of arrays, so that the NumPy versions refuse the same ones."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codes import (
    BFLOAT16,
    ECSQ,
    FLOAT16,
    FLOAT32,
    payload_bytes,
)

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint16]

_Scalar = TypeVar("_Scalar", bound=np.generic)

#: Halves and floats come without scales.
UNSCALED = (FLOAT32, FLOAT16, BFLOAT16)


def readable(array: NDArray[_Scalar], dtype: type[Any], elements: int) -> NDArray[_Scalar]:
    """The array itself. Raises TypeError for its kind, ValueError for its length or alignment."""
    fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == 1
    if not fits or not array.flags.c_contiguous:
        raise TypeError(f"not a contiguous vector of {np.dtype(dtype).name}")
    if len(array) != elements:
        raise ValueError("the arrays differ in length")
    if not array.flags.aligned:
        raise ValueError("an array is not aligned to its elements")
    return array


def writable(array: NDArray[_Scalar], dtype: type[Any], elements: int) -> NDArray[_Scalar]:
    """The same for an array that is changed."""
    readable(array, dtype, elements)
    if not array.flags.writeable:
        raise TypeError("an array that would be changed is read-only")
    return array


def check_payload(code: int, payload: Bytes, elements: int) -> None:
    """Raises ValueError unless the payload has exactly the size of so many values."""
    if not FLOAT32 <= code <= ECSQ:
        raise ValueError("there is no such code")
    if len(payload) != payload_bytes(code, elements):
        raise ValueError("the payload's size is not that of the values")


def check_encoder(code: int, step: float) -> None:
    """Raises ValueError unless values can be encoded in it."""
    if not FLOAT32 < code <= ECSQ:
        raise ValueError("there is no encoder of this code")
    if code == ECSQ and not 1 / 16 <= step <= 16:
        raise ValueError("the step is not within 1/16 and 16")
