// One step of an update rule along a sum of payloads, in one pass over memory: bucket by bucket the
// payloads are decoded and summed in the first-level cache, and the rule takes the sum from there.
// Each element goes through the float32 operations that step.py lists, in their order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sum.h"

namespace psedge {

// Elements with equal settings: where each run of them ends, and its row of settings.
struct Runs {
    const std::int64_t* stops;
    const float* settings;
};

struct SgdSettings {
    float rate, decay, momentum, undamped, nesterov;
};
struct AdamSettings {
    float rate, decay, beta1, rest1, beta2, rest2, scale, eps;
};
constexpr std::size_t SGD_COLUMNS = sizeof(SgdSettings) / sizeof(float);
constexpr std::size_t ADAM_COLUMNS = sizeof(AdamSettings) / sizeof(float);

// velocity: null for none.
struct SgdState {
    float* velocity;
};
struct AdamState {
    float* mean;
    float* square;
    bool decoupled;
};

enum class Momentum { none, plain, nesterov };

template <bool decays, Momentum kind>
PSEDGE_PART void sgd_elements(float* parameters, const float* gradient, float* velocity,
                              const SgdSettings& run, float weight, std::size_t count) {
    const float rate = run.rate, decay = run.decay, momentum = run.momentum;
    const float undamped = run.undamped;
    PSEDGE_INDEPENDENT
    for (std::size_t i = 0; i < count; ++i) {
        const float parameter = parameters[i];
        float direction = gradient[i];
        if constexpr (decays) direction = direction + parameter * decay;
        direction = direction * weight;
        if constexpr (kind != Momentum::none) {
            direction = direction * undamped;
            const float moved = velocity[i] * momentum + direction;
            velocity[i] = moved;
            direction = kind == Momentum::nesterov ? direction + moved * momentum : moved;
        }
        parameters[i] = parameter - direction * rate;
    }
}

template <bool decays>
PSEDGE_PART void sgd_momentum(float* parameters, const float* gradient, float* velocity,
                              const SgdSettings& run, float weight, std::size_t count) {
    if (velocity == nullptr) {
        sgd_elements<decays, Momentum::none>(parameters, gradient, velocity, run, weight, count);
    } else if (run.nesterov != 0.0f) {
        sgd_elements<decays, Momentum::nesterov>(parameters, gradient, velocity, run, weight,
                                                 count);
    } else {
        sgd_elements<decays, Momentum::plain>(parameters, gradient, velocity, run, weight, count);
    }
}

// The elements from `start` on, all of one run.
PSEDGE_PART void step_run(float* parameters, const float* gradient, const SgdState& state,
                          std::size_t start, const SgdSettings& run, float weight,
                          std::size_t count) {
    float* velocity = state.velocity == nullptr ? nullptr : state.velocity + start;
    if (run.decay != 0.0f) {
        sgd_momentum<true>(parameters + start, gradient, velocity, run, weight, count);
    } else {
        sgd_momentum<false>(parameters + start, gradient, velocity, run, weight, count);
    }
}

enum class Decay { none, coupled, decoupled };

template <Decay kind>
PSEDGE_PART void adam_elements(float* parameters, const float* gradient, float* mean, float* square,
                               const AdamSettings& run, float weight, std::size_t count) {
    const float rate = run.rate, beta1 = run.beta1, beta2 = run.beta2, rest2 = run.rest2;
    const float scale = run.scale, eps = run.eps;
    const float rest1 = run.rest1 * weight;
    const float decay = kind == Decay::decoupled ? run.decay * weight : run.decay;
    PSEDGE_INDEPENDENT
    for (std::size_t i = 0; i < count; ++i) {
        float parameter = parameters[i];
        float along = gradient[i];
        if constexpr (kind == Decay::coupled) along = along + parameter * decay;
        if constexpr (kind == Decay::decoupled) parameter = parameter - parameter * decay;
        const float second = square[i] * beta2 + (along * along) * rest2;
        const float first = mean[i] * beta1 + along * rest1;
        square[i] = second;
        mean[i] = first;
        parameters[i] = parameter - (first / (__builtin_sqrtf(second) * scale + eps)) * rate;
    }
}

PSEDGE_PART void step_run(float* parameters, const float* gradient, const AdamState& state,
                          std::size_t start, const AdamSettings& run, float weight,
                          std::size_t count) {
    float* mean = state.mean + start;
    float* square = state.square + start;
    parameters += start;
    if (run.decay == 0.0f) {
        adam_elements<Decay::none>(parameters, gradient, mean, square, run, weight, count);
    } else if (state.decoupled) {
        adam_elements<Decay::decoupled>(parameters, gradient, mean, square, run, weight, count);
    } else {
        adam_elements<Decay::coupled>(parameters, gradient, mean, square, run, weight, count);
    }
}

// The runs end where the elements do.
template <typename Settings, typename State>
PSEDGE_PART void apply_buckets(const Gradient& gradient, float* parameters, const State& state,
                               const Runs& runs, float weight, std::size_t elements) {
    alignas(64) float sum[BUCKET];
    alignas(64) float term[BUCKET];
    std::size_t run = 0;
    for (std::size_t bucket = 0; bucket < buckets_of(elements); ++bucket) {
        const float* along = bucket_gradient(gradient, elements, bucket, sum, term);
        const std::size_t first = bucket * BUCKET;
        const std::size_t last = first + values_in(elements, bucket);
        for (std::size_t start = first; start < last;) {
            const std::size_t stop = static_cast<std::size_t>(runs.stops[run]);
            const std::size_t end = stop < last ? stop : last;
            Settings settings;
            __builtin_memcpy(&settings, runs.settings + run * (sizeof settings / sizeof(float)),
                             sizeof settings);
            step_run(parameters, along + (start - first), state, start, settings, weight,
                     end - start);
            if (end == stop) ++run;
            start = end;
        }
    }
}

PSEDGE_PART void sgd_loop(const Gradient& gradient, float* parameters, const SgdState& state,
                          const Runs& runs, float weight, std::size_t elements) {
    apply_buckets<SgdSettings>(gradient, parameters, state, runs, weight, elements);
}

PSEDGE_PART void adam_loop(const Gradient& gradient, float* parameters, const AdamState& state,
                           const Runs& runs, float weight, std::size_t elements) {
    apply_buckets<AdamSettings>(gradient, parameters, state, runs, weight, elements);
}

PSEDGE_KERNEL(sgd,
              (const Gradient& gradient, float* parameters, const SgdState& state,
               const Runs& runs, float weight, std::size_t elements),
              (gradient, parameters, state, runs, weight, elements))

PSEDGE_KERNEL(adam,
              (const Gradient& gradient, float* parameters, const AdamState& state,
               const Runs& runs, float weight, std::size_t elements),
              (gradient, parameters, state, runs, weight, elements))

}  // namespace psedge
