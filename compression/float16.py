"""float16: IEEE half precision, 2 bytes a value, 11 bits of significand."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from psedge.compression.bucketed import KernelCodec
from psedge.compression.codec import Bytes
from psedge.protocol.layout import Slice

_INFINITE = 0x7C00
_SIGN = 0x8000


class Float16(KernelCodec):
    """Rounds to nearest even; a finite value past the largest half becomes the largest half."""

    id: ClassVar[int] = 1
    name: ClassVar[str] = "float16"

    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool:
        self.check_size(payload, piece)
        largest = largest_magnitude(payload)
        value = np.array([largest], np.uint16).view(np.float16)[0]
        return largest < _INFINITE and float(value) <= limit


def largest_magnitude(payload: Bytes) -> int:
    """The largest of 16-bit floats, as bits without sign: NaN is larger than infinity."""
    if not len(payload):
        return 0
    # The largest as signed is positive, if there is a positive one; as unsigned, negative if so.
    largest = max(int(payload.view("<i2").max()), 0)
    extreme = int(payload.view("<u2").max())
    return max(largest, extreme - _SIGN)
