"""float32 to payloads, as kernels/quantize.h does it: the same float32 operations, bucket by row.

The kernels' headers say why each step is as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codes import (
    BUCKET,
    CODE_BYTES,
    ECSQ,
    FLOAT16,
    Q4,
    Q8,
    SIGN,
    buckets_of,
)
from psedge.compression.reference.arrays import (
    UNSCALED,
    Bytes,
    Floats,
    Words,
    check_encoder,
    check_payload,
    readable,
    writable,
)
from psedge.compression.reference.dequantize import CHUNK_BUCKETS
from psedge.compression.reference.digest import hashed
from psedge.compression.reference.half import bfloat_up, from_bfloat, to_bfloat, to_half

_MAGIC = np.float32(12582912.0)
_MAGNITUDE = np.uint32(0x7FFF_FFFF)
_EXPONENT = np.uint32(0x7F80_0000)
#: As bits: magnitudes that count as infinite, and below which a bucket counts as zero.
TOO_LARGE = np.uint32(0x7F00_0000)
TOO_SMALL = np.uint32(0x0D80_0000)
_LANES = 32


@dataclass(frozen=True)
class _Rounding:
    stochastic: bool
    seed: int
    block: int
    step: float


def encode(
    code: int,
    values: Floats,
    residual: Floats | None,
    payload: Bytes,
    stochastic: bool,
    seed: int,
    block: int,
    step: float,
) -> bool:
    if not (0 <= seed < 2**32 and 0 <= block < 2**32):
        raise TypeError("seed and block are 32-bit numbers")
    if residual is not None:
        writable(residual, np.float32, len(values))
    rounding = _Rounding(stochastic and code in (Q8, Q4, ECSQ), seed, block, step)
    return _encode(code, values, residual, payload, "keep", rounding)


def encode_delta(code: int, target: Floats, published: Floats, payload: Bytes, step: float) -> bool:
    writable(published, np.float32, len(target))
    return _encode(code, target, published, payload, "publish", _Rounding(False, 0, 0, step))


def _encode(
    code: int,
    values: Floats,
    left: Floats | None,
    payload: Bytes,
    rest: Literal["keep", "publish"],
    rounding: _Rounding,
) -> bool:
    elements = len(values)
    readable(values, np.float32, elements)
    check_encoder(code, rounding.step)
    writable(payload, np.uint8, len(payload))
    check_payload(code, payload, elements)
    every = True
    with np.errstate(all="ignore"):
        for first in range(0, buckets_of(elements), CHUNK_BUCKETS):
            part = slice(first * BUCKET, min((first + CHUNK_BUCKETS) * BUCKET, elements))
            mine = None if left is None else left[part]
            total = values[part]
            if mine is not None:
                total = total + mine if rest == "keep" else total - mine
            padded = np.zeros((buckets_of(len(total)), BUCKET), np.float32)
            padded.reshape(-1)[: len(total)] = total
            carried, finite = _code_chunk(code, padded, len(total), first, payload, rounding)
            if mine is not None:
                _settle(mine, total, carried.reshape(-1)[: len(mine)], finite, rest)
            every = every and bool(finite.all())
    return every


def _settle(
    left: Floats,
    total: Floats,
    carried: Floats,
    finite: NDArray[np.bool_],
    rest: Literal["keep", "publish"],
) -> None:
    if rest == "publish":
        np.add(left, carried, out=left)
    else:
        kept = np.repeat(finite, BUCKET)[: len(left)]
        np.copyto(left, total - carried, where=kept)


def _code_chunk(
    code: int, values: Floats, elements: int, first: int, payload: Bytes, rounding: _Rounding
) -> tuple[Floats, NDArray[np.bool_]]:
    """Write the codes of buckets; what the decoder will have, and which buckets are finite."""
    largest = (values.view(np.uint32) & _MAGNITUDE).max(axis=1)
    if code in UNSCALED:
        finite = largest < _EXPONENT
        words, carried = (to_half if code == FLOAT16 else to_bfloat)(values)
        words[~finite] = 0
        carried[~finite] = 0
        start = 2 * BUCKET * first
        payload[start : start + 2 * elements] = words.reshape(-1)[:elements].view(np.uint8)
        return carried, finite
    finite = largest < TOO_LARGE
    coded = finite & (largest >= TOO_SMALL)
    # Rows that carry nothing go through the arithmetic as ones, and are cleared after it.
    safe = np.where(coded[:, None], values, np.float32(1))
    size = (safe.view(np.uint32) & _MAGNITUDE).max(axis=1)
    counts = np.full(len(values), BUCKET, np.float32)
    counts[-1] = elements - BUCKET * (len(values) - 1)
    scales, codes, carried = _quantized(code, safe, size, counts, first, rounding)
    scales[~coded] = 0
    codes[~coded] = 0x88 if code in (Q4, ECSQ) else 0
    carried[~coded] = 0
    last = first + len(values)
    payload[2 * first : 2 * last] = scales.view(np.uint8)
    start = len(payload) - CODE_BYTES[code] * (len(payload) // (2 + CODE_BYTES[code]))
    place = slice(start + CODE_BYTES[code] * first, start + CODE_BYTES[code] * last)
    payload[place] = codes.reshape(-1)
    return carried, finite


def _quantized(
    code: int,
    values: Floats,
    largest: NDArray[np.uint32],
    counts: Floats,
    first: int,
    rounding: _Rounding,
) -> tuple[Words, NDArray[np.uint8], Floats]:
    """Scales [buckets], packed codes [buckets, bytes] and decoded values [buckets, BUCKET]."""
    if code in (Q8, Q4):
        scales = bfloat_up(largest.view(np.float32) / np.float32(127 if code == Q8 else 7))
        return _levels(code, values, scales, first, rounding)
    if code == ECSQ:
        exponent = largest & _EXPONENT
        down = (np.uint32(0x7F00_0000) - exponent).view(np.float32)
        up = exponent.view(np.float32)
        sizes = values * down[:, None]
        root = np.sqrt(_sums(sizes * sizes) / counts) * np.float32(rounding.step)
        widest = largest.view(np.float32) * down
        return _levels(code, values, to_bfloat(np.minimum(root, widest) * up)[0], first, rounding)
    down, up = np.float32(1 / BUCKET), np.float32(BUCKET)
    sizes = np.abs(values * down)
    mean = _sums(sizes) / counts
    if code == SIGN:
        return _signs(values, to_bfloat(mean * up)[0])
    threshold = mean * np.float32(0.7)
    above = sizes > threshold[:, None]
    kept = _sums(np.where(above, sizes, np.float32(0))) / _sums(above.astype(np.float32))
    return _ternary(values, to_bfloat(kept * up)[0], threshold * up)


def _sums(values: Floats) -> Floats:
    """Sums of rows, in the kernels' order: pairs within each of 32 lanes, then a tree of lanes."""
    lanes = values.reshape(len(values), -1, _LANES)
    while lanes.shape[1] > 1:
        lanes = lanes[:, 0::2] + lanes[:, 1::2]
    total = lanes[:, 0]
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    return total[:, 0]


def _levels(
    code: int, values: Floats, scales: Words, first: int, rounding: _Rounding
) -> tuple[Words, NDArray[np.uint8], Floats]:
    scale = from_bfloat(scales)[:, None]
    scaled = values * (np.float32(1) / scale)
    if code == ECSQ:
        scaled = np.clip(scaled, np.float32(-7), np.float32(7))
    if rounding.stochastic:
        scaled = scaled + _dither(len(values), first, rounding)
    rounded = (scaled + _MAGIC) - _MAGIC
    levels = rounded.astype(np.int8)
    carried = rounded * scale
    if code == Q8:
        return scales, levels.view(np.uint8), carried
    nibbles = (levels + np.int8(8)).view(np.uint8)
    half = BUCKET // 2
    return scales, nibbles[:, :half] | (nibbles[:, half:] << np.uint8(4)), carried


def _dither(buckets: int, first: int, rounding: _Rounding) -> Floats:
    """Numbers in (-0.5, 0.5) [buckets, BUCKET]: one hash gives those of four elements."""
    seed = hashed(np.array([rounding.seed], np.uint32))
    start = np.array([(first + rounding.block) % 2**32], np.uint32)
    blocks: NDArray[np.uint32] = np.arange(buckets, dtype=np.uint32) + start + seed
    lanes = np.arange(BUCKET // 4, dtype=np.uint32)
    hashes = hashed(np.add(hashed(blocks)[:, None], lanes))
    planes = [(hashes >> np.uint32(8 * k)) & np.uint32(255) for k in range(4)]
    ones = np.concatenate(planes, axis=1) << np.uint32(15) | np.uint32(0x3F80_0000)
    dither: Floats = ones.view(np.float32) - np.float32(1.498046875)
    return dither


def _signs(values: Floats, scales: Words) -> tuple[Words, NDArray[np.uint8], Floats]:
    signs = values.view(np.uint32) & ~_MAGNITUDE
    carried = (from_bfloat(scales).view(np.uint32)[:, None] ^ signs).view(np.float32)
    planes = (signs >> np.uint32(31)).astype(np.uint8).reshape(len(values), 8, -1)
    return scales, _packed(planes, 1), carried


def _ternary(
    values: Floats, scales: Words, threshold: Floats
) -> tuple[Words, NDArray[np.uint8], Floats]:
    bits = values.view(np.uint32)
    above = (bits & _MAGNITUDE).view(np.float32) > threshold[:, None]
    negative = (bits >> np.uint32(31)).astype(np.uint8)
    symbols = above.view(np.uint8) << negative
    signed = from_bfloat(scales).view(np.uint32)[:, None] | (bits & ~_MAGNITUDE)
    carried = (signed * above).view(np.float32)
    return scales, _packed(symbols.reshape(len(values), 4, -1), 2), carried


def _packed(planes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Bytes whose lowest bits are of the first plane; planes: [buckets, planes, bytes]."""
    packed: NDArray[np.uint8] = planes[:, 0].copy()
    for index in range(1, planes.shape[1]):
        packed |= planes[:, index] << np.uint8(bits * index)
    return packed
