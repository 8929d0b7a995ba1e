"""float16: IEEE half precision, 2 bytes a value, 11 bits of significand."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codec import Float32Array
from psedge.compression.half_precision import from_half, to_half
from psedge.protocol.errors import FrameError
from psedge.protocol.ports import Buffer


class Float16:
    """Rounds to nearest even; a finite value past the largest half becomes the largest half.

    With a residual nothing is lost in the sum of many payloads.
    """

    id: ClassVar[int] = 1
    name: ClassVar[str] = "float16"

    def parameters(self) -> bytes:
        return bytes(8)

    def payload_bytes(self, elements: int) -> int:
        return 2 * elements

    def encode(self, values: Float32Array, residual: Float32Array | None) -> Buffer:
        payload = np.empty(len(values), np.uint16)
        if residual is None:
            to_half(values, payload)
        else:
            total = values + residual
            carried = residual if bool(np.isfinite(total).all()) else None
            to_half(total, payload, carried)
        return payload.data.cast("B")

    def decode(self, payload: memoryview, out: Float32Array) -> None:
        from_half(self._view(payload, len(out)), out)

    def decode_accumulate(self, payload: memoryview, weight: float, out: Float32Array) -> None:
        values = np.empty_like(out)
        from_half(self._view(payload, len(out)), values)
        if weight != 1.0:
            values *= np.float32(weight)
        out += values

    def _view(self, payload: memoryview, elements: int) -> NDArray[np.uint16]:
        if len(payload) != self.payload_bytes(elements):
            raise FrameError(
                f"float16 payload of {elements} values is {2 * elements} bytes, got {len(payload)}"
            )
        return np.frombuffer(payload, dtype="<u2")
