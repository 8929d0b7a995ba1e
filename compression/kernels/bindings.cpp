// What Python sees of the kernels: sizes and alignment are checked here, then the interpreter is
// let go while a kernel runs. Types, contiguity and dimensions are checked by nanobind.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>

#include "half.h"
#include "sgd.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = Vector<float>;
using ConstFloats = Vector<const float>;
using Halves = Vector<std::uint16_t>;
using ConstHalves = Vector<const std::uint16_t>;

template <typename T>
T* checked(const Vector<T>& vector, std::size_t elements) {
    if (vector.size() != elements) throw nb::value_error("the arrays differ in length");
    if (reinterpret_cast<std::uintptr_t>(vector.data()) % alignof(T) != 0) {
        throw nb::value_error("an array is not aligned to its elements");
    }
    return vector.data();
}

void half_decode(const ConstHalves& halves, const Floats& out) {
    const std::size_t elements = out.size();
    const std::uint16_t* from = checked(halves, elements);
    float* to = checked(out, elements);
    nb::gil_scoped_release release;
    psedge::half_decode(from, to, elements);
}

void half_encode(const ConstFloats& values, const Halves& out,
                 const std::optional<Floats>& dropped) {
    const std::size_t elements = out.size();
    const float* from = checked(values, elements);
    std::uint16_t* to = checked(out, elements);
    float* rest = dropped ? checked(*dropped, elements) : nullptr;
    nb::gil_scoped_release release;
    if (rest != nullptr) {
        psedge::half_encode_dropping(from, to, rest, elements);
    } else {
        psedge::half_encode(from, to, elements);
    }
}

psedge::Setting setting(double all, const std::optional<ConstFloats>& each, std::size_t elements) {
    return {static_cast<float>(all), each ? checked(*each, elements) : nullptr};
}

void sgd(const Floats& parameters, const ConstFloats& gradient,
         const std::optional<Floats>& velocity, double rate, const std::optional<ConstFloats>& rates,
         double decay, const std::optional<ConstFloats>& decays, double weight, double momentum,
         double undamped, bool nesterov) {
    const std::size_t elements = parameters.size();
    float* changed = checked(parameters, elements);
    const float* along = checked(gradient, elements);
    float* state = velocity ? checked(*velocity, elements) : nullptr;
    const psedge::Setting by_rate = setting(rate, rates, elements);
    const psedge::Setting by_decay = setting(decay, decays, elements);
    const psedge::SgdStep step = {static_cast<float>(weight), static_cast<float>(momentum),
                                  static_cast<float>(undamped)};
    nb::gil_scoped_release release;
    psedge::sgd(changed, along, state, by_rate, by_decay, step, nesterov, elements);
}

}  // namespace

NB_MODULE(_kernels, module) {
    module.def("half_decode", &half_decode, "halves"_a.noconvert(), "out"_a.noconvert());
    module.def("half_encode", &half_encode, "values"_a.noconvert(), "out"_a.noconvert(),
               "dropped"_a.noconvert().none() = nb::none());
    module.def("sgd", &sgd, "parameters"_a.noconvert(), "gradient"_a.noconvert(),
               "velocity"_a.noconvert().none(), "rate"_a, "rates"_a.noconvert().none(), "decay"_a,
               "decays"_a.noconvert().none(), "weight"_a, "momentum"_a, "undamped"_a,
               "nesterov"_a);
}
