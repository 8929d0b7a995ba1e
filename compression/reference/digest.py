"""The digest of kernels/digest.h: 64 bits that tell two vectors apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psedge.compression.reference.arrays import Floats, readable

Uint32Array = NDArray[np.uint32]

#: Elements at a time, so that temporaries stay in a cache.
_CHUNK = 16384


def hashed(values: Uint32Array) -> Uint32Array:
    """Wang's hash with Ellis's constants ("lowbias32"): a permutation of all 32-bit words."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x7FEB352D)
    values = (values ^ (values >> np.uint32(15))) * np.uint32(0x846CA68B)
    hashes: Uint32Array = values ^ (values >> np.uint32(16))
    return hashes


def digest(values: Floats) -> int:
    bits = readable(values, np.float32, len(values)).view(np.uint32)
    first, second = len(values), 0
    for start in range(0, len(bits), _CHUNK):
        chunk = bits[start : start + _CHUNK]
        position = np.arange(start, start + len(chunk), dtype=np.uint64).astype(np.uint32)
        hashes = hashed(chunk ^ (position * np.uint32(0x9E3779B9)))
        first += int(hashes.sum(dtype=np.uint64))
        again = (hashes ^ (hashes >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
        second += int(again.sum(dtype=np.uint64))
    both = (first % 2**32) << 32 | second % 2**32
    # 0 is how a frame says that it has no digest.
    return both or 1
