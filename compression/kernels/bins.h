// The encoder of AdaComp (Chen et al. 2018): per bin of 256 elements, what would be as large as the
// bin's largest if the newest gradient were added once more moves out of the residual.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"
#include "select.h"

namespace psedge {

// Per tensor: the sum of its bins' largest magnitudes and how many bins that is. Bins of zeros, or
// of numbers too small to be sent, do not count.
struct BinTotals {
    double* largest;
    std::int64_t* bins;
};

// Flags what is to be sent of one bin, which is the part of a bucket that lies in one tensor.
PSEDGE_PART void flag_bin(const float* sums, const float* values, std::size_t count,
                          std::uint8_t* flags, double& total, std::int64_t& bins) {
    const std::int32_t largest = largest_bits(sums, count);
    if (largest < SELECT_TINY) {
        __builtin_memset(flags, 0, count);
        return;
    }
    total += static_cast<double>(float_of(largest));
    bins += 1;
    for (std::size_t i = 0; i < count; ++i) {
        flags[i] = magnitude_bits(sums[i] + values[i]) >= largest;
    }
}

// tensor: the first one that the bucket may hold a part of; returns the last one.
PSEDGE_PART std::size_t select_bins_bucket(const float* values, float* residual,
                                           const std::int64_t* stops, std::size_t tensor,
                                           std::size_t start, std::size_t count, BinTotals totals,
                                           Selection& out) {
    float sums[BUCKET];
    for (std::size_t i = 0; i < count; ++i) sums[i] = residual[start + i] + values[start + i];
    if (largest_bits(sums, count) >= SELECT_INFINITY) {
        out.finite = false;
        return tensor;
    }
    __builtin_memcpy(residual + start, sums, count * sizeof(float));
    std::uint8_t flags[BUCKET];
    __builtin_memset(flags + count, 0, BUCKET - count);
    std::size_t from = 0;
    while (from < count) {
        while (static_cast<std::size_t>(stops[tensor]) <= start + from) ++tensor;
        const std::size_t end = static_cast<std::size_t>(stops[tensor]) - start;
        const std::size_t to = end < count ? end : count;
        if (to - from == BUCKET) {
            flag_bin(sums, values + start, BUCKET, flags, totals.largest[tensor],
                     totals.bins[tensor]);
        } else {
            flag_bin(sums + from, values + start + from, to - from, flags + from,
                     totals.largest[tensor], totals.bins[tensor]);
        }
        from = to;
    }
    move_flagged(flags, sums, residual, nullptr, start, out);
    return tensor;
}

PSEDGE_PART void select_bins_loop(const float* values, float* residual, const std::int64_t* stops,
                                  std::size_t elements, BinTotals totals, Selection* out) {
    const std::size_t whole = elements / BUCKET * BUCKET;
    std::size_t tensor = 0;
    for (std::size_t start = 0; start < whole; start += BUCKET) {
        prefetch_bucket(values, residual, start, elements);
        tensor = select_bins_bucket(values, residual, stops, tensor, start, BUCKET, totals,
                                    *out);
    }
    if (whole < elements) {
        select_bins_bucket(values, residual, stops, tensor, whole, elements - whole, totals, *out);
    }
}

// stops: where each tensor ends; rising, the last is `elements`. totals: zeros at first.
PSEDGE_KERNEL(select_bins,
              (const float* values, float* residual, const std::int64_t* stops,
               std::size_t elements, BinTotals totals, Selection* out),
              (values, residual, stops, elements, totals, out))

}  // namespace psedge
