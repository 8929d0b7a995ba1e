// What an encoder learns about a bucket before it codes it: whether it is finite, and its scale.
//
// Sums run in a fixed order, 32 lanes and then a tree, so that they are the same on every
// instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"
#include "half.h"

namespace psedge {

// Magnitudes, as bits: from 2**127 on they count as infinite, so that no scale or sum overflows;
// a bucket below 2**-100 counts as zero, so that no scale is subnormal.
constexpr std::uint32_t TOO_LARGE = 0x7F000000;
constexpr std::uint32_t TOO_SMALL = 0x0D800000;

// scale: as bfloat16; 0 for a bucket that carries nothing. threshold: `ternary`'s.
struct Measure {
    bool finite;
    std::uint16_t scale;
    float threshold;
};

// What a sum is over: magnitudes or squares, of values times a power of two.
enum class Term { magnitude, square };

template <Term term>
PSEDGE_PART float term_of(float value, float down) {
    const float scaled = value * down;
    return term == Term::square ? scaled * scaled : float_of(bits_of(scaled) & INT32_MAX);
}

// One of 32 lanes: the sum of every 32nd term, in pairs, in pairs of pairs, and of these. Written
// out, because only then does GCC keep the lanes in registers.
template <Term term>
PSEDGE_PART float lane_sum(const float* values, float down) {
    const float first = term_of<term>(values[0], down) + term_of<term>(values[32], down);
    const float second = term_of<term>(values[64], down) + term_of<term>(values[96], down);
    const float third = term_of<term>(values[128], down) + term_of<term>(values[160], down);
    const float fourth = term_of<term>(values[192], down) + term_of<term>(values[224], down);
    return (first + second) + (third + fourth);
}

PSEDGE_PART float tree_sum(float* lanes) {
    for (std::size_t j = 0; j < 8; ++j) lanes[j] = lanes[j] + lanes[j + 8];
    for (std::size_t j = 0; j < 4; ++j) lanes[j] = lanes[j] + lanes[j + 4];
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

template <Term term>
PSEDGE_PART float sum_of(const float* values, float down) {
    alignas(64) float lanes[16];
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < 16; ++j) {
        lanes[j] = lane_sum<term>(values + j, down) + lane_sum<term>(values + j + 16, down);
    }
    return tree_sum(lanes);
}

PSEDGE_PART std::uint16_t bfloat_up(float value) {
    return static_cast<std::uint16_t>((static_cast<std::uint32_t>(bits_of(value)) + 0xFFFFu) >> 16);
}

// What is above 0.7 times the mean, and its mean (Li et al. 2016, "Ternary Weight Networks").
PSEDGE_PART float mean_above(const float* values, float down, float threshold) {
    alignas(64) float above[BUCKET];
    std::int32_t number = 0;
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < BUCKET; ++j) {
        // Bits of positive floats compare as the floats do.
        const std::int32_t size = bits_of(values[j] * down) & INT32_MAX;
        const std::int32_t mask = -static_cast<std::int32_t>(size > bits_of(threshold));
        above[j] = float_of(size & mask);
        number -= mask;
    }
    return sum_of<Term::magnitude>(above, 1.0f) / static_cast<float>(number);
}

// largest: the bits of the bucket's largest magnitude. values: 256, with zeros past `count`.
template <int code>
PSEDGE_PART Measure measured(const float* values, std::uint32_t largest, std::size_t count,
                             float step) {
    if constexpr (code <= BFLOAT16) {
        return {largest < static_cast<std::uint32_t>(EXPONENT), 0, 0.0f};
    } else if constexpr (code == Q8 || code == Q4) {
        const float scale =
            float_of(static_cast<std::int32_t>(largest)) / (code == Q8 ? 127.0f : 7.0f);
        const bool coded = largest < TOO_LARGE && largest >= TOO_SMALL;
        return {largest < TOO_LARGE, coded ? bfloat_up(scale) : std::uint16_t{0}, 0.0f};
    } else {
        // A power of two keeps sums finite, and another one takes it back. Squares need one that
        // fits the bucket; for the others it does not wait for the largest magnitude.
        const std::uint32_t exponent = largest & 0x7F800000u;
        const float down = code == ECSQ
                               ? float_of(static_cast<std::int32_t>(0x7F000000u - exponent))
                               : 1.0f / BUCKET;
        const float up =
            code == ECSQ ? float_of(static_cast<std::int32_t>(exponent)) : 1.0f * BUCKET;
        constexpr Term term = code == ECSQ ? Term::square : Term::magnitude;
        float scale = sum_of<term>(values, down) / static_cast<float>(count);
        const float threshold = scale * 0.7f;
        if constexpr (code == ECSQ) {
            // No wider than the largest magnitude: one that is all there is must not round to zero.
            const float most = float_of(static_cast<std::int32_t>(largest)) * down;
            scale = __builtin_sqrtf(scale) * step;
            scale = scale < most ? scale : most;
        }
        if constexpr (code == TERNARY) scale = mean_above(values, down, threshold);
        const bool coded = largest < TOO_LARGE && largest >= TOO_SMALL;
        return {largest < TOO_LARGE, coded ? to_bfloat(scale * up).bits : std::uint16_t{0},
                threshold * up};
    }
}

}  // namespace psedge
