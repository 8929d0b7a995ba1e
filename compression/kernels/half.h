// IEEE half precision and bfloat16, one value at a time and without branches, so that loops of them
// vectorise. Magnitudes are signed integers: AVX2 compares no others. reference/half.py explains the
// arithmetic of halves; the results are those of a correctly rounding conversion.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"

namespace psedge {

constexpr std::int32_t EXPONENT = 0x7F800000;
constexpr std::int32_t LARGEST_HALF = 0x477FE000;     // 65504 as float32
constexpr std::int32_t SMALLEST_NORMAL = 0x38800000;  // 2**-14 as float32
constexpr std::int32_t HALF_BIAS = (127 - 15) << 23;
constexpr std::int32_t HALF_NORMAL = 0x0400;
constexpr std::int32_t HALF_INFINITY = 0x7C00;
constexpr std::int32_t LARGEST_BFLOAT = 0x7F7F;

// A value as the decoder will have it, and its bits.
struct Rounded {
    std::uint16_t bits;
    float value;
};

PSEDGE_PART float half_value(std::uint16_t half) {
    const std::int32_t magnitude = half & 0x7FFF;
    const std::int32_t shifted = magnitude << 13;
    const std::int32_t normal = shifted + HALF_BIAS;
    const std::int32_t subnormal = bits_of(float_of(normal) * 2.0f - float_of(SMALLEST_NORMAL));
    const std::int32_t finite = magnitude < HALF_NORMAL ? subnormal : normal;
    const std::int32_t any = magnitude < HALF_INFINITY ? finite : shifted | EXPONENT;
    const std::uint32_t sign = (half & 0x8000u) << 16;
    return float_of(static_cast<std::int32_t>(static_cast<std::uint32_t>(any) | sign));
}

// The nearest even half of a finite value; past the largest half, that one.
PSEDGE_PART Rounded to_half(float value) {
    const std::int32_t bits = bits_of(value);
    const std::int32_t magnitude = bits & INT32_MAX;
    const std::int32_t sign = bits & INT32_MIN;
    const std::int32_t clipped = magnitude < LARGEST_HALF ? magnitude : LARGEST_HALF;
    const std::int32_t power = clipped & EXPONENT;
    const float unit = float_of(power > SMALLEST_NORMAL ? power : SMALLEST_NORMAL) * 8194.0f;
    const float total = float_of(clipped) + unit;
    const std::int32_t half = (bits_of(total) + (bits_of(unit) >> 13)) & 0x7FFF;
    const std::int32_t half_sign = (bits >> 16) & 0x8000;
    return {static_cast<std::uint16_t>(half | half_sign),
            float_of(bits_of(total - unit) | sign)};
}

PSEDGE_PART float bfloat_value(std::uint16_t bits) {
    return float_of(static_cast<std::int32_t>(static_cast<std::uint32_t>(bits) << 16));
}

// The nearest even bfloat16 of a finite value; past the largest one, that one.
PSEDGE_PART Rounded to_bfloat(float value) {
    const std::int32_t bits = bits_of(value);
    const std::uint32_t magnitude = static_cast<std::uint32_t>(bits) & 0x7FFFFFFFu;
    const std::int32_t near =
        static_cast<std::int32_t>((magnitude + 0x7FFFu + ((magnitude >> 16) & 1u)) >> 16);
    const std::int32_t clipped = near < LARGEST_BFLOAT ? near : LARGEST_BFLOAT;
    const std::int32_t word = clipped | ((bits >> 16) & 0x8000);
    return {static_cast<std::uint16_t>(word), bfloat_value(static_cast<std::uint16_t>(word))};
}

}  // namespace psedge
