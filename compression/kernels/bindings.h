// What the bindings share: the arrays that Python may pass, and the checks before a kernel runs.
// nanobind checks types, contiguity and dimensions; sizes and alignment are checked here.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "bucket.h"

namespace psedge::bindings {

namespace nb = nanobind;

template <typename T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = Vector<float>;
using ConstFloats = Vector<const float>;
using Bytes = Vector<std::uint8_t>;
using ConstBytes = Vector<const std::uint8_t>;

template <typename T>
T* checked(const Vector<T>& vector, std::size_t elements) {
    if (vector.size() != elements) throw nb::value_error("the arrays differ in length");
    if (reinterpret_cast<std::uintptr_t>(vector.data()) % alignof(T) != 0) {
        throw nb::value_error("an array is not aligned to its elements");
    }
    return vector.data();
}

template <typename T>
T* checked(const std::optional<Vector<T>>& vector, std::size_t elements) {
    return vector ? checked(*vector, elements) : nullptr;
}

// The bytes of a payload of so many values, once its size is known to be exactly theirs.
template <typename T>
T* checked_payload(int code, const Vector<T>& payload, std::size_t elements) {
    if (code < 0 || code >= CODES) throw nb::value_error("there is no such code");
    if (payload.size() != payload_bytes(code, elements)) {
        throw nb::value_error("the payload's size is not that of the values");
    }
    return payload.data();
}

// The code, if values can be encoded in it. step: of ECSQ, in root mean squares.
inline int checked_encoder(int code, double step) {
    if (code <= FLOAT32 || code >= CODES) throw nb::value_error("there is no encoder of this code");
    if (code == ECSQ && !(step >= 1.0 / 16 && step <= 16)) {
        throw nb::value_error("the step is not within 1/16 and 16");
    }
    return code;
}

void bind_quantize(nb::module_& module);
void bind_apply(nb::module_& module);
void bind_sparse(nb::module_& module);

}  // namespace psedge::bindings
