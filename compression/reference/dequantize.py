"""Payloads to float32, as kernels/dequantize.h does it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codes import (
    BUCKET,
    CODE_BYTES,
    FLOAT16,
    FLOAT32,
    Q8,
    SIGN,
    TERNARY,
    buckets_of,
)
from psedge.compression.reference.arrays import (
    UNSCALED,
    Bytes,
    Floats,
    check_payload,
    readable,
    writable,
)
from psedge.compression.reference.half import from_bfloat, from_half

#: Buckets at a time, so that temporaries stay in a cache.
CHUNK_BUCKETS = 64

_TERNARY_LEVELS = np.array([0, 1, -1, 0], np.float32)


def decode(code: int, payload: Bytes, out: Floats) -> None:
    for start, values in decoded(code, payload, writable(out, np.float32, len(out))):
        out[start : start + len(values)] = values


def decode_accumulate(code: int, payload: Bytes, weight: float, out: Floats) -> None:
    factor = np.float32(weight)
    with np.errstate(all="ignore"):
        for start, values in decoded(code, payload, writable(out, np.float32, len(out))):
            part = out[start : start + len(values)]
            np.add(part, values * factor, out=part)


def decoded(code: int, payload: Bytes, out: Floats) -> Iterator[tuple[int, Floats]]:
    """Values in runs of whole buckets, each with the index of its first; `out` is as long."""
    elements = len(out)
    readable(payload, np.uint8, len(payload))
    check_payload(code, payload, elements)
    for first in range(0, buckets_of(elements), CHUNK_BUCKETS):
        start, stop = first * BUCKET, min((first + CHUNK_BUCKETS) * BUCKET, elements)
        if code in UNSCALED:
            yield start, _unscaled(code, payload, start, stop)
        else:
            last = min(first + CHUNK_BUCKETS, buckets_of(elements))
            values = _scaled(code, payload, buckets_of(elements), first, last)
            yield start, values.reshape(-1)[: stop - start]


def _unscaled(code: int, payload: Bytes, start: int, stop: int) -> Floats:
    width = 4 if code == FLOAT32 else 2
    part = payload[width * start : width * stop]
    if code == FLOAT32:
        return part.view(np.float32)
    words = part.view(np.uint16)
    with np.errstate(all="ignore"):
        return from_half(words) if code == FLOAT16 else from_bfloat(words)


def _scaled(code: int, payload: Bytes, buckets: int, first: int, last: int) -> Floats:
    """Values [last - first, BUCKET] of the buckets first..last."""
    scales = from_bfloat(payload[2 * first : 2 * last].view(np.uint16))[:, None]
    width = CODE_BYTES[code]
    start = 2 * buckets
    codes = payload[start + width * first : start + width * last].reshape(-1, width)
    if code == SIGN:
        planes = np.stack([(codes >> np.uint8(k)) & np.uint8(1) for k in range(8)], axis=1)
        signs = planes.reshape(-1, BUCKET).astype(np.uint32) << np.uint32(31)
        values: Floats = (scales.view(np.uint32) ^ signs).view(np.float32)
        return values
    with np.errstate(all="ignore"):
        return np.multiply(_levels(code, codes), scales)


def _levels(code: int, codes: NDArray[np.uint8]) -> Floats:
    levels: Floats
    if code == Q8:
        levels = codes.view(np.int8).astype(np.float32)
    elif code == TERNARY:
        planes = [(codes >> np.uint8(2 * k)) & np.uint8(3) for k in range(4)]
        levels = _TERNARY_LEVELS[np.concatenate(planes, axis=1)]
    else:
        nibbles = np.concatenate([codes & np.uint8(15), codes >> np.uint8(4)], axis=1)
        levels = nibbles.astype(np.float32) - np.float32(8)
    return levels
