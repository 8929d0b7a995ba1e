"""Half precision in whole-array steps: float32 to IEEE binary16 bits and back, bit for bit.

NumPy casts one value at a time, 1.5 ns each and up to 50 ns where halves are subnormal, as small
gradients are. The same results come from some ten plain passes of 0.06 ns each over chunks that
stay in the cache. Neither direction multiplies a subnormal float32, which Intel's CPUs do slowly.
Where the native kernels are built, kernels/half.h does the same in one pass; what is here is what
it has to equal.

Rounding: the float32 sum of |x| and 2**13 times the power of two below |x| has the half's spacing,
so the addition itself rounds to nearest even. That power is at least 2**-14, the smallest normal
half, which covers subnormal halves with the same spacing. The low 16 bits of the sum are then the
half's significand, implicit bit included, to which its exponent is added.

Expansion: the bits of a half, 13 places up and with the exponent's bias corrected, are the value n
if the half is normal. If it is subnormal the value is 2n - 2**-14; the lesser of both is right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psedge.compression import native

Float32Array = NDArray[np.float32]
UInt16Array = NDArray[np.uint16]

#: Largest finite half.
LARGEST = 65504.0

#: Values at a time: three float32 arrays of it fit the second-level cache of a Raspberry Pi.
_CHUNK = 16384


def _word(value: int, dtype: type[Any]) -> NDArray[Any]:
    """A constant as an array: it has a dtype of its own on every NumPy version."""
    return np.array(value, dtype)


_SIGN = _word(0x8000_0000, np.uint32)
_EXPONENT = _word(0x7F80_0000, np.uint32)
_HALF_IN_WORD = _word(0x0FFF_E000, np.uint32)
_BIAS = _word((127 - 15) << 23, np.uint32)
_MANTISSA_GAP = _word(13, np.uint32)
_MANTISSA_GAP_SIGNED = _word(13, np.int32)
_SIGN_GAP = _word(16, np.uint32)
_SIGN_16 = _word(0x8000, np.uint16)
_TWO = np.array(2.0, np.float32)
#: 2**13 plus two of its 2**10 parts: the 2048 units that this adds to every significand make up for
#: the exponent of the rounding unit, which is 126 too large for a half's exponent field, mod 2**16.
_UNIT_SCALE = np.array(2.0**13 + 2, np.float32)
_SMALLEST_NORMAL = np.array(2.0**-14, np.float32)
# np.maximum and np.minimum take their fast path only when both operands are arrays.
_SMALLEST_NORMALS = np.full(_CHUNK, 2.0**-14, np.float32)


def to_half(values: Float32Array, out: UInt16Array, dropped: Float32Array | None = None) -> None:
    """Round `values` to nearest even halves; past LARGEST to LARGEST, unless infinite or NaN.

    All arrays are one-dimensional and C-contiguous. out: the halves' bits, as long as `values`.
    dropped: receives values - halves where given, and may be `values` itself; then every value
    must be finite. Raises ValueError or TypeError for arrays that do not fit each other.
    """
    if native.NATIVE and values.flags.aligned:
        native.half_encode(values, out, dropped)
    else:
        to_half_in_numpy(values, out, dropped)


def from_half(halves: UInt16Array, out: Float32Array) -> None:
    """Expand the bits of halves to float32, exactly, infinities and NaN included.

    Both arrays are one-dimensional and C-contiguous. Raises ValueError or TypeError if they do not
    fit each other.
    """
    if native.NATIVE and halves.flags.aligned:
        native.half_decode(halves, out)
    else:
        from_half_in_numpy(halves, out)


def to_half_in_numpy(
    values: Float32Array, out: UInt16Array, dropped: Float32Array | None = None
) -> None:
    """`to_half` without the native kernels."""
    scratch = tuple(np.empty(min(len(values), _CHUNK), np.float32) for _ in range(3))
    signs = np.empty(min(len(values), _CHUNK), np.uint16)
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        chunk = values[part]
        magnitude, unit, total = (array[: len(chunk)] for array in scratch)
        np.abs(chunk, out=magnitude)
        rest = None if dropped is None else dropped[part]
        if magnitude.max() <= LARGEST:
            _round(chunk, magnitude, unit, total, signs[: len(chunk)], out[part], rest)
        else:
            _round_extreme(chunk, out[part], rest)


def from_half_in_numpy(halves: UInt16Array, out: Float32Array) -> None:
    """`from_half` without the native kernels."""
    scratch = tuple(np.empty(min(len(halves), _CHUNK), np.float32) for _ in range(2))
    for start in range(0, len(halves), _CHUNK):
        chunk = halves[start : start + _CHUNK]
        target = out[start : start + _CHUNK]
        doubled, sign = (array[: len(chunk)] for array in scratch)
        _expand(chunk, target, doubled, sign.view(np.uint32))


def _round(
    values: Float32Array,
    magnitude: Float32Array,
    unit: Float32Array,
    total: Float32Array,
    signs: UInt16Array,
    out: UInt16Array,
    dropped: Float32Array | None,
) -> None:
    """One chunk of finite values up to LARGEST; `magnitude` holds |values|."""
    bits, unit_bits, total_bits = (array.view(np.uint32) for array in (values, unit, total))
    np.bitwise_and(bits, _EXPONENT, out=unit_bits)
    np.maximum(unit, _SMALLEST_NORMALS[: len(unit)], out=unit)
    np.multiply(unit, _UNIT_SCALE, out=unit)
    np.add(magnitude, unit, out=total)
    magnitude_bits = magnitude.view(np.uint32)
    if dropped is None:
        np.right_shift(bits, _SIGN_GAP, out=magnitude_bits)
    else:
        _drop(bits, magnitude, unit, total, dropped)
    np.right_shift(unit_bits, _MANTISSA_GAP, out=unit_bits)
    np.add(total_bits, unit_bits, out=total_bits)
    np.copyto(out, total_bits, casting="unsafe")
    np.copyto(signs, magnitude_bits, casting="unsafe")
    np.bitwise_and(signs, _SIGN_16, out=signs)
    np.bitwise_or(out, signs, out=out)


def _drop(
    bits: NDArray[np.uint32],
    magnitude: Float32Array,
    unit: Float32Array,
    total: Float32Array,
    dropped: Float32Array,
) -> None:
    """Write value - half, which float32 holds exactly; leave the signs in `magnitude`'s bits."""
    rounded = total - unit
    np.subtract(magnitude, rounded, out=rounded)
    magnitude_bits = magnitude.view(np.uint32)
    np.bitwise_and(bits, _SIGN, out=magnitude_bits)
    np.bitwise_xor(rounded.view(np.uint32), magnitude_bits, out=dropped.view(np.uint32))
    np.right_shift(magnitude_bits, _SIGN_GAP, out=magnitude_bits)


def _round_extreme(values: Float32Array, out: UInt16Array, dropped: Float32Array | None) -> None:
    """One chunk with values past LARGEST, infinite or NaN; these are rare, so NumPy may do it."""
    halves = out.view(np.float16)
    limit = np.float32(LARGEST)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        clipped = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
        np.copyto(halves, clipped, casting="unsafe")
    if dropped is not None:
        # By magnitude, as `_drop` does it: the zero that nothing was dropped has the value's sign.
        rest = np.abs(values) - np.abs(halves.astype(np.float32))
        np.multiply(rest, np.copysign(np.float32(1), values), out=dropped)


def _expand(
    halves: UInt16Array,
    out: Float32Array,
    doubled: Float32Array,
    sign: NDArray[np.uint32],
) -> None:
    bits = out.view(np.uint32)
    # Widening with sign puts the half's sign where float32 has it, after the shift.
    np.copyto(out.view(np.int32), halves.view(np.int16))
    np.left_shift(out.view(np.int32), _MANTISSA_GAP_SIGNED, out=out.view(np.int32))
    np.bitwise_and(bits, _SIGN, out=sign)
    np.bitwise_and(bits, _HALF_IN_WORD, out=bits)
    np.add(bits, _BIAS, out=bits)
    np.multiply(out, _TWO, out=doubled)
    np.subtract(doubled, _SMALLEST_NORMAL, out=doubled)
    np.minimum(out, doubled, out=out)
    if out.max() > LARGEST:
        np.copyto(out, halves.view(np.float16))
        return
    np.bitwise_or(bits, sign, out=bits)
