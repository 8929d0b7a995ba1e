// SGD with momentum (torch.optim.SGD's rule) in one pass over memory. Each element goes through the
// float32 operations of server/update_rule.py in their order, so the results are the same bits.
#pragma once

#include <cstddef>

#include "targets.h"

namespace psedge {

// What applies to every element. A factor that is off is 1, which changes no bit of a product.
struct SgdStep {
    float weight;
    float momentum;
    float undamped;
};

// One number for all elements, or one for each.
struct Setting {
    float all;
    const float* each;
};

enum class Momentum { none, plain, nesterov };

template <bool decays, bool each_decay, bool each_rate, Momentum kind>
PSEDGE_PART void sgd_elements(float* parameters, const float* gradient, float* velocity,
                              Setting rate, Setting decay, SgdStep step, std::size_t elements) {
    PSEDGE_INDEPENDENT
    for (std::size_t i = 0; i < elements; ++i) {
        const float parameter = parameters[i];
        float direction = gradient[i];
        if constexpr (decays) {
            direction = direction + parameter * (each_decay ? decay.each[i] : decay.all);
        }
        direction = direction * step.weight;
        if constexpr (kind != Momentum::none) {
            direction = direction * step.undamped;
            const float moved = velocity[i] * step.momentum + direction;
            velocity[i] = moved;
            direction = kind == Momentum::nesterov ? direction + moved * step.momentum : moved;
        }
        parameters[i] = parameter - direction * (each_rate ? rate.each[i] : rate.all);
    }
}

template <bool decays, bool each_decay, bool each_rate>
PSEDGE_PART void sgd_momentum(float* parameters, const float* gradient, float* velocity,
                              Setting rate, Setting decay, SgdStep step, bool nesterov,
                              std::size_t elements) {
    if (velocity == nullptr) {
        sgd_elements<decays, each_decay, each_rate, Momentum::none>(
            parameters, gradient, velocity, rate, decay, step, elements);
    } else if (nesterov) {
        sgd_elements<decays, each_decay, each_rate, Momentum::nesterov>(
            parameters, gradient, velocity, rate, decay, step, elements);
    } else {
        sgd_elements<decays, each_decay, each_rate, Momentum::plain>(
            parameters, gradient, velocity, rate, decay, step, elements);
    }
}

template <bool each_rate>
PSEDGE_PART void sgd_decay(float* parameters, const float* gradient, float* velocity, Setting rate,
                           Setting decay, SgdStep step, bool nesterov, std::size_t elements) {
    if (decay.each != nullptr) {
        sgd_momentum<true, true, each_rate>(parameters, gradient, velocity, rate, decay, step,
                                            nesterov, elements);
    } else if (decay.all != 0.0f) {
        sgd_momentum<true, false, each_rate>(parameters, gradient, velocity, rate, decay, step,
                                             nesterov, elements);
    } else {
        sgd_momentum<false, false, each_rate>(parameters, gradient, velocity, rate, decay, step,
                                              nesterov, elements);
    }
}

PSEDGE_PART void sgd_loop(float* parameters, const float* gradient, float* velocity, Setting rate,
                          Setting decay, SgdStep step, bool nesterov, std::size_t elements) {
    if (rate.each != nullptr) {
        sgd_decay<true>(parameters, gradient, velocity, rate, decay, step, nesterov, elements);
    } else {
        sgd_decay<false>(parameters, gradient, velocity, rate, decay, step, nesterov, elements);
    }
}

// velocity: the momentum's state, changed in place; null for none.
PSEDGE_KERNEL(sgd,
              (float* parameters, const float* gradient, float* velocity, Setting rate,
               Setting decay, SgdStep step, bool nesterov, std::size_t elements),
              (parameters, gradient, velocity, rate, decay, step, nesterov, elements))

}  // namespace psedge
