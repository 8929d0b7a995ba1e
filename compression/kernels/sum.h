// The sum of a dense gradient and weighted payloads, one bucket at a time in the first-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dequantize.h"

namespace psedge {

// dense, if that is not null, and then weights[i] times each payload, in their order.
struct Gradient {
    int code;
    std::size_t payloads;
    const std::uint8_t* const* payload;
    const float* weights;
    const float* dense;
};

// Buckets ahead of which payloads are fetched: several at once, each read in bursts of a few lines,
// are more than a processor's own prefetching follows.
constexpr std::size_t AHEAD = 4;

// Two payloads' whole buckets at once, which saves storing and loading the sum in between. base:
// what comes before them, only read if `based`; it may be `out`.
template <int code, bool based>
PSEDGE_PART void add_two(const std::uint8_t* const* payload, const float* weights,
                         std::size_t buckets, std::size_t bucket, const float* base, float* out) {
    constexpr std::size_t planes = planes_of(code);
    constexpr std::size_t plane = BUCKET / planes;
    const std::uint8_t* one = codes_at<code>(payload[0], buckets, bucket);
    const std::uint8_t* two = codes_at<code>(payload[1], buckets, bucket);
    const float one_scale = factor_at<code>(payload[0], bucket), one_weight = weights[0];
    const float two_scale = factor_at<code>(payload[1], bucket), two_weight = weights[1];
    PSEDGE_INDEPENDENT
    for (std::size_t j = 0; j < plane; ++j) {
        for (std::size_t k = 0; k < planes; ++k) {
            const std::size_t i = j + k * plane;
            float sum = value_at<code>(one, one_scale, j, k) * one_weight;
            if constexpr (based) sum = base[i] + sum;
            out[i] = sum + value_at<code>(two, two_scale, j, k) * two_weight;
        }
    }
}

// A whole bucket: sum = base + one or two weighted payloads; base: null for none.
template <int code>
PSEDGE_PART void add_some(const std::uint8_t* const* payload, const float* weights,
                          std::size_t some, std::size_t buckets, std::size_t bucket,
                          const float* base, float* sum) {
    if (some == 2 && base == nullptr) {
        add_two<code, false>(payload, weights, buckets, bucket, base, sum);
    } else if (some == 2) {
        add_two<code, true>(payload, weights, buckets, bucket, base, sum);
    } else if (base != nullptr) {
        add_bucket<code>(payload[0], buckets, bucket, weights[0], base, sum);
    } else {
        decode_bucket<code>(payload[0], buckets, bucket, BUCKET, sum);
        if (weights[0] == 1.0f) return;
        PSEDGE_INDEPENDENT
        for (std::size_t j = 0; j < BUCKET; ++j) sum[j] = sum[j] * weights[0];
    }
}

PSEDGE_PART void add_some_of(int code, const std::uint8_t* const* payload, const float* weights,
                             std::size_t some, std::size_t buckets, std::size_t bucket,
                             const float* base, float* sum) {
    PSEDGE_BY_CODE(code, add_some, (payload, weights, some, buckets, bucket, base, sum))
}

PSEDGE_PART void fetch_ahead(const Gradient& gradient, std::size_t buckets, std::size_t bucket) {
    const std::size_t bytes = code_bytes(gradient.code);
    if (gradient.payloads < 2 || bucket + AHEAD >= buckets) return;
    const std::size_t start =
        (gradient.code > BFLOAT16 ? 2 * buckets : 0) + (bucket + AHEAD) * bytes;
    for (std::size_t i = 0; i < gradient.payloads; ++i) {
        for (std::size_t byte = 0; byte < bytes; byte += 64) {
            __builtin_prefetch(gradient.payload[i] + start + byte);
        }
    }
}

// The last bucket, if it is not whole. sum, term: room for 256 values each, since a quantized
// payload is padded to as many.
PSEDGE_PART const float* partial_gradient(const Gradient& gradient, std::size_t buckets,
                                          std::size_t bucket, std::size_t count,
                                          const float* so_far, float* sum, float* term) {
    for (std::size_t i = 0; i < gradient.payloads; ++i) {
        const float weight = gradient.weights[i];
        decode_bucket_of(gradient.code, gradient.payload[i], buckets, bucket, count, term);
        for (std::size_t j = 0; j < count; ++j) {
            sum[j] = so_far == nullptr ? term[j] * weight : so_far[j] + term[j] * weight;
        }
        so_far = sum;
    }
    return so_far;
}

// A bucket's gradient, in `sum` or where it lies already.
PSEDGE_PART const float* bucket_gradient(const Gradient& gradient, std::size_t elements,
                                         std::size_t bucket, float* sum, float* term) {
    const std::size_t buckets = buckets_of(elements);
    const std::size_t count = values_in(elements, bucket);
    const float* so_far = gradient.dense == nullptr ? nullptr : gradient.dense + bucket * BUCKET;
    if (so_far == nullptr && gradient.payloads == 0) {
        for (std::size_t j = 0; j < BUCKET; ++j) sum[j] = 0.0f;
        return sum;
    }
    if (count < BUCKET) {
        return partial_gradient(gradient, buckets, bucket, count, so_far, sum, term);
    }
    fetch_ahead(gradient, buckets, bucket);
    for (std::size_t i = 0; i < gradient.payloads; i += 2) {
        add_some_of(gradient.code, gradient.payload + i, gradient.weights + i,
                    gradient.payloads - i > 1 ? 2 : 1, buckets, bucket, so_far, sum);
        so_far = sum;
    }
    return so_far;
}

}  // namespace psedge
