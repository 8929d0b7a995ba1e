"""Rising positions as the gaps between them, in LEB128: one byte for most, five at most.

A number takes 7 bits a byte, the lowest first; the top bit says that more follow. A number has
exactly one form: with a byte more than it needs it is malformed. kernels/sparse.h does the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psedge.protocol.errors import FrameError

Numbers = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

#: Longest form of a number.
MOST_BYTES = 5

_SEVEN = np.uint64(7)
_LOW = np.uint64(127)
_ONE = np.uint64(1)


def gaps_of(indices: NDArray[np.uint32]) -> Numbers:
    """How many positions are left out before each; `indices` rise."""
    gaps = indices.astype(np.uint64)
    gaps[1:] -= gaps[:-1].copy() + _ONE
    return gaps


def positions_of(gaps: Numbers, elements: int) -> NDArray[np.int64]:
    """Undo `gaps_of`. Raises FrameError for a position past `elements`."""
    # With no gap longer than all elements, the sum of all cannot wrap around.
    if not len(gaps) or int(gaps.max()) < elements:
        positions = np.cumsum(gaps + _ONE, dtype=np.uint64) - _ONE
        if not len(positions) or int(positions[-1]) < elements:
            found: NDArray[np.int64] = positions.astype(np.int64)
            return found
    raise FrameError(f"a position past the end of {elements} values")


def pack(numbers: Numbers) -> Bytes:
    """The bytes of all numbers, each below 2**35."""
    sizes = np.ones(len(numbers), np.int64)
    for place in range(1, MOST_BYTES):
        sizes += numbers >= np.uint64(1 << 7 * place)
    stops = np.cumsum(sizes)
    packed = np.empty(int(stops[-1]) if len(stops) else 0, np.uint8)
    starts = stops - sizes
    for place in range(MOST_BYTES):
        here = np.flatnonzero(sizes > place)
        if not len(here):
            break
        low = (numbers[here] >> (_SEVEN * np.uint64(place))) & _LOW
        more = (sizes[here] > place + 1).astype(np.uint8) << 7
        packed[starts[here] + place] = low.astype(np.uint8) | more
    return packed


def unpack(packed: Bytes, count: int) -> Numbers:
    """Exactly `count` numbers. Raises FrameError for bytes that are anything else."""
    lasts = np.flatnonzero(packed < 128)
    if len(lasts) != count or (count and int(lasts[-1]) != len(packed) - 1):
        raise FrameError(f"{len(lasts)} whole numbers in {len(packed)} bytes, not {count}")
    if not count:
        if len(packed):
            raise FrameError(f"{len(packed)} bytes for no numbers")
        return np.zeros(0, np.uint64)
    sizes = np.diff(lasts, prepend=-1)
    if int(sizes.max()) > MOST_BYTES or bool(((sizes > 1) & (packed[lasts] == 0)).any()):
        raise FrameError("a number has more bytes than it needs")
    starts = lasts - sizes + 1
    numbers = np.zeros(count, np.uint64)
    for place in range(int(sizes.max())):
        here = np.flatnonzero(sizes > place)
        low = packed[starts[here] + place].astype(np.uint64) & _LOW
        numbers[here] |= low << (_SEVEN * np.uint64(place))
    return numbers
