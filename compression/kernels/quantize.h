// float32 to payloads in one pass over memory: each bucket's values are summed into a buffer that
// stays in the first-level cache, measured there, coded, and what the code does not carry is left.
//
// Rounding adds 1.5 * 2**23, which leaves the nearest even integer in the lowest bits. Everything
// that may not be rounded twice is exact: code * scale has at most 16 bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"
#include "half.h"
#include "measure.h"

namespace psedge {

constexpr float MAGIC = 12582912.0f;
constexpr std::int32_t MAGIC_BITS = 0x4B400000;

// Buckets that are measured before the first of them is coded. To measure one is a chain of
// operations that wait for each other: where it is long, several chains run side by side; where it
// is short, a bucket had better stay in registers.
constexpr std::size_t group_of(int code) { return code == TERNARY || code == ECSQ ? 2 : 1; }

// What is encoded, and where that which the payload does not carry goes:
// drop: values, nowhere. keep: values + rest, to rest. publish: values - rest, where rest is what
// the receiver has; what the payload carries is added to it.
enum class Rest { drop, keep, publish };

// Dither of a bucket, or none for rounding to nearest.
struct Dither {
    bool stochastic;
    std::uint32_t seed;
    std::uint32_t block;
    float step;
};

// Wang's hash with Ellis's constants ("lowbias32"): 32-bit multiplications only.
PSEDGE_PART std::uint32_t hashed(std::uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

// Byte `quarter` of a hash as a number in (-0.5, 0.5).
PSEDGE_PART float centred(std::uint32_t hash, int quarter) {
    const std::uint32_t byte = (hash >> (8 * quarter)) & 255u;
    return float_of(static_cast<std::int32_t>(0x3F800000u | (byte << 15))) - 1.498046875f;
}

// What becomes of a value: `carried` is what the decoder will have of it.
template <Rest rest>
PSEDGE_PART void settle(float* place, float value, float carried) {
    if constexpr (rest == Rest::keep) *place = value - carried;
    if constexpr (rest == Rest::publish) *place = *place + carried;
}

template <int code>
PSEDGE_PART float clipped(float scaled) {
    if constexpr (code != ECSQ) return scaled;
    const float low = scaled > -7.0f ? scaled : -7.0f;
    return low < 7.0f ? low : 7.0f;
}

// Codes one value; adds its level, as an integer, to nothing: the caller packs it.
template <int code, Rest rest, bool stochastic>
PSEDGE_PART std::int32_t level(float value, float inverse, float scale, std::uint32_t hash,
                               int quarter, float* place) {
    float scaled = clipped<code>(value * inverse);
    if constexpr (stochastic) scaled = scaled + centred(hash, quarter);
    const float shifted = scaled + MAGIC;
    settle<rest>(place, value, (shifted - MAGIC) * scale);
    return bits_of(shifted) - MAGIC_BITS;
}

template <int code, Rest rest, bool stochastic>
PSEDGE_PART void code_levels(const float* values, float scale, std::uint32_t counter,
                             std::uint8_t* codes, float* left) {
    const float inverse = 1.0f / scale;
    constexpr int quarters = code == Q8 ? 4 : 2;
    for (int quarter = 0; quarter < quarters; ++quarter) {
        const float* from = values + 64 * quarter;
        float* to = left + 64 * quarter;
        std::uint8_t* out = codes + 64 * quarter;
        PSEDGE_INDEPENDENT
        for (std::size_t j = 0; j < 64; ++j) {
            const std::uint32_t hash = stochastic ? hashed(counter + static_cast<std::uint32_t>(j))
                                                  : 0;
            const std::int32_t first = level<code, rest, stochastic>(from[j], inverse, scale, hash,
                                                                     quarter, to + j);
            if constexpr (code == Q8) {
                out[j] = static_cast<std::uint8_t>(first);
            } else {
                const std::int32_t second = level<code, rest, stochastic>(
                    from[j + 128], inverse, scale, hash, quarter + 2, to + j + 128);
                out[j] = static_cast<std::uint8_t>((first + 8) | ((second + 8) << 4));
            }
        }
    }
}

template <Rest rest>
PSEDGE_PART void code_ternary(const float* values, float scale, float threshold,
                              std::uint8_t* codes, float* left) {
    const std::int32_t scale_bits = bits_of(scale);
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < 64; ++j) {
        std::int32_t byte = 0;
        for (std::size_t k = 0; k < 4; ++k) {
            const std::int32_t bits = bits_of(values[j + 64 * k]);
            const std::int32_t above =
                -static_cast<std::int32_t>((bits & INT32_MAX) > bits_of(threshold));
            const float carried = float_of(above & (scale_bits | (bits & INT32_MIN)));
            settle<rest>(left + j + 64 * k, values[j + 64 * k], carried);
            const std::uint32_t negative = static_cast<std::uint32_t>(bits) >> 31;
            byte |= (above & static_cast<std::int32_t>(1 + negative)) << (2 * k);
        }
        codes[j] = static_cast<std::uint8_t>(byte);
    }
}

template <Rest rest>
PSEDGE_PART void code_sign(const float* values, float scale, std::uint8_t* codes, float* left) {
    const std::int32_t scale_bits = bits_of(scale);
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < 32; ++j) {
        std::uint32_t byte = 0;
        for (std::size_t k = 0; k < 8; ++k) {
            const std::int32_t bits = bits_of(values[j + 32 * k]);
            const float carried = float_of(scale_bits ^ (bits & INT32_MIN));
            settle<rest>(left + j + 32 * k, values[j + 32 * k], carried);
            byte |= (static_cast<std::uint32_t>(bits) >> 31) << k;
        }
        codes[j] = static_cast<std::uint8_t>(byte);
    }
}

template <int code, Rest rest>
PSEDGE_PART void code_halves(const float* values, std::uint8_t* codes, float* left,
                             std::size_t count) {
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < count; ++j) {
        const Rounded rounded = code == FLOAT16 ? to_half(values[j]) : to_bfloat(values[j]);
        settle<rest>(left + j, values[j], rounded.value);
        put_word(codes + 2 * j, rounded.bits);
    }
}

// A bucket that carries nothing. A decoder adds +0 for it, which turns a published -0 into +0.
template <int code, Rest rest>
PSEDGE_PART void code_nothing(const float* values, bool finite, std::uint8_t* codes, float* left,
                              std::size_t count) {
    const std::size_t bytes = code <= BFLOAT16 ? 2 * count : code_bytes(code);
    const std::uint8_t zero = code == Q4 || code == ECSQ ? 0x88 : 0;
    for (std::size_t j = 0; j < bytes; ++j) codes[j] = zero;
    for (std::size_t j = 0; j < count; ++j) {
        if (rest == Rest::keep && finite) left[j] = values[j];
        if (rest == Rest::publish) left[j] = left[j] + 0.0f;
    }
}

// Sums into `values` and returns the largest magnitude, as bits: infinities and NaN are largest.
template <Rest rest>
PSEDGE_PART std::uint32_t gather(const float* from, const float* left, float* values,
                                 std::size_t count) {
    std::uint32_t largest = 0;
    for (std::size_t j = 0; j < count; ++j) {
        float value = from[j];
        if constexpr (rest == Rest::keep) value = value + left[j];
        if constexpr (rest == Rest::publish) value = value - left[j];
        values[j] = value;
        const std::uint32_t size = static_cast<std::uint32_t>(bits_of(value)) & 0x7FFFFFFFu;
        largest = size > largest ? size : largest;
    }
    return largest;
}

// `left` has room for 256 values if the code is quantized; those past `count` mean nothing.
template <int code, Rest rest, bool stochastic>
PSEDGE_PART void code_bucket(const float* values, Measure measure, Dither dither,
                             std::uint8_t* codes, float* left, std::size_t count) {
    const bool carries = code <= BFLOAT16 ? measure.finite : measure.scale != 0;
    const float scale = bfloat_value(measure.scale);
    if (!carries) {
        code_nothing<code, rest>(values, measure.finite, codes, left, count);
    } else if constexpr (code <= BFLOAT16) {
        code_halves<code, rest>(values, codes, left, count);
    } else if constexpr (code == TERNARY) {
        code_ternary<rest>(values, scale, measure.threshold, codes, left);
    } else if constexpr (code == SIGN) {
        code_sign<rest>(values, scale, codes, left);
    } else {
        const std::uint32_t counter = stochastic ? hashed(dither.seed + dither.block) : 0;
        code_levels<code, rest, stochastic>(values, scale, counter, codes, left);
    }
}

// Up to a group of whole buckets, or one that is not whole if `count` is less than 256.
template <int code, Rest rest, bool stochastic>
PSEDGE_PART bool encode_group(const float* from, float* left, std::uint8_t* scales,
                              std::uint8_t* codes, Dither dither, std::size_t buckets,
                              std::size_t count) {
    constexpr std::size_t group = group_of(code);
    alignas(64) float values[group][BUCKET];
    Measure measures[group];
    std::uint32_t largest[group];
    bool finite = true;
    for (std::size_t b = 0; b < buckets; ++b) {
        prefetch<false>(from + b * BUCKET);
        if (rest != Rest::drop) prefetch<true>(left + b * BUCKET);
        largest[b] = gather<rest>(from + b * BUCKET, left + b * BUCKET, values[b], count);
        for (std::size_t j = count; j < BUCKET; ++j) values[b][j] = 0.0f;
    }
    for (std::size_t b = 0; b < buckets; ++b) {
        measures[b] = measured<code>(values[b], largest[b], count, dither.step);
    }
    for (std::size_t b = 0; b < buckets; ++b, ++dither.block) {
        if (code > BFLOAT16) put_word(scales + 2 * b, measures[b].scale);
        code_bucket<code, rest, stochastic>(values[b], measures[b], dither,
                                            codes + b * code_bytes(code), left + b * BUCKET, count);
        finite &= measures[b].finite;
    }
    return finite;
}

template <int code, Rest rest, bool stochastic>
PSEDGE_PART bool encode_buckets(const float* from, float* left, std::uint8_t* payload,
                                Dither dither, std::size_t elements) {
    const std::size_t buckets = buckets_of(elements);
    const std::size_t whole = elements / BUCKET;
    constexpr std::size_t group = group_of(code);
    std::uint8_t* codes = payload + (code > BFLOAT16 ? 2 * buckets : 0);
    bool finite = true;
    dither.seed = hashed(dither.seed);
    for (std::size_t bucket = 0; bucket < whole; bucket += group) {
        const std::size_t some = whole - bucket < group ? whole - bucket : group;
        finite &= encode_group<code, rest, stochastic>(from + bucket * BUCKET,
                                                       left + bucket * BUCKET, payload + 2 * bucket,
                                                       codes + bucket * code_bytes(code), dither,
                                                       some, BUCKET);
        dither.block += static_cast<std::uint32_t>(some);
    }
    if (whole < buckets) {
        const std::size_t count = elements - whole * BUCKET;
        alignas(64) float mine[BUCKET] = {};
        if (rest != Rest::drop) __builtin_memcpy(mine, left + whole * BUCKET, 4 * count);
        finite &= encode_group<code, rest, stochastic>(from + whole * BUCKET, mine,
                                                       payload + 2 * whole,
                                                       codes + whole * code_bytes(code), dither, 1,
                                                       count);
        if (rest != Rest::drop) __builtin_memcpy(left + whole * BUCKET, mine, 4 * count);
    }
    return finite;
}

template <int code>
PSEDGE_PART void encode_part(const float* values, float* residual, std::uint8_t* payload,
                             Dither dither, std::size_t elements, bool* finite) {
    constexpr bool rounds = code == Q8 || code == Q4 || code == ECSQ;
    if constexpr (code == FLOAT32) {
        (void)values;  // identity copies nothing; its codec needs no kernel
    } else if (rounds && dither.stochastic) {
        *finite = residual == nullptr
                      ? encode_buckets<code, Rest::drop, rounds>(values, residual, payload, dither,
                                                                 elements)
                      : encode_buckets<code, Rest::keep, rounds>(values, residual, payload, dither,
                                                                 elements);
    } else {
        *finite = residual == nullptr
                      ? encode_buckets<code, Rest::drop, false>(values, residual, payload, dither,
                                                                elements)
                      : encode_buckets<code, Rest::keep, false>(values, residual, payload, dither,
                                                                elements);
    }
}

template <int code>
PSEDGE_PART void encode_delta_part(const float* target, float* published, std::uint8_t* payload,
                                   Dither dither, std::size_t elements, bool* finite) {
    if constexpr (code != FLOAT32) {
        *finite = encode_buckets<code, Rest::publish, false>(target, published, payload, dither,
                                                             elements);
    }
}

PSEDGE_PART void encode_loop(int code, const float* values, float* residual, std::uint8_t* payload,
                             Dither dither, std::size_t elements, bool* finite) {
    PSEDGE_BY_CODE(code, encode_part, (values, residual, payload, dither, elements, finite))
}

PSEDGE_PART void encode_delta_loop(int code, const float* target, float* published,
                                   std::uint8_t* payload, Dither dither, std::size_t elements,
                                   bool* finite) {
    PSEDGE_BY_CODE(code, encode_delta_part, (target, published, payload, dither, elements, finite))
}

PSEDGE_KERNEL(encode,
              (int code, const float* values, float* residual, std::uint8_t* payload,
               Dither dither, std::size_t elements, bool* finite),
              (code, values, residual, payload, dither, elements, finite))

PSEDGE_KERNEL(encode_delta,
              (int code, const float* target, float* published, std::uint8_t* payload,
               Dither dither, std::size_t elements, bool* finite),
              (code, target, published, payload, dither, elements, finite))

}  // namespace psedge
