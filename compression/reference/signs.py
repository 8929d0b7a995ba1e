"""AdaComp's payloads in NumPy: kernels/signs.h, bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psedge.compression import gaps
from psedge.compression.reference.arrays import readable, writable
from psedge.compression.reference.sparse import (
    Bytes,
    Floats,
    Positions,
    check_rising,
    check_stops,
    largest_scale,
    widened,
)
from psedge.protocol.errors import FrameError

_ONE = np.uint64(1)


def signs_encode(
    indices: Positions,
    picked: Floats,
    stops: NDArray[np.int64],
    scales: NDArray[np.uint16],
    residual: Floats | None,
    payload: Bytes,
) -> int:
    elements = _elements(stops)
    readable(indices, np.uint32, len(indices))
    readable(picked, np.float32, len(indices))
    readable(scales, np.uint16, len(stops))
    if residual is not None:
        writable(residual, np.float32, elements)
    check_rising(indices, elements)
    if len(payload) < 4 + 2 * len(stops) + gaps.MOST_BYTES * len(indices):
        raise ValueError("the payload is too short")
    negative = np.signbit(picked)
    if residual is not None:
        with np.errstate(all="ignore"):
            residual[indices] += picked - _values(scales, stops, indices, negative)
    parts = (
        np.array([len(indices)], "<u4").view(np.uint8),
        scales.astype("<u2").view(np.uint8),
        gaps.pack(gaps.gaps_of(indices) << _ONE | negative),
    )
    packed = np.concatenate(parts)
    payload[: len(packed)] = packed
    return len(packed)


def signs_check(payload: Bytes, stops: NDArray[np.int64]) -> float:
    try:
        _parsed(payload, len(stops), _elements(stops))
    except FrameError:
        return -1.0
    return largest_scale(_scales(payload, len(stops)))


def signs_accumulate(payload: Bytes, stops: NDArray[np.int64], weight: float, out: Floats) -> None:
    check_stops(stops, len(out))
    writable(out, np.float32, len(out))
    try:
        positions, negative = _parsed(payload, len(stops), len(out))
    except FrameError as error:
        raise ValueError("malformed payload of signs") from error
    values = _values(_scales(payload, len(stops)), stops, positions, negative)
    with np.errstate(all="ignore"):
        out[positions] += values * np.float32(weight)


def _elements(stops: NDArray[np.int64]) -> int:
    elements = int(stops[-1]) if len(stops) else 0
    check_stops(stops, elements)
    return elements


def _scales(payload: Bytes, tensors: int) -> NDArray[np.uint16]:
    return np.frombuffer(payload[4 : 4 + 2 * tensors].tobytes(), "<u2")


def _parsed(
    payload: Bytes, tensors: int, elements: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where values go and which are negative. Raises FrameError for a malformed payload."""
    numbers_at = 4 + 2 * tensors
    count = int.from_bytes(payload[:4].tobytes(), "little")
    if len(payload) < numbers_at or count > elements:
        raise FrameError("malformed payload of signs")
    numbers = gaps.unpack(payload[numbers_at:], count)
    return gaps.positions_of(numbers >> _ONE, elements), (numbers & _ONE) != 0


def _values(
    scales: NDArray[np.uint16],
    stops: NDArray[np.int64],
    positions: NDArray[np.integer],
    negative: NDArray[np.bool_],
) -> Floats:
    """The value at each position: its tensor's scale, with its sign."""
    values = widened(scales)[np.searchsorted(stops, positions, side="right")]
    np.negative(values, out=values, where=negative)
    return values
