"""The codec contract: how a slice of float32 numbers becomes bytes and comes back.

A codec is stateless; what it drops goes into the caller's residual (error feedback, Seide et al.
2014, "1-Bit Stochastic Gradient Descent"), so that sum(decoded) + residual = sum(values) over any
number of encodings. Its id and eight bytes of parameters travel in the frame header; the payload is
opaque to everyone else. `table.py` lists the codecs; each is one file.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.ports import Buffer

Float32Array = NDArray[np.float32]


class Codec(Protocol):
    """Every array is one-dimensional, C-contiguous, little-endian float32 of `elements` values."""

    #: Travels in the frame header; never reused for another format.
    id: ClassVar[int]
    #: What a config calls it.
    name: ClassVar[str]

    def parameters(self) -> bytes:
        """Eight bytes that, with the id, make an equal codec at the other end."""
        ...

    def payload_bytes(self, elements: int) -> int:
        """Size of a payload, known before it is made or read."""
        ...

    def encode(self, values: Float32Array, residual: Float32Array | None) -> Buffer:
        """Encode `values` + `residual`, leaving in `residual` what the payload does not carry.

        values: not modified. residual: same length, updated in place; None drops the error.
        A non-finite value is carried or makes the payload non-finite; it never enters `residual`.
        The result may share memory with `values` and must be sent before they change.
        """
        ...

    def decode(self, payload: memoryview, out: Float32Array) -> None:
        """Write the decoded values to `out`.

        Raises FrameError if `payload` is not `payload_bytes(len(out))` bytes.
        """
        ...

    def decode_accumulate(self, payload: memoryview, weight: float, out: Float32Array) -> None:
        """Add `weight` times the decoded values to `out`. Raises FrameError as `decode` does."""
        ...
