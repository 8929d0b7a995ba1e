// SGD and Adam along payloads.
#include <vector>

#include "apply.h"
#include "bindings.h"

using namespace nanobind::literals;

namespace psedge::bindings {

namespace {

using Stops = Vector<const std::int64_t>;
using Table = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// A gradient for `elements` parameters; `from` holds what it points to.
Gradient gradient_of(int code, const nb::sequence& payloads, const ConstFloats& weights,
                     const std::optional<ConstFloats>& dense, std::size_t elements,
                     std::vector<const std::uint8_t*>& from) {
    from.reserve(weights.size());
    for (const nb::handle payload : payloads) {
        ConstBytes array;
        if (!nb::try_cast(payload, array, false)) {
            throw nb::type_error("a payload is a contiguous vector of uint8");
        }
        from.push_back(checked_payload(code, array, elements));
    }
    return {code, from.size(), from.data(), checked(weights, from.size()), checked(dense, elements)};
}

Runs runs_of(const Stops& stops, const Table& settings, std::size_t columns,
             std::size_t elements) {
    const std::int64_t* ends = checked(stops, settings.shape(0));
    if (settings.shape(1) != columns) throw nb::value_error("the settings do not fit the rule");
    std::int64_t last = 0;
    for (std::size_t i = 0; i < stops.size(); ++i) {
        if (ends[i] <= last) throw nb::value_error("the runs do not rise");
        last = ends[i];
    }
    if (static_cast<std::size_t>(last) != elements) {
        throw nb::value_error("the runs do not rise to the parameters' length");
    }
    if (reinterpret_cast<std::uintptr_t>(settings.data()) % alignof(float) != 0) {
        throw nb::value_error("an array is not aligned to its elements");
    }
    return {ends, settings.data()};
}

void sgd(int code, const nb::sequence& payloads, const ConstFloats& weights,
         const std::optional<ConstFloats>& dense, const Floats& parameters,
         const std::optional<Floats>& velocity, const Stops& stops, const Table& settings,
         double weight) {
    const std::size_t elements = parameters.size();
    std::vector<const std::uint8_t*> from;
    const Gradient gradient = gradient_of(code, payloads, weights, dense, elements, from);
    float* changed = checked(parameters, elements);
    const SgdState state = {checked(velocity, elements)};
    const Runs runs = runs_of(stops, settings, SGD_COLUMNS, elements);
    nb::gil_scoped_release release;
    psedge::sgd(gradient, changed, state, runs, static_cast<float>(weight), elements);
}

void adam(int code, const nb::sequence& payloads, const ConstFloats& weights,
          const std::optional<ConstFloats>& dense, const Floats& parameters, const Floats& exp_avg,
          const Floats& exp_avg_sq, const Stops& stops, const Table& settings, double weight,
          bool decoupled) {
    const std::size_t elements = parameters.size();
    std::vector<const std::uint8_t*> from;
    const Gradient gradient = gradient_of(code, payloads, weights, dense, elements, from);
    float* changed = checked(parameters, elements);
    const AdamState state = {checked(exp_avg, elements), checked(exp_avg_sq, elements), decoupled};
    const Runs runs = runs_of(stops, settings, ADAM_COLUMNS, elements);
    nb::gil_scoped_release release;
    psedge::adam(gradient, changed, state, runs, static_cast<float>(weight), elements);
}

}  // namespace

void bind_apply(nb::module_& module) {
    module.def("sgd", &sgd, "code"_a, "payloads"_a, "weights"_a.noconvert(),
               "dense"_a.noconvert().none(), "parameters"_a.noconvert(),
               "velocity"_a.noconvert().none(), "stops"_a.noconvert(), "settings"_a.noconvert(),
               "weight"_a);
    module.def("adam", &adam, "code"_a, "payloads"_a, "weights"_a.noconvert(),
               "dense"_a.noconvert().none(), "parameters"_a.noconvert(), "exp_avg"_a.noconvert(),
               "exp_avg_sq"_a.noconvert(), "stops"_a.noconvert(), "settings"_a.noconvert(),
               "weight"_a, "decoupled"_a);
}

}  // namespace psedge::bindings
