"""bfloat16: the upper half of a float32, 2 bytes a value, its range and 8 bits of significand."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from psedge.compression.bucketed import KernelCodec
from psedge.compression.codec import Bytes
from psedge.compression.float16 import largest_magnitude
from psedge.protocol.layout import Slice

_INFINITE = 0x7F80


class Bfloat16(KernelCodec):
    """Rounds to nearest even; a finite value past the largest becomes the largest."""

    id: ClassVar[int] = 2
    name: ClassVar[str] = "bfloat16"

    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool:
        self.check_size(payload, piece)
        largest = largest_magnitude(payload)
        value = np.array([largest << 16], np.uint32).view(np.float32)[0]
        return largest < _INFINITE and float(value) <= limit
