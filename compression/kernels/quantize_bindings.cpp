#include "bindings.h"
#include "dequantize.h"
#include "digest.h"
#include "quantize.h"

using namespace nanobind::literals;

namespace psedge::bindings {
namespace {

bool encode(int code, const ConstFloats& values, const std::optional<Floats>& residual,
            const Bytes& payload, bool stochastic, std::uint32_t seed, std::uint32_t block,
            double step) {
    const std::size_t elements = values.size();
    const float* from = checked(values, elements);
    float* left = checked(residual, elements);
    std::uint8_t* to = checked_payload(checked_encoder(code, step), payload, elements);
    const Dither dither = {stochastic, seed, block, static_cast<float>(step)};
    bool finite = true;
    nb::gil_scoped_release release;
    psedge::encode(code, from, left, to, dither, elements, &finite);
    return finite;
}

bool encode_delta(int code, const ConstFloats& target, const Floats& published,
                  const Bytes& payload, double step) {
    const std::size_t elements = target.size();
    const float* from = checked(target, elements);
    float* left = checked(published, elements);
    std::uint8_t* to = checked_payload(checked_encoder(code, step), payload, elements);
    const Dither dither = {false, 0, 0, static_cast<float>(step)};
    bool finite = true;
    nb::gil_scoped_release release;
    psedge::encode_delta(code, from, left, to, dither, elements, &finite);
    return finite;
}

void decode(int code, const ConstBytes& payload, const Floats& out) {
    const std::size_t elements = out.size();
    const std::uint8_t* from = checked_payload(code, payload, elements);
    float* to = checked(out, elements);
    nb::gil_scoped_release release;
    psedge::decode(code, from, to, elements);
}

void decode_accumulate(int code, const ConstBytes& payload, double weight, const Floats& out) {
    const std::size_t elements = out.size();
    const std::uint8_t* from = checked_payload(code, payload, elements);
    float* to = checked(out, elements);
    nb::gil_scoped_release release;
    psedge::decode_accumulate(code, from, static_cast<float>(weight), to, elements);
}

std::uint64_t digest(const ConstFloats& values) {
    const float* from = checked(values, values.size());
    std::uint64_t result = 0;
    nb::gil_scoped_release release;
    psedge::digest(from, values.size(), &result);
    return result;
}

}  // namespace

void bind_quantize(nb::module_& module) {
    module.def("encode", &encode, "code"_a, "values"_a.noconvert(),
               "residual"_a.noconvert().none(), "payload"_a.noconvert(), "stochastic"_a, "seed"_a,
               "block"_a, "step"_a);
    module.def("encode_delta", &encode_delta, "code"_a, "target"_a.noconvert(),
               "published"_a.noconvert(), "payload"_a.noconvert(), "step"_a);
    module.def("decode", &decode, "code"_a, "payload"_a.noconvert(), "out"_a.noconvert());
    module.def("decode_accumulate", &decode_accumulate, "code"_a, "payload"_a.noconvert(),
               "weight"_a, "out"_a.noconvert());
    module.def("digest", &digest, "values"_a.noconvert());
}

}  // namespace psedge::bindings
