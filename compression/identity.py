"""Identity: float32 as it is, 4 bytes a value. Best where the link outruns any codec."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from psedge.compression.codec import Float32Array
from psedge.protocol.errors import FrameError
from psedge.protocol.ports import Buffer


class Identity:
    """Loses nothing, so it only adds a residual left over by another codec and clears it."""

    id: ClassVar[int] = 0
    name: ClassVar[str] = "identity"

    def parameters(self) -> bytes:
        return bytes(8)

    def payload_bytes(self, elements: int) -> int:
        return 4 * elements

    def encode(self, values: Float32Array, residual: Float32Array | None) -> Buffer:
        if residual is None or not residual.any():
            return values.data.cast("B")
        total = values + residual
        residual.fill(0.0)
        return total.data.cast("B")

    def decode(self, payload: memoryview, out: Float32Array) -> None:
        np.copyto(out, self._view(payload, len(out)))

    def decode_accumulate(self, payload: memoryview, weight: float, out: Float32Array) -> None:
        values = self._view(payload, len(out))
        out += values if weight == 1.0 else values * np.float32(weight)

    def _view(self, payload: memoryview, elements: int) -> Float32Array:
        if len(payload) != self.payload_bytes(elements):
            raise FrameError(
                f"identity payload of {elements} values is {4 * elements} bytes, got {len(payload)}"
            )
        return np.frombuffer(payload, dtype="<f4")
