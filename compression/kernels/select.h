// The encoders of sparse payloads: values are added to the residual, and what is large moves out of
// it, in one pass over memory. A bucket passes through a buffer in the first-level cache, since
// nothing of a bucket that holds a NaN or an infinity may be written.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"

namespace psedge {

constexpr std::size_t SELECT_AHEAD = 4 * BUCKET;
// Magnitudes, as bits: from 2**127 on they count as infinite, below 2**-100 they are not sent.
constexpr std::int32_t SELECT_INFINITY = 0x7F000000;
constexpr std::int32_t SELECT_TINY = 0x0D800000;

// What has been moved out; positions rise.
struct Selection {
    std::uint32_t* indices;
    float* picked;
    std::size_t room;
    std::size_t count;
    bool finite;
};

PSEDGE_PART std::int32_t magnitude_bits(float value) { return bits_of(value) & INT32_MAX; }

// The largest magnitude as bits, which order as the magnitudes do; NaN lies above infinity.
PSEDGE_PART std::int32_t largest_bits(const float* values, std::size_t count) {
    std::int32_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::int32_t bits = magnitude_bits(values[i]);
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

// Moves the elements of a bucket whose flag is 1 out of a residual, and out of the velocity if
// there is one. Flags are read eight at a time; which eights hold any is found without branches,
// since no processor could foresee them. The lowest byte is the first on little-endian machines,
// the only ones that the formats are for.
PSEDGE_PART void move_flagged(const std::uint8_t* flags, const float* sums, float* residual,
                              float* velocity, std::size_t start, Selection& out) {
    std::uint64_t words[BUCKET / 8];
    __builtin_memcpy(words, flags, sizeof words);
    std::uint32_t filled = 0;
    for (std::uint32_t i = 0; i < BUCKET / 8; ++i) {
        filled |= static_cast<std::uint32_t>(words[i] != 0) << i;
    }
    for (; filled != 0; filled &= filled - 1) {
        const std::size_t base = static_cast<std::size_t>(__builtin_ctz(filled));
        std::uint64_t word = words[base];
        do {
            if (out.count == out.room) return;
            const std::size_t i = 8 * base + static_cast<std::size_t>(__builtin_ctzll(word) >> 3);
            out.indices[out.count] = static_cast<std::uint32_t>(start + i);
            out.picked[out.count] = sums[i];
            ++out.count;
            residual[start + i] = 0.0f;
            if (velocity != nullptr) velocity[start + i] = 0.0f;
            word &= word - 1;
        } while (word != 0);
    }
}

// Asks for the bucket that will be worked on some turns from now. Processors foresee steady
// reading, but stop at the end of each page and while they wait for a branch.
PSEDGE_PART void prefetch_bucket(const float* values, float* residual, std::size_t start,
                                 std::size_t elements) {
    if (elements < SELECT_AHEAD + BUCKET) return;
    if (start > elements - SELECT_AHEAD - BUCKET) return;
    for (std::size_t i = 0; i < BUCKET; i += 16) {
        __builtin_prefetch(values + start + SELECT_AHEAD + i);
        __builtin_prefetch(residual + start + SELECT_AHEAD + i, 1);
    }
}

template <bool corrected>
PSEDGE_PART void select_bucket(const float* values, float* residual, float* velocity,
                               float momentum, std::int32_t threshold, std::size_t start,
                               std::size_t count, Selection& out) {
    float sums[BUCKET];
    float moved[corrected ? BUCKET : 1];
    std::int32_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        float value = values[start + i];
        if constexpr (corrected) {
            value = velocity[start + i] * momentum + value;
            moved[i] = value;
        }
        const float sum = residual[start + i] + value;
        sums[i] = sum;
        const std::int32_t bits = magnitude_bits(sum);
        largest = bits > largest ? bits : largest;
    }
    if (largest >= SELECT_INFINITY) {
        out.finite = false;
        return;
    }
    __builtin_memcpy(residual + start, sums, count * sizeof(float));
    if constexpr (corrected) __builtin_memcpy(velocity + start, moved, count * sizeof(float));
    if (largest <= threshold) return;
    std::uint8_t flags[BUCKET];
    for (std::size_t i = 0; i < count; ++i) flags[i] = magnitude_bits(sums[i]) > threshold;
    __builtin_memset(flags + count, 0, BUCKET - count);
    move_flagged(flags, sums, residual, corrected ? velocity : nullptr, start, out);
}

template <bool corrected>
PSEDGE_PART void select_buckets(const float* values, float* residual, float* velocity,
                                float momentum, std::int32_t threshold, std::size_t elements,
                                Selection& out) {
    const std::size_t whole = elements / BUCKET * BUCKET;
    for (std::size_t start = 0; start < whole; start += BUCKET) {
        prefetch_bucket(values, residual, start, elements);
        select_bucket<corrected>(values, residual, velocity, momentum, threshold, start,
                                 BUCKET, out);
    }
    if (whole < elements) {
        select_bucket<corrected>(values, residual, velocity, momentum, threshold, whole,
                                 elements - whole, out);
    }
}

PSEDGE_PART void select_loop(const float* values, float* residual, float* velocity,
                             float momentum, float threshold, std::size_t elements,
                             Selection* out) {
    const std::int32_t bits = magnitude_bits(threshold);
    if (velocity != nullptr) {
        select_buckets<true>(values, residual, velocity, momentum, bits, elements, *out);
    } else {
        select_buckets<false>(values, residual, velocity, momentum, bits, elements, *out);
    }
}

// velocity: null for none. threshold: not negative, not NaN.
PSEDGE_KERNEL(select,
              (const float* values, float* residual, float* velocity, float momentum,
               float threshold, std::size_t elements, Selection* out),
              (values, residual, velocity, momentum, threshold, elements, out))

}  // namespace psedge
