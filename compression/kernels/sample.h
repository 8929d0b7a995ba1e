// The threshold that about so many values exceed, from some of them.
//
// A threshold carried over from the payload before would save this, but gradients change in size
// from batch to batch: on ResNet-32 it let through from a twentieth to more than twice of what was
// wished. A sample that holds some 200 of the largest is mostly right to a tenth or two. It has to
// be exact about those, since a residual holds many values just below the last thresholds: no
// histogram, but the bits of the threshold, two at a time, with counts that vectorise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "select.h"

namespace psedge {

constexpr std::size_t SAMPLE_LINE = 16;
constexpr std::size_t SAMPLE_AHEAD = 16;
constexpr int SAMPLE_EXACT = 11;  // the lowest bits of a threshold, which stay 0

// values, residual, velocity, momentum: as in select. Of every `stride` lines of 16 values, from
// line `first` on, one is sampled; stride is not 0.
struct Sample {
    const float* values;
    const float* residual;
    const float* velocity;
    float momentum;
    std::size_t first;
    std::size_t stride;
    std::size_t elements;
};

// Room for a sample, in values.
PSEDGE_PART std::size_t sample_room(std::size_t elements, std::size_t stride) {
    return (elements / (SAMPLE_LINE * stride) + 1) * SAMPLE_LINE;
}

// The magnitudes of a line as bits, 0 for those that are not finite.
template <bool corrected>
PSEDGE_PART void line_bits(const Sample& sample, std::size_t start, std::size_t size,
                           std::int32_t* out) {
    PSEDGE_INDEPENDENT
    for (std::size_t i = 0; i < size; ++i) {
        float value = sample.values[start + i];
        if constexpr (corrected) {
            value = sample.velocity[start + i] * sample.momentum + value;
        }
        const std::int32_t bits = magnitude_bits(sample.residual[start + i] + value);
        out[i] = bits < SELECT_INFINITY ? bits : 0;
    }
}

template <bool corrected>
PSEDGE_PART std::size_t take_sample(const Sample& sample, std::int32_t* out) {
    const std::size_t step = sample.stride * SAMPLE_LINE;
    std::size_t taken = 0;
    for (std::size_t start = sample.first * SAMPLE_LINE; start < sample.elements; start += step) {
        // The lines lie in different pages: no processor foresees which comes next.
        const std::size_t ahead = start + SAMPLE_AHEAD * step;
        if (ahead < sample.elements) {
            __builtin_prefetch(sample.values + ahead);
            __builtin_prefetch(sample.residual + ahead);
        }
        const std::size_t left = sample.elements - start;
        const std::size_t size = left < SAMPLE_LINE ? left : SAMPLE_LINE;
        line_bits<corrected>(sample, start, size, out + taken);
        taken += size;
    }
    return taken;
}

// The largest number, its lowest bits 0, that more than `wished` magnitudes reach; 0 if there are
// no more than that. Two bits a pass: reading the sample takes longer than comparing it.
PSEDGE_PART std::int32_t exceeded(const std::int32_t* bits, std::size_t count,
                                  std::size_t wished) {
    std::int32_t found = 0;
    for (int bit = 29; bit >= SAMPLE_EXACT; bit -= 2) {
        const std::int32_t step = std::int32_t{1} << bit;
        const std::int32_t one = found + step;
        const std::int32_t two = one + step;
        const std::int32_t three = two + step;
        std::uint32_t reach_one = 0;
        std::uint32_t reach_two = 0;
        std::uint32_t reach_three = 0;
        for (std::size_t i = 0; i < count; ++i) {
            reach_one += bits[i] >= one ? 1u : 0u;
            reach_two += bits[i] >= two ? 1u : 0u;
            reach_three += bits[i] >= three ? 1u : 0u;
        }
        found += step * ((reach_one > wished) + (reach_two > wished) + (reach_three > wished));
    }
    return found;
}

PSEDGE_PART void sample_threshold_loop(const Sample& sample, double density,
                                       std::int32_t* scratch, float* threshold) {
    const std::size_t count = sample.velocity == nullptr ? take_sample<false>(sample, scratch)
                                                         : take_sample<true>(sample, scratch);
    const std::size_t wished = static_cast<std::size_t>(density * static_cast<double>(count));
    *threshold = float_of(exceeded(scratch, count, wished));
}

// density: of the values, how many shall lie above; from 0 to 1. scratch: see sample_room.
PSEDGE_KERNEL(sample_threshold,
              (const Sample& sample, double density, std::int32_t* scratch, float* threshold),
              (sample, density, scratch, threshold))

}  // namespace psedge
