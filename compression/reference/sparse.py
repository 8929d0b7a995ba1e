"""The sparse kernels in NumPy: kernels/select.h, bins.h and sparse.h, bit for bit.

See those for the payload's layout and for what each step is for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psedge.compression import gaps
from psedge.compression.reference.arrays import readable, writable
from psedge.protocol.errors import FrameError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Positions = NDArray[np.uint32]

_BUCKET = 256
_GROUP = 256
#: Values at a time, whole buckets, so that what is computed from them stays in the cache.
_CHUNK = 64 * _BUCKET
_INFINITE = 0x7F00_0000
_TINY = 0x0D80_0000
_MAGNITUDE = np.int32(0x7FFF_FFFF)
#: Of sampling: values in a cache line, and the bits that a threshold may have.
_LINE = 16
_EXACT = np.int32(0x7FFF_F800)
_ROUNDER = np.float32(12582912.0)


def _magnitudes(values: Floats) -> NDArray[np.int32]:
    """Magnitudes as bits, which order as they do; NaN lies above infinity."""
    bits: NDArray[np.int32] = values.view(np.int32) & _MAGNITUDE
    return bits


def _check_pairs(indices: Positions, picked: Floats, elements: int) -> None:
    """Raises ValueError or TypeError for arrays that cannot take what is moved out."""
    if elements > 0xFFFF_FFFF:
        raise ValueError("a position has 32 bits")
    writable(indices, np.uint32, len(indices))
    writable(picked, np.float32, len(indices))


def sample_threshold(
    values: Floats,
    residual: Floats,
    velocity: Floats | None,
    momentum: float,
    density: float,
    first: int,
    stride: int,
) -> float:
    readable(residual, np.float32, len(values))
    if velocity is not None:
        readable(velocity, np.float32, len(values))
    if stride < 1 or first < 0:
        raise ValueError("a stride is not 0")
    if not 0.0 <= density <= 1.0:
        raise ValueError("a density is from 0 to 1")
    starts = np.arange(first * _LINE, len(values), stride * _LINE)
    places = (starts[:, None] + np.arange(_LINE)).reshape(-1)
    places = places[places < len(values)]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        moved = values[places]
        if velocity is not None:
            moved = velocity[places] * np.float32(momentum) + moved
        bits = _magnitudes(residual[places] + moved)
    bits[bits >= _INFINITE] = 0
    rank = len(bits) - 1 - int(density * len(bits))
    if rank < 0:
        return 0.0
    return float((np.partition(bits, rank)[rank : rank + 1] & _EXACT).view(np.float32)[0])


def select(
    values: Floats,
    residual: Floats,
    velocity: Floats | None,
    momentum: float,
    threshold: float,
    indices: Positions,
    picked: Floats,
) -> tuple[int, bool]:
    readable(values, np.float32, len(values))
    writable(residual, np.float32, len(values))
    if velocity is not None:
        writable(velocity, np.float32, len(values))
    _check_pairs(indices, picked, len(values))
    if not threshold >= 0.0:
        raise ValueError("a threshold is not negative")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        bound = int(_magnitudes(np.array([threshold], np.float32))[0])
        factor = np.float32(momentum)
        count, finite = 0, True
        for start in range(0, len(values), _CHUNK):
            part = slice(start, start + _CHUNK)
            moved = values[part]
            if velocity is not None:
                moved = velocity[part] * factor + moved
            sums = residual[part] + moved
            sizes = _magnitudes(sums)
            kept = _finite_elements(sizes)
            finite = finite and kept is None
            _put(residual[part], sums, kept)
            if velocity is not None:
                _put(velocity[part], moved, kept)
            flags = sizes > bound if kept is None else (sizes > bound) & kept
            count = _move(flags, sums, start, residual, velocity, indices, picked, count)
    return count, finite


def check_stops(stops: NDArray[np.int64], elements: int) -> None:
    """Raises ValueError unless these are where the tensors of so many elements end."""
    readable(stops, np.int64, len(stops))
    if bool((np.diff(stops, prepend=0) < 0).any()):
        raise ValueError("stops do not fall")
    if (int(stops[-1]) if len(stops) else 0) != elements:
        raise ValueError("the last stop is the number of elements")


def check_rising(indices: Positions, elements: int) -> None:
    """Raises ValueError unless positions rise and lie within so many elements."""
    if len(indices) > 1 and not (indices[1:] > indices[:-1]).all():
        raise ValueError("indices rise")
    if len(indices) and int(indices[-1]) >= elements:
        raise ValueError("an index is past the end")


def select_bins(
    values: Floats,
    residual: Floats,
    stops: NDArray[np.int64],
    totals: NDArray[np.float64],
    bins: NDArray[np.int64],
    indices: Positions,
    picked: Floats,
) -> tuple[int, bool]:
    readable(values, np.float32, len(values))
    writable(residual, np.float32, len(values))
    check_stops(stops, len(values))
    writable(totals, np.float64, len(stops))
    writable(bins, np.int64, len(stops))
    _check_pairs(indices, picked, len(values))
    count, finite = 0, True
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, len(values), _CHUNK):
            part = slice(start, start + _CHUNK)
            sums = residual[part] + values[part]
            kept = _finite_elements(_magnitudes(sums))
            finite = finite and kept is None
            _put(residual[part], sums, kept)
            flags = _bin_flags(sums, values[part], kept, start, stops, totals, bins)
            count = _move(flags, sums, start, residual, None, indices, picked, count)
    return count, finite


def _bin_flags(
    sums: Floats,
    values: Floats,
    kept: NDArray[np.bool_] | None,
    start: int,
    stops: NDArray[np.int64],
    totals: NDArray[np.float64],
    bins: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """What select_bins moves out of one chunk; adds the chunk's bins to `totals` and `bins`."""
    inner = stops[(stops > start) & (stops < start + len(sums))] - start
    starts = np.union1d(np.arange(0, len(sums), _BUCKET), inner)
    largest = np.maximum.reduceat(_magnitudes(sums), starts)
    counts = (largest >= _TINY) if kept is None else (largest >= _TINY) & kept[starts]
    tensors = np.searchsorted(stops, starts + start, side="right")[counts]
    np.add.at(totals, tensors, largest[counts].view(np.float32).astype(np.float64))
    np.add.at(bins, tensors, 1)
    lengths = np.diff(starts, append=len(sums))
    bounds = np.repeat(np.where(counts, largest, _MAGNITUDE), lengths)
    flags: NDArray[np.bool_] = _magnitudes(sums + values) >= bounds
    return flags if kept is None else flags & kept


def _finite_elements(sizes: NDArray[np.int32]) -> NDArray[np.bool_] | None:
    """Which elements lie in buckets without NaN and infinity; None for all of them."""
    large = np.maximum.reduceat(sizes, np.arange(0, len(sizes), _BUCKET)) >= _INFINITE
    if not large.any():
        return None
    return np.repeat(~large, _BUCKET)[: len(sizes)]


def _put(target: Floats, values: Floats, kept: NDArray[np.bool_] | None) -> None:
    np.copyto(target, values, where=True if kept is None else kept)


def _move(
    flags: NDArray[np.bool_],
    sums: Floats,
    start: int,
    residual: Floats,
    velocity: Floats | None,
    indices: Positions,
    picked: Floats,
    count: int,
) -> int:
    """Move flagged elements out while there is room; returns the new count."""
    places = np.flatnonzero(flags)[: len(indices) - count]
    stop = count + len(places)
    indices[count:stop] = places + start
    picked[count:stop] = sums[places]
    residual[places + start] = 0.0
    if velocity is not None:
        velocity[places + start] = 0.0
    return stop


def sparse_encode(
    indices: Positions, picked: Floats, residual: Floats | None, payload: Bytes
) -> int:
    count = len(indices)
    readable(indices, np.uint32, count)
    readable(picked, np.float32, count)
    if residual is not None:
        writable(residual, np.float32, len(residual))
    check_rising(indices, 1 << 32 if residual is None else len(residual))
    if len(payload) < 4 + 2 * _groups(count) + (1 + gaps.MOST_BYTES) * count:
        raise ValueError("the payload is too short")
    scales, levels, rest = _levels(picked)
    if residual is not None:
        residual[indices] += rest
    parts = (
        np.array([count], "<u4").view(np.uint8),
        scales.astype("<u2").view(np.uint8),
        levels.view(np.uint8),
        gaps.pack(gaps.gaps_of(indices)),
    )
    packed = np.concatenate(parts)
    payload[: len(packed)] = packed
    return len(packed)


def _levels(picked: Floats) -> tuple[NDArray[np.uint32], NDArray[np.int8], Floats]:
    """Scales, levels and what they do not carry."""
    count = len(picked)
    padded = np.zeros((_groups(count), _GROUP), np.float32)
    padded.reshape(-1)[:count] = picked
    largest = _magnitudes(padded).max(axis=1, initial=0)
    with np.errstate(all="ignore"):
        exact = (largest.view(np.float32) / np.float32(127)).view(np.uint32)
        sent = (largest >= _TINY) & (largest < _INFINITE)
        scales = np.where(sent, (exact + np.uint32(0xFFFF)) >> np.uint32(16), np.uint32(0))
        units = (scales << np.uint32(16)).view(np.float32)[:, None]
        levels = (padded * (np.float32(1) / units) + _ROUNDER) - _ROUNDER
        levels = np.where(sent[:, None], levels, np.float32(0))
        rest = np.where(sent[:, None], padded - levels * units, padded)
    rest[largest >= _INFINITE] = 0.0
    return scales, levels.astype(np.int8).reshape(-1)[:count], rest.reshape(-1)[:count]


def _groups(count: int) -> int:
    return -(-count // _GROUP)


def _parsed(payload: Bytes, elements: int) -> tuple[NDArray[np.int64], NDArray[np.uint16], Bytes]:
    """Positions, scales and levels. Raises FrameError for a malformed payload."""
    if len(payload) < 4:
        raise FrameError("malformed sparse payload")
    count = int.from_bytes(payload[:4].tobytes(), "little")
    levels_at = 4 + 2 * _groups(count)
    if count > elements or len(payload) < levels_at + 2 * count:
        raise FrameError("malformed sparse payload")
    numbers = gaps.unpack(payload[levels_at + count :], count)
    scales = np.frombuffer(payload[4:levels_at].tobytes(), "<u2")
    return gaps.positions_of(numbers, elements), scales, payload[levels_at : levels_at + count]


def sparse_check(payload: Bytes, elements: int) -> float:
    try:
        _, scales, _ = _parsed(payload, elements)
    except FrameError:
        return -1.0
    largest = largest_scale(scales)
    return -1.0 if largest < 0.0 else 128.0 * largest


def largest_scale(scales: NDArray[np.uint16]) -> float:
    """Infinite if a scale is no number, -1 if one is negative."""
    largest = int(scales.max(initial=0))
    if largest > 0x7FFF:
        return -1.0
    return float(widened(scales).max(initial=0.0)) if largest < 0x7F80 else float("inf")


def widened(scales: NDArray[np.uint16]) -> Floats:
    """The values whose upper halves scales are."""
    values: Floats = (scales.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


def sparse_accumulate(payload: Bytes, weight: float, out: Floats) -> None:
    writable(out, np.float32, len(out))
    try:
        positions, scales, levels = _parsed(payload, len(out))
    except FrameError as error:
        raise ValueError("malformed sparse payload") from error
    units = widened(scales)
    with np.errstate(all="ignore"):
        values = levels.view(np.int8).astype(np.float32)
        values *= np.repeat(units, _GROUP)[: len(values)]
        out[positions] += values * np.float32(weight)
