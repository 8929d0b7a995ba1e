// Sparse payloads: values picked from a long vector, and where they go.
//
//   count u32 | scales u16 * ceil(count / 256) | levels i8 * count | gaps
//
// A scale is the upper half of a float32, for 256 levels; value = level * scale, which float32
// holds exactly. A gap is the number of elements between a position and the one before it, in
// LEB128: 7 bits a byte, the lowest first, the top bit set in all but the last, and never a byte
// too many. Everything is little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"
#include "select.h"

namespace psedge {

constexpr std::size_t SPARSE_GROUP = 256;
constexpr std::size_t SPARSE_GAP_BYTES = 5;
constexpr float SPARSE_ROUNDER = 12582912.0f;  // 1.5 * 2**23: adding it rounds to an integer

PSEDGE_PART std::size_t sparse_groups(std::size_t count) {
    return (count + SPARSE_GROUP - 1) / SPARSE_GROUP;
}

PSEDGE_PART float scale_value(std::uint16_t scale) {
    return float_of(static_cast<std::int32_t>(static_cast<std::uint32_t>(scale) << 16));
}

// The smallest scale at which 127 levels reach a magnitude; 0 for one that is not sent.
PSEDGE_PART std::uint16_t sparse_scale(std::int32_t largest) {
    if (largest < SELECT_TINY || largest >= SELECT_INFINITY) return 0;
    const std::int32_t exact = bits_of(float_of(largest) / 127.0f);
    return static_cast<std::uint16_t>((exact + 0xFFFF) >> 16);
}

// One scale and its levels; `rest` receives what they do not carry. A group that holds a NaN or an
// infinity is sent as zeros and leaves no rest.
PSEDGE_PART void sparse_group(const float* picked, std::size_t count, std::uint8_t* scale_to,
                              std::uint8_t* levels, float* rest) {
    const std::int32_t largest = largest_bits(picked, count);
    const std::uint16_t scale = sparse_scale(largest);
    put_word(scale_to, scale);
    if (scale == 0) {
        __builtin_memset(levels, 0, count);
        for (std::size_t i = 0; i < count; ++i) {
            rest[i] = largest >= SELECT_INFINITY ? 0.0f : picked[i];
        }
        return;
    }
    const float unit = scale_value(scale);
    const float inverse = 1.0f / unit;
    for (std::size_t i = 0; i < count; ++i) {
        const float level = (picked[i] * inverse + SPARSE_ROUNDER) - SPARSE_ROUNDER;
        rest[i] = picked[i] - level * unit;
        levels[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(level));
    }
}

// Writes a gap and returns where the next one goes. Gaps of one and two bytes are nearly all, in no
// order that a processor could foresee, so they are written without a branch between them.
PSEDGE_PART std::uint8_t* put_gap(std::uint8_t* at, std::uint64_t gap) {
    if (gap < (1u << 14)) {
        const std::uint64_t more = gap >= 128;
        at[0] = static_cast<std::uint8_t>((gap & 127) | more << 7);
        at[1] = static_cast<std::uint8_t>(gap >> 7);
        return at + 1 + more;
    }
    while (gap >= 128) {
        *at++ = static_cast<std::uint8_t>(gap | 128);
        gap >>= 7;
    }
    *at++ = static_cast<std::uint8_t>(gap);
    return at;
}

PSEDGE_PART void sparse_encode_loop(const std::uint32_t* indices, const float* picked,
                                    std::size_t count, float* residual, std::uint8_t* payload,
                                    std::size_t* bytes) {
    const std::uint32_t header = static_cast<std::uint32_t>(count);
    __builtin_memcpy(payload, &header, sizeof header);
    std::uint8_t* scales = payload + sizeof header;
    std::uint8_t* levels = scales + 2 * sparse_groups(count);
    std::uint8_t* gaps = levels + count;
    std::uint32_t expected = 0;
    for (std::size_t start = 0; start < count; start += SPARSE_GROUP) {
        const std::size_t left = count - start;
        const std::size_t size = left < SPARSE_GROUP ? left : SPARSE_GROUP;
        const std::uint32_t* positions = indices + start;
        // They are far apart, and by the time that their rests are known they can be at hand.
        if (residual != nullptr) {
            for (std::size_t i = 0; i < size; ++i) __builtin_prefetch(residual + positions[i], 1);
        }
        float rest[SPARSE_GROUP];
        sparse_group(picked + start, size, scales, levels + start, rest);
        scales += 2;
        for (std::size_t i = 0; i < size; ++i) {
            gaps = put_gap(gaps, positions[i] - expected);
            expected = positions[i] + 1;
        }
        if (residual != nullptr) {
            for (std::size_t i = 0; i < size; ++i) residual[positions[i]] += rest[i];
        }
    }
    *bytes = static_cast<std::size_t>(gaps - payload);
}

// indices: rising. payload: room for 4 + 2 * groups + 6 * count bytes. residual: null to drop what
// the levels do not carry. bytes: receives how many were written.
PSEDGE_KERNEL(sparse_encode,
              (const std::uint32_t* indices, const float* picked, std::size_t count,
               float* residual, std::uint8_t* payload, std::size_t* bytes),
              (indices, picked, count, residual, payload, bytes))

// Most bytes that sparse_encode writes for so many values.
PSEDGE_PART std::size_t sparse_limit(std::size_t count) {
    return 4 + 2 * sparse_groups(count) + (1 + SPARSE_GAP_BYTES) * count;
}

// A payload's parts; `valid` once its count agrees with its size and the elements it is for.
struct SparseParts {
    std::size_t count;
    const std::uint8_t* scales;
    const std::uint8_t* levels;
    const std::uint8_t* gaps;
    const std::uint8_t* end;
    bool valid;
};

PSEDGE_PART SparseParts sparse_parts(const std::uint8_t* payload, std::size_t bytes,
                                     std::size_t elements) {
    SparseParts parts{0, nullptr, nullptr, nullptr, payload + bytes, false};
    std::uint32_t count = 0;
    if (bytes < sizeof count) return parts;
    __builtin_memcpy(&count, payload, sizeof count);
    const std::size_t fixed = sizeof count + 2 * sparse_groups(count) + std::size_t{count};
    if (count > elements || bytes < fixed + count) return parts;
    parts.count = count;
    parts.scales = payload + sizeof count;
    parts.levels = parts.scales + 2 * sparse_groups(count);
    parts.gaps = parts.levels + count;
    parts.valid = true;
    return parts;
}

// Reads one gap; false if it is cut off, longer than any encoder makes it, or has a byte too many.
PSEDGE_PART bool sparse_gap(const std::uint8_t*& at, const std::uint8_t* end, std::uint64_t& gap) {
    gap = 0;
    for (std::size_t i = 0; i < SPARSE_GAP_BYTES && at < end; ++i) {
        const std::uint8_t byte = *at++;
        gap |= static_cast<std::uint64_t>(byte & 127) << (7 * i);
        if (byte < 128) return byte != 0 || i == 0;
    }
    return false;
}

// Whether all gaps are well-formed, end with the payload and stay within the elements.
PSEDGE_PART bool sparse_gaps_fit(const SparseParts& parts, std::size_t elements) {
    const std::uint8_t* at = parts.gaps;
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < parts.count; ++i) {
        std::uint64_t gap;
        if (!sparse_gap(at, parts.end, gap)) return false;
        next += gap + 1;
        if (next > elements) return false;
    }
    return at == parts.end;
}

// The largest of some scales, infinite if one is no number; -1 if one is negative.
PSEDGE_PART double largest_scale(const std::uint8_t* scales, std::size_t count) {
    std::uint16_t largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint16_t scale = word_at(scales + 2 * i);
        largest = scale > largest ? scale : largest;
    }
    if (largest > 0x7FFF) return -1.0;
    return static_cast<double>(largest < 0x7F80 ? scale_value(largest) : __builtin_inff());
}

// The largest scale times 128, infinite for one that is no number; -1 if a payload is malformed.
PSEDGE_PART void sparse_check_loop(const std::uint8_t* payload, std::size_t bytes,
                                   std::size_t elements, double* bound) {
    const SparseParts parts = sparse_parts(payload, bytes, elements);
    *bound = -1.0;
    if (!parts.valid || !sparse_gaps_fit(parts, elements)) return;
    const double largest = largest_scale(parts.scales, sparse_groups(parts.count));
    *bound = largest < 0.0 ? -1.0 : 128.0 * largest;
}

PSEDGE_KERNEL(sparse_check,
              (const std::uint8_t* payload, std::size_t bytes, std::size_t elements,
               double* bound),
              (payload, bytes, elements, bound))

// Adds weight * value at each position. fits: receives false, and nothing is added, if a payload is
// malformed.
PSEDGE_PART void sparse_accumulate_loop(const std::uint8_t* payload, std::size_t bytes,
                                        float weight, float* out, std::size_t elements,
                                        bool* fits) {
    const SparseParts parts = sparse_parts(payload, bytes, elements);
    *fits = parts.valid && sparse_gaps_fit(parts, elements);
    if (!*fits) return;
    const std::uint8_t* at = parts.gaps;
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < parts.count; ++i) {
        const float scale = scale_value(word_at(parts.scales + 2 * (i / SPARSE_GROUP)));
        std::uint64_t gap = 0;
        sparse_gap(at, parts.end, gap);
        next += gap + 1;
        const float level = static_cast<float>(static_cast<std::int8_t>(parts.levels[i]));
        out[next - 1] += level * scale * weight;
    }
}

PSEDGE_KERNEL(sparse_accumulate,
              (const std::uint8_t* payload, std::size_t bytes, float weight, float* out,
               std::size_t elements, bool* fits),
              (payload, bytes, weight, out, elements, fits))

}  // namespace psedge
