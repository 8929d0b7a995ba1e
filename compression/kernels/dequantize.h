// Payloads to float32: one bucket at a time into a buffer that stays in the first-level cache, from
// where it is stored, added or applied. value = code * scale is exact: 8 bits times at most 8.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"
#include "half.h"

namespace psedge {

// Elements of a bucket whose codes share a byte: element j + k * (BUCKET / planes) is the k-th of
// byte j. One for a code of a byte or more.
constexpr std::size_t planes_of(int code) {
    constexpr std::size_t planes[CODES] = {1, 1, 1, 1, 2, 4, 8, 2};
    return planes[code];
}

template <int code>
PSEDGE_PART const std::uint8_t* codes_at(const std::uint8_t* payload, std::size_t buckets,
                                         std::size_t bucket) {
    return payload + (code > BFLOAT16 ? 2 * buckets : 0) + bucket * code_bytes(code);
}

template <int code>
PSEDGE_PART float factor_at(const std::uint8_t* payload, std::size_t bucket) {
    return code > BFLOAT16 ? scale_at(payload, bucket) : 1.0f;
}

// The k-th value of byte j, or of float j, of a bucket whose codes begin at `from`.
template <int code>
PSEDGE_PART float value_at(const std::uint8_t* from, float scale, std::size_t j, std::size_t k) {
    if constexpr (code == FLOAT32) {
        float value;
        __builtin_memcpy(&value, from + 4 * j, sizeof value);
        return value;
    } else if constexpr (code == FLOAT16) {
        return half_value(word_at(from + 2 * j));
    } else if constexpr (code == BFLOAT16) {
        return bfloat_value(word_at(from + 2 * j));
    } else if constexpr (code == Q8) {
        return static_cast<float>(static_cast<std::int8_t>(from[j])) * scale;
    } else if constexpr (code == Q4 || code == ECSQ) {
        const std::int32_t byte = from[j];
        return static_cast<float>((k == 0 ? byte & 15 : byte >> 4) - 8) * scale;
    } else if constexpr (code == TERNARY) {
        const std::int32_t byte = from[j];
        const std::int32_t plus = (byte >> (2 * k)) & 1;
        const std::int32_t minus = (byte >> (2 * k + 1)) & 1;
        return static_cast<float>(plus - minus) * scale;
    } else {
        const std::uint32_t sign = (static_cast<std::uint32_t>(from[j]) << (31 - k)) & 0x80000000u;
        return float_of(bits_of(scale) ^ static_cast<std::int32_t>(sign));
    }
}

// Writes a bucket's values to `out`: `count` of them, except that a quantized code writes all 256,
// padding included. buckets: of the whole payload. No alignment is asked of `payload`.
template <int code>
PSEDGE_PART void decode_bucket(const std::uint8_t* payload, std::size_t buckets, std::size_t bucket,
                               std::size_t count, float* out) {
    constexpr std::size_t planes = planes_of(code);
    constexpr std::size_t plane = BUCKET / planes;
    const std::uint8_t* from = codes_at<code>(payload, buckets, bucket);
    const float scale = factor_at<code>(payload, bucket);
    const std::size_t bytes = code > BFLOAT16 ? plane : count;
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < bytes; ++j) {
        for (std::size_t k = 0; k < planes; ++k) {
            out[j + k * plane] = value_at<code>(from, scale, j, k);
        }
    }
}

// out = base + weight * values, of a whole bucket. `out` may be `base`.
template <int code>
PSEDGE_PART void add_bucket(const std::uint8_t* payload, std::size_t buckets, std::size_t bucket,
                            float weight, const float* base, float* out) {
    constexpr std::size_t planes = planes_of(code);
    constexpr std::size_t plane = BUCKET / planes;
    const std::uint8_t* from = codes_at<code>(payload, buckets, bucket);
    const float scale = factor_at<code>(payload, bucket);
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < plane; ++j) {
        for (std::size_t k = 0; k < planes; ++k) {
            const std::size_t i = j + k * plane;
            out[i] = base[i] + value_at<code>(from, scale, j, k) * weight;
        }
    }
}

// The same for a code that is known only at run time.
PSEDGE_PART void decode_bucket_of(int code, const std::uint8_t* payload, std::size_t buckets,
                                  std::size_t bucket, std::size_t count, float* out) {
    PSEDGE_BY_CODE(code, decode_bucket, (payload, buckets, bucket, count, out))
}

template <int code>
PSEDGE_PART void decode_part(const std::uint8_t* payload, float* out, std::size_t elements) {
    const std::size_t buckets = buckets_of(elements);
    const std::size_t whole = code > BFLOAT16 ? elements / BUCKET : buckets;
    for (std::size_t bucket = 0; bucket < whole; ++bucket) {
        decode_bucket<code>(payload, buckets, bucket, values_in(elements, bucket),
                            out + bucket * BUCKET);
    }
    if (whole < buckets) {
        alignas(64) float values[BUCKET];
        decode_bucket<code>(payload, buckets, whole, values_in(elements, whole), values);
        __builtin_memcpy(out + whole * BUCKET, values, 4 * values_in(elements, whole));
    }
}

template <int code>
PSEDGE_PART void accumulate_part(const std::uint8_t* payload, float weight, float* out,
                                 std::size_t elements) {
    const std::size_t buckets = buckets_of(elements);
    const std::size_t whole = elements / BUCKET;
    for (std::size_t bucket = 0; bucket < whole; ++bucket) {
        float* to = out + bucket * BUCKET;
        prefetch<true>(to);
        add_bucket<code>(payload, buckets, bucket, weight, to, to);
    }
    if (whole < buckets) {
        alignas(64) float values[BUCKET];
        float* to = out + whole * BUCKET;
        const std::size_t count = values_in(elements, whole);
        decode_bucket<code>(payload, buckets, whole, count, values);
        PSEDGE_INDEPENDENT
        for (std::size_t j = 0; j < count; ++j) to[j] = to[j] + values[j] * weight;
    }
}

PSEDGE_PART void decode_loop(int code, const std::uint8_t* payload, float* out,
                             std::size_t elements) {
    PSEDGE_BY_CODE(code, decode_part, (payload, out, elements))
}

PSEDGE_PART void decode_accumulate_loop(int code, const std::uint8_t* payload, float weight,
                                        float* out, std::size_t elements) {
    PSEDGE_BY_CODE(code, accumulate_part, (payload, weight, out, elements))
}

PSEDGE_KERNEL(decode, (int code, const std::uint8_t* payload, float* out, std::size_t elements),
              (code, payload, out, elements))

PSEDGE_KERNEL(decode_accumulate,
              (int code, const std::uint8_t* payload, float weight, float* out,
               std::size_t elements),
              (code, payload, weight, out, elements))

}  // namespace psedge
