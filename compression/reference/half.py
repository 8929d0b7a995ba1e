"""Half precision and bfloat16 in whole-array steps, bit for bit what kernels/half.h does.

NumPy casts one value at a time, 1.5 ns each and up to 50 ns where halves are subnormal, as small
gradients are. The same results come from some ten plain passes of 0.06 ns each over chunks that
stay in the cache. Neither direction multiplies a subnormal float32, which Intel's CPUs do slowly.

Rounding: the float32 sum of |x| and 2**13 times the power of two below |x| has the half's spacing,
so the addition itself rounds to nearest even. That power is at least 2**-14, the smallest normal
half, which covers subnormal halves with the same spacing. The low 16 bits of the sum are then the
half's significand, implicit bit included, to which its exponent is added.

Expansion: the bits of a half, 13 places up and with the exponent's bias corrected, are the value n
if the half is normal. If it is subnormal the value is 2n - 2**-14; the lesser of both is right.
"""

from __future__ import annotations

import numpy as np

from psedge.compression.reference.arrays import Floats, Words

#: Largest finite half, and the bits of the largest finite bfloat16.
LARGEST_HALF = np.float32(65504.0)
LARGEST_BFLOAT = np.uint32(0x7F7F)

_SIGN = np.uint32(0x8000_0000)
_MAGNITUDE = np.uint32(0x7FFF_FFFF)
_EXPONENT = np.uint32(0x7F80_0000)
_SMALLEST_NORMAL = np.float32(2.0**-14)
#: 2**13 plus two of its 2**10 parts: the 2048 units that this adds to every significand make up for
#: the exponent of the rounding unit, which is 126 too large for a half's exponent field, mod 2**16.
_UNIT_SCALE = np.float32(2.0**13 + 2)
_BIAS = np.uint32((127 - 15) << 23)
_HALF_IN_WORD = np.uint32(0x0FFF_E000)
_HALF_INFINITY = np.uint32(0x47800000)


def to_half(values: Floats) -> tuple[Words, Floats]:
    """Nearest even halves of finite values, as bits and as float32; past the largest, the largest.

    values: any shape.
    """
    bits = values.view(np.uint32)
    sign = bits & _SIGN
    magnitude = np.minimum((bits & _MAGNITUDE).view(np.float32), LARGEST_HALF)
    power = (magnitude.view(np.uint32) & _EXPONENT).view(np.float32)
    unit = np.maximum(power, _SMALLEST_NORMAL) * _UNIT_SCALE
    total = magnitude + unit
    half = (total.view(np.uint32) + (unit.view(np.uint32) >> np.uint32(13))) & np.uint32(0x7FFF)
    words = (half | (sign >> np.uint32(16))).astype(np.uint16)
    carried = ((total - unit).view(np.uint32) | sign).view(np.float32)
    return words, carried


def from_half(halves: Words) -> Floats:
    """Halves as float32, exactly, infinities and NaN included."""
    # Widening with sign puts the half's sign where float32 has it, after the shift.
    shifted = (halves.view(np.int16).astype(np.int32) << np.int32(13)).view(np.uint32)
    normal = ((shifted & _HALF_IN_WORD) + _BIAS).view(np.float32)
    subnormal = normal * np.float32(2) - _SMALLEST_NORMAL
    magnitude = np.minimum(normal, subnormal).view(np.uint32)
    extreme = magnitude >= _HALF_INFINITY
    magnitude = np.where(extreme, (shifted & _HALF_IN_WORD) | _EXPONENT, magnitude)
    values: Floats = (magnitude | (shifted & _SIGN)).view(np.float32)
    return values


def to_bfloat(values: Floats) -> tuple[Words, Floats]:
    """Nearest even bfloat16 of finite values, as bits and as float32; past the largest, that."""
    bits = values.view(np.uint32)
    magnitude = bits & _MAGNITUDE
    odd = (magnitude >> np.uint32(16)) & np.uint32(1)
    near = np.minimum((magnitude + np.uint32(0x7FFF) + odd) >> np.uint32(16), LARGEST_BFLOAT)
    words = (near | ((bits & _SIGN) >> np.uint32(16))).astype(np.uint16)
    return words, from_bfloat(words)


def from_bfloat(words: Words) -> Floats:
    """bfloat16 as float32, exactly, infinities and NaN included."""
    values: Floats = (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


def bfloat_up(values: Floats) -> Words:
    """The smallest bfloat16 that are not less than finite values from zero on."""
    words: Words = ((values.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype(np.uint16)
    return words
