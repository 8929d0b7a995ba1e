// IEEE half precision: float32 to binary16 bits and back, bit for bit as half_precision.py does it
// and explains it. Everything is computed and then selected, without a branch, so that the loops
// vectorise. Magnitudes are signed integers: AVX2 compares no others.
#pragma once

#include <cstddef>
#include <cstdint>

#include "targets.h"

namespace psedge {

constexpr std::int32_t EXPONENT = 0x7F800000;
constexpr std::int32_t LARGEST_HALF = 0x477FE000;     // 65504 as float32
constexpr std::int32_t SMALLEST_NORMAL = 0x38800000;  // 2**-14 as float32
constexpr std::int32_t BIAS = (127 - 15) << 23;
constexpr std::int32_t HALF_NORMAL = 0x0400;
constexpr std::int32_t HALF_INFINITY = 0x7C00;

PSEDGE_PART std::int32_t bits_of(float value) {
    std::int32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

PSEDGE_PART float float_of(std::int32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

PSEDGE_PART float expanded(std::uint16_t half) {
    const std::int32_t magnitude = half & 0x7FFF;
    const std::int32_t shifted = magnitude << 13;
    const std::int32_t normal = shifted + BIAS;
    const std::int32_t subnormal = bits_of(float_of(normal) * 2.0f - float_of(SMALLEST_NORMAL));
    const std::int32_t finite = magnitude < HALF_NORMAL ? subnormal : normal;
    const std::int32_t any = magnitude < HALF_INFINITY ? finite : shifted | EXPONENT;
    const std::uint32_t sign = (half & 0x8000u) << 16;
    return float_of(static_cast<std::int32_t>(static_cast<std::uint32_t>(any) | sign));
}

struct Rounded {
    std::uint16_t half;
    float dropped;
};

PSEDGE_PART Rounded rounded(float value) {
    const std::int32_t bits = bits_of(value);
    const std::int32_t magnitude = bits & INT32_MAX;
    const std::int32_t sign = bits & INT32_MIN;
    const std::int32_t clipped = magnitude < LARGEST_HALF ? magnitude : LARGEST_HALF;
    const std::int32_t power = clipped & EXPONENT;
    const float unit = float_of(power > SMALLEST_NORMAL ? power : SMALLEST_NORMAL) * 8194.0f;
    const float total = float_of(clipped) + unit;
    const std::int32_t finite = bits_of(total) + (bits_of(unit) >> 13);
    // A NaN keeps the upper bits of its payload, or gets one that is not infinity's.
    const std::int32_t payload = (magnitude >> 13) & 0x03FF;
    const std::int32_t nan = HALF_INFINITY | (payload != 0 ? payload : 1);
    const std::int32_t extreme = magnitude > EXPONENT ? nan : HALF_INFINITY;
    const std::int32_t half = magnitude < EXPONENT ? finite & 0x7FFF : extreme;
    const std::int32_t half_sign = (bits >> 16) & 0x8000;
    const float dropped = float_of(magnitude) - (total - unit);
    return {static_cast<std::uint16_t>(half | half_sign), float_of(bits_of(dropped) ^ sign)};
}

PSEDGE_PART void half_decode_loop(const std::uint16_t* halves, float* out, std::size_t elements) {
    PSEDGE_INDEPENDENT
    for (std::size_t i = 0; i < elements; ++i) out[i] = expanded(halves[i]);
}

PSEDGE_PART void half_encode_loop(const float* values, std::uint16_t* out, std::size_t elements) {
    PSEDGE_INDEPENDENT
    for (std::size_t i = 0; i < elements; ++i) out[i] = rounded(values[i]).half;
}

PSEDGE_PART void half_encode_dropping_loop(const float* values, std::uint16_t* out, float* dropped,
                                           std::size_t elements) {
    PSEDGE_INDEPENDENT
    for (std::size_t i = 0; i < elements; ++i) {
        const Rounded both = rounded(values[i]);
        out[i] = both.half;
        dropped[i] = both.dropped;
    }
}

PSEDGE_KERNEL(half_decode, (const std::uint16_t* halves, float* out, std::size_t elements),
              (halves, out, elements))

PSEDGE_KERNEL(half_encode, (const float* values, std::uint16_t* out, std::size_t elements),
              (values, out, elements))

// `dropped` receives values - halves and may be `values` itself; every value must be finite.
PSEDGE_KERNEL(half_encode_dropping,
              (const float* values, std::uint16_t* out, float* dropped, std::size_t elements),
              (values, out, dropped, elements))

}  // namespace psedge
