// AdaComp's payloads: signs at positions, and one magnitude per tensor.
//
//   count u32 | scales u16 * tensors | numbers
//
// A scale is the upper half of a float32. A number is the gap before a position, see sparse.h,
// times two, plus one for a negative value; in LEB128 as there. Everything is little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"
#include "sparse.h"

namespace psedge {

constexpr std::size_t SIGNS_AHEAD = 32;

// Where each of a slice's tensors ends; rising, the last is the number of elements.
struct Tensors {
    const std::int64_t* stops;
    std::size_t count;
    std::size_t elements;
};

// Most bytes of a payload of so many values.
PSEDGE_PART std::size_t signs_limit(std::size_t count, std::size_t tensors) {
    return 4 + 2 * tensors + SPARSE_GAP_BYTES * count;
}

PSEDGE_PART void signs_encode_loop(const std::uint32_t* indices, const float* picked,
                                   std::size_t count, Tensors tensors,
                                   const std::uint16_t* scales, float* residual,
                                   std::uint8_t* payload, std::size_t* bytes) {
    const std::uint32_t header = static_cast<std::uint32_t>(count);
    __builtin_memcpy(payload, &header, sizeof header);
    __builtin_memcpy(payload + sizeof header, scales, 2 * tensors.count);
    std::uint8_t* at = payload + sizeof header + 2 * tensors.count;
    std::size_t tensor = 0;
    std::uint64_t expected = 0;
    for (std::size_t i = 0; i < count; ++i) {
        // Positions are far apart; one that comes soon can be at hand by then.
        if (residual != nullptr && i + SIGNS_AHEAD < count) {
            __builtin_prefetch(residual + indices[i + SIGNS_AHEAD], 1);
        }
        const std::uint32_t position = indices[i];
        while (tensors.stops[tensor] <= static_cast<std::int64_t>(position)) ++tensor;
        const float scale = scale_value(scales[tensor]);
        const std::uint64_t negative = bits_of(picked[i]) < 0 ? 1 : 0;
        if (residual != nullptr) residual[position] += picked[i] - (negative ? -scale : scale);
        at = put_gap(at, (position - expected) << 1 | negative);
        expected = std::uint64_t{position} + 1;
    }
    *bytes = static_cast<std::size_t>(at - payload);
}

// indices: rising, below the last stop. payload: see signs_limit. residual: null to drop what the
// payload does not carry.
PSEDGE_KERNEL(signs_encode,
              (const std::uint32_t* indices, const float* picked, std::size_t count,
               Tensors tensors, const std::uint16_t* scales, float* residual,
               std::uint8_t* payload, std::size_t* bytes),
              (indices, picked, count, tensors, scales, residual, payload, bytes))

// Whether a payload's count and numbers fit its size and the elements.
PSEDGE_PART bool signs_fit(const std::uint8_t* payload, std::size_t bytes, Tensors tensors,
                           std::size_t* count) {
    const std::size_t numbers_at = 4 + 2 * tensors.count;
    if (bytes < numbers_at) return false;
    std::uint32_t header;
    __builtin_memcpy(&header, payload, sizeof header);
    const std::uint8_t* at = payload + numbers_at;
    const std::uint8_t* end = payload + bytes;
    *count = header;
    if (*count > tensors.elements || bytes - numbers_at < *count) return false;
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < *count; ++i) {
        std::uint64_t number;
        if (!sparse_gap(at, end, number)) return false;
        next += (number >> 1) + 1;
        if (next > tensors.elements) return false;
    }
    return at == end;
}

// The largest scale, infinite for one that is no number; -1 if a payload is malformed.
PSEDGE_PART void signs_check_loop(const std::uint8_t* payload, std::size_t bytes, Tensors tensors,
                                  double* bound) {
    std::size_t count;
    *bound = -1.0;
    if (!signs_fit(payload, bytes, tensors, &count)) return;
    *bound = largest_scale(payload + 4, tensors.count);
}

PSEDGE_KERNEL(signs_check,
              (const std::uint8_t* payload, std::size_t bytes, Tensors tensors, double* bound),
              (payload, bytes, tensors, bound))

// Adds weight * value at each position. fits: receives false, and nothing is added, if a payload is
// malformed.
PSEDGE_PART void signs_accumulate_loop(const std::uint8_t* payload, std::size_t bytes,
                                       Tensors tensors, float weight, float* out, bool* fits) {
    std::size_t count;
    *fits = signs_fit(payload, bytes, tensors, &count);
    if (!*fits) return;
    const std::uint8_t* at = payload + 4 + 2 * tensors.count;
    std::size_t tensor = 0;
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint64_t number = 0;
        sparse_gap(at, payload + bytes, number);
        const std::uint64_t position = next + (number >> 1);
        next = position + 1;
        while (static_cast<std::uint64_t>(tensors.stops[tensor]) <= position) ++tensor;
        const float scale = scale_value(word_at(payload + 4 + 2 * tensor));
        out[position] += (number & 1 ? -scale : scale) * weight;
    }
}

PSEDGE_KERNEL(signs_accumulate,
              (const std::uint8_t* payload, std::size_t bytes, Tensors tensors, float weight,
               float* out, bool* fits),
              (payload, bytes, tensors, weight, out, fits))

}  // namespace psedge
