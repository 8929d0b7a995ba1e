// The bindings of what sparse codecs need: selection, and payloads of picked values.
#include "bindings.h"

#include <memory>

#include "bins.h"
#include "sample.h"
#include "select.h"
#include "signs.h"
#include "sparse.h"

using namespace nanobind::literals;

namespace psedge::bindings {

namespace {

using Positions = Vector<std::uint32_t>;
using ConstPositions = Vector<const std::uint32_t>;
using ConstStops = Vector<const std::int64_t>;
using ConstScales = Vector<const std::uint16_t>;
using Counts = Vector<std::int64_t>;
using Doubles = Vector<double>;

Selection selection(const Positions& indices, const Floats& picked) {
    const std::size_t room = indices.size();
    return {checked(indices, room), checked(picked, room), room, 0, true};
}

std::size_t positions_in(std::size_t elements) {
    if (elements > UINT32_MAX) throw nb::value_error("a position has 32 bits");
    return elements;
}

double threshold_of(const ConstFloats& values, const ConstFloats& residual,
                    const std::optional<ConstFloats>& velocity, double momentum, double density,
                    std::size_t first, std::size_t stride) {
    const std::size_t elements = positions_in(values.size());
    const float* from = checked(values, elements);
    const float* rest = checked(residual, elements);
    const float* moving = checked(velocity, elements);
    if (stride == 0) throw nb::value_error("a stride is not 0");
    if (!(density >= 0.0 && density <= 1.0)) throw nb::value_error("a density is from 0 to 1");
    // Past the end is past the end, and no product of these can be too large.
    first = first < elements ? first : elements;
    stride = stride < elements + 1 ? stride : elements + 1;
    const std::unique_ptr<std::int32_t[]> scratch(
        new std::int32_t[sample_room(elements, stride)]);
    const Sample sample = {from,  rest,   moving,  static_cast<float>(momentum),
                           first, stride, elements};
    float threshold = 0.0f;
    nb::gil_scoped_release release;
    sample_threshold(sample, density, scratch.get(), &threshold);
    return static_cast<double>(threshold);
}

nb::tuple select_values(const ConstFloats& values, const Floats& residual,
                        const std::optional<Floats>& velocity, double momentum, double threshold,
                        const Positions& indices, const Floats& picked) {
    const std::size_t elements = positions_in(values.size());
    const float* from = checked(values, elements);
    float* rest = checked(residual, elements);
    float* moving = checked(velocity, elements);
    if (!(threshold >= 0.0)) throw nb::value_error("a threshold is not negative");
    Selection out = selection(indices, picked);
    {
        nb::gil_scoped_release release;
        select(from, rest, moving, static_cast<float>(momentum), static_cast<float>(threshold),
               elements, &out);
    }
    return nb::make_tuple(out.count, out.finite);
}

Tensors tensors_of(const ConstStops& stops, std::size_t elements) {
    const Tensors tensors = {checked(stops, stops.size()), stops.size(), elements};
    std::int64_t before = 0;
    for (std::size_t i = 0; i < tensors.count; ++i) {
        if (tensors.stops[i] < before) throw nb::value_error("stops do not fall");
        before = tensors.stops[i];
    }
    if (static_cast<std::size_t>(before) != elements) {
        throw nb::value_error("the last stop is the number of elements");
    }
    return tensors;
}

nb::tuple select_by_bins(const ConstFloats& values, const Floats& residual,
                         const ConstStops& stops, const Doubles& totals, const Counts& bins,
                         const Positions& indices, const Floats& picked) {
    const std::size_t elements = positions_in(values.size());
    const Tensors tensors = tensors_of(stops, elements);
    const float* from = checked(values, elements);
    float* rest = checked(residual, elements);
    const BinTotals sums = {checked(totals, tensors.count), checked(bins, tensors.count)};
    Selection out = selection(indices, picked);
    {
        nb::gil_scoped_release release;
        select_bins(from, rest, tensors.stops, elements, sums, &out);
    }
    return nb::make_tuple(out.count, out.finite);
}

void check_rising(const std::uint32_t* indices, std::size_t count, std::size_t elements) {
    for (std::size_t i = 1; i < count; ++i) {
        if (indices[i] <= indices[i - 1]) throw nb::value_error("indices rise");
    }
    if (count > 0 && indices[count - 1] >= elements) {
        throw nb::value_error("an index is past the end");
    }
}

std::size_t encode_sparse(const ConstPositions& indices, const ConstFloats& picked,
                          const std::optional<Floats>& residual, const Bytes& payload) {
    const std::size_t count = indices.size();
    const std::uint32_t* positions = checked(indices, count);
    const float* from = checked(picked, count);
    float* rest = residual ? checked(*residual, residual->size()) : nullptr;
    check_rising(positions, count, residual ? residual->size() : std::size_t{1} << 32);
    if (payload.size() < sparse_limit(count)) throw nb::value_error("the payload is too short");
    std::uint8_t* to = payload.data();
    std::size_t bytes = 0;
    nb::gil_scoped_release release;
    sparse_encode(positions, from, count, rest, to, &bytes);
    return bytes;
}

double check_sparse(const ConstBytes& payload, std::size_t elements) {
    const std::uint8_t* from = payload.data();
    const std::size_t bytes = payload.size();
    double bound = -1.0;
    nb::gil_scoped_release release;
    sparse_check(from, bytes, elements, &bound);
    return bound;
}

void accumulate_sparse(const ConstBytes& payload, double weight, const Floats& out) {
    const std::uint8_t* from = payload.data();
    const std::size_t bytes = payload.size();
    const std::size_t elements = out.size();
    float* to = checked(out, elements);
    bool fits = false;
    {
        nb::gil_scoped_release release;
        sparse_accumulate(from, bytes, static_cast<float>(weight), to, elements, &fits);
    }
    if (!fits) throw nb::value_error("malformed sparse payload");
}

Tensors tensors_of(const ConstStops& stops) {
    const std::size_t count = stops.size();
    const std::int64_t last = count > 0 ? checked(stops, count)[count - 1] : 0;
    return tensors_of(stops, last < 0 ? 0 : static_cast<std::size_t>(last));
}

std::size_t encode_signs(const ConstPositions& indices, const ConstFloats& picked,
                         const ConstStops& stops, const ConstScales& scales,
                         const std::optional<Floats>& residual, const Bytes& payload) {
    const Tensors tensors = tensors_of(stops);
    const std::size_t count = indices.size();
    const std::uint32_t* positions = checked(indices, count);
    const float* from = checked(picked, count);
    const std::uint16_t* sizes = checked(scales, tensors.count);
    float* rest = checked(residual, tensors.elements);
    check_rising(positions, count, tensors.elements);
    if (payload.size() < signs_limit(count, tensors.count)) {
        throw nb::value_error("the payload is too short");
    }
    std::uint8_t* to = payload.data();
    std::size_t bytes = 0;
    nb::gil_scoped_release release;
    signs_encode(positions, from, count, tensors, sizes, rest, to, &bytes);
    return bytes;
}

double check_signs(const ConstBytes& payload, const ConstStops& stops) {
    const Tensors tensors = tensors_of(stops);
    const std::uint8_t* from = payload.data();
    const std::size_t bytes = payload.size();
    double bound = -1.0;
    nb::gil_scoped_release release;
    signs_check(from, bytes, tensors, &bound);
    return bound;
}

void accumulate_signs(const ConstBytes& payload, const ConstStops& stops, double weight,
                      const Floats& out) {
    const Tensors tensors = tensors_of(stops, out.size());
    const std::uint8_t* from = payload.data();
    const std::size_t bytes = payload.size();
    float* to = checked(out, tensors.elements);
    bool fits = false;
    {
        nb::gil_scoped_release release;
        signs_accumulate(from, bytes, tensors, static_cast<float>(weight), to, &fits);
    }
    if (!fits) throw nb::value_error("malformed payload of signs");
}

}  // namespace

void bind_sparse(nb::module_& module) {
    module.def("sample_threshold", &threshold_of, "values"_a.noconvert(),
               "residual"_a.noconvert(), "velocity"_a.noconvert().none(), "momentum"_a,
               "density"_a, "first"_a, "stride"_a);
    module.def("select", &select_values, "values"_a.noconvert(), "residual"_a.noconvert(),
               "velocity"_a.noconvert().none(), "momentum"_a, "threshold"_a,
               "indices"_a.noconvert(), "picked"_a.noconvert());
    module.def("select_bins", &select_by_bins, "values"_a.noconvert(), "residual"_a.noconvert(),
               "stops"_a.noconvert(), "totals"_a.noconvert(), "bins"_a.noconvert(),
               "indices"_a.noconvert(), "picked"_a.noconvert());
    module.def("sparse_encode", &encode_sparse, "indices"_a.noconvert(), "picked"_a.noconvert(),
               "residual"_a.noconvert().none(), "payload"_a.noconvert());
    module.def("sparse_check", &check_sparse, "payload"_a.noconvert(), "elements"_a);
    module.def("sparse_accumulate", &accumulate_sparse, "payload"_a.noconvert(), "weight"_a,
               "out"_a.noconvert());
    module.def("signs_encode", &encode_signs, "indices"_a.noconvert(), "picked"_a.noconvert(),
               "stops"_a.noconvert(), "scales"_a.noconvert(), "residual"_a.noconvert().none(),
               "payload"_a.noconvert());
    module.def("signs_check", &check_signs, "payload"_a.noconvert(), "stops"_a.noconvert());
    module.def("signs_accumulate", &accumulate_signs, "payload"_a.noconvert(),
               "stops"_a.noconvert(), "weight"_a, "out"_a.noconvert());
}

}  // namespace psedge::bindings
