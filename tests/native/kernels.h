// The kernels by name, as _kernels.pyi declares them, without Python. Sizes are checked as the
// bindings check them: prove.py sends nothing that they would refuse.
#pragma once

#include <vector>

#include "apply.h"
#include "bins.h"
#include "call.h"
#include "dequantize.h"
#include "digest.h"
#include "quantize.h"
#include "sample.h"
#include "select.h"
#include "signs.h"
#include "sparse.h"

namespace driver {

inline std::uint8_t* payload_of(const Call& call, std::size_t index, int code,
                                std::size_t elements) {
    const Array& payload = call.array(index);
    if (payload.bytes() != psedge::payload_bytes(code, elements)) give_up("a payload's size");
    return payload.data();
}

inline void encode(Call& call) {
    const int code = call.number<int>(0);
    const std::size_t elements = call.elements(1);
    const psedge::Dither dither = {call.number<int>(4) != 0, call.number<std::uint32_t>(5),
                                   call.number<std::uint32_t>(6), call.number<float>(7)};
    bool finite = true;
    psedge::encode(code, call.floats(1), call.optional(2), payload_of(call, 3, code, elements),
                   dither, elements, &finite);
    call.results = {finite};
}

inline void encode_delta(Call& call) {
    const int code = call.number<int>(0);
    const std::size_t elements = call.elements(1);
    const psedge::Dither dither = {false, 0, 0, call.number<float>(4)};
    bool finite = true;
    psedge::encode_delta(code, call.floats(1), call.floats(2),
                         payload_of(call, 3, code, elements), dither, elements, &finite);
    call.results = {finite};
}

inline void decode(Call& call) {
    const int code = call.number<int>(0);
    const std::size_t elements = call.elements(2);
    psedge::decode(code, payload_of(call, 1, code, elements), call.floats(2), elements);
}

inline void decode_accumulate(Call& call) {
    const int code = call.number<int>(0);
    const std::size_t elements = call.elements(3);
    psedge::decode_accumulate(code, payload_of(call, 1, code, elements), call.number<float>(2),
                              call.floats(3), elements);
}

inline std::vector<const std::uint8_t*> payloads_of(const Call& call) {
    std::vector<const std::uint8_t*> payloads;
    for (const Array& payload : call.list(1)) payloads.push_back(payload.data());
    return payloads;
}

// sgd(code, payloads, weights, dense, parameters, velocity, stops, settings, weight)
inline void sgd(Call& call) {
    const std::vector<const std::uint8_t*> payloads = payloads_of(call);
    const psedge::Gradient gradient = {call.number<int>(0), payloads.size(), payloads.data(),
                                       call.floats(2), call.optional(3)};
    const psedge::Runs runs = {call.array(6).as<std::int64_t>(), call.floats(7)};
    psedge::sgd(gradient, call.floats(4), {call.optional(5)}, runs, call.number<float>(8),
                call.elements(4));
}

// adam(code, payloads, weights, dense, parameters, exp_avg, exp_avg_sq, stops, settings, weight,
//      decoupled)
inline void adam(Call& call) {
    const std::vector<const std::uint8_t*> payloads = payloads_of(call);
    const psedge::Gradient gradient = {call.number<int>(0), payloads.size(), payloads.data(),
                                       call.floats(2), call.optional(3)};
    const psedge::AdamState state = {call.floats(5), call.floats(6), call.number<int>(10) != 0};
    const psedge::Runs runs = {call.array(7).as<std::int64_t>(), call.floats(8)};
    psedge::adam(gradient, call.floats(4), state, runs, call.number<float>(9), call.elements(4));
}

// sample_threshold(values, residual, velocity, momentum, density, first, stride)
inline void sample_threshold(Call& call) {
    const std::size_t elements = call.elements(0);
    const psedge::Sample sample = {call.floats(0), call.floats(1), call.optional(2),
                                   call.number<float>(3), call.number<std::size_t>(5),
                                   call.number<std::size_t>(6), elements};
    std::vector<std::int32_t> scratch(psedge::sample_room(elements, sample.stride));
    float threshold = 0.0f;
    psedge::sample_threshold(sample, call.number<double>(4), scratch.data(), &threshold);
    call.result(static_cast<double>(threshold));
}

// select(values, residual, velocity, momentum, threshold, indices, picked) -> (count, finite)
inline void select(Call& call) {
    psedge::Selection out = {call.array(5).as<std::uint32_t>(), call.floats(6), call.elements(6), 0,
                             true};
    psedge::select(call.floats(0), call.floats(1), call.optional(2), call.number<float>(3),
                   call.number<float>(4), call.elements(0), &out);
    call.results = {out.count, out.finite};
}

// select_bins(values, residual, stops, totals, bins, indices, picked) -> (count, finite)
inline void select_bins(Call& call) {
    psedge::Selection out = {call.array(5).as<std::uint32_t>(), call.floats(6), call.elements(6), 0,
                             true};
    const psedge::BinTotals totals = {call.array(3).as<double>(),
                                      call.array(4).as<std::int64_t>()};
    psedge::select_bins(call.floats(0), call.floats(1), call.array(2).as<std::int64_t>(),
                        call.elements(0), totals, &out);
    call.results = {out.count, out.finite};
}

inline void sparse_encode(Call& call) {
    const Array& payload = call.array(3);
    const std::size_t count = call.elements(1);
    if (payload.bytes() < psedge::sparse_limit(count)) give_up("no room for a sparse payload");
    std::size_t bytes = 0;
    psedge::sparse_encode(call.array(0).as<std::uint32_t>(), call.floats(1), count,
                          call.optional(2), payload.data(), &bytes);
    call.results = {bytes};
}

inline void sparse_check(Call& call) {
    double bound = 0.0;
    psedge::sparse_check(call.array(0).data(), call.array(0).bytes(), call.number<std::size_t>(1),
                         &bound);
    call.result(bound);
}

inline void sparse_accumulate(Call& call) {
    bool fits = false;
    psedge::sparse_accumulate(call.array(0).data(), call.array(0).bytes(), call.number<float>(1),
                              call.floats(2), call.elements(2), &fits);
    if (!fits) give_up("prove.py sent a malformed payload");
}

inline psedge::Tensors tensors_of(const Call& call, std::size_t index) {
    const Array& stops = call.array(index);
    const std::size_t count = stops.count<std::int64_t>();
    const std::int64_t* ends = stops.as<std::int64_t>();
    return {ends, count, count != 0 ? static_cast<std::size_t>(ends[count - 1]) : 0};
}

// signs_encode(indices, picked, stops, scales, residual, payload) -> bytes
inline void signs_encode(Call& call) {
    const psedge::Tensors tensors = tensors_of(call, 2);
    const std::size_t count = call.elements(1);
    const Array& payload = call.array(5);
    if (payload.bytes() < psedge::signs_limit(count, tensors.count)) give_up("no room for signs");
    std::size_t bytes = 0;
    psedge::signs_encode(call.array(0).as<std::uint32_t>(), call.floats(1), count, tensors,
                         call.array(3).as<std::uint16_t>(), call.optional(4), payload.data(),
                         &bytes);
    call.results = {bytes};
}

inline void signs_check(Call& call) {
    double bound = 0.0;
    psedge::signs_check(call.array(0).data(), call.array(0).bytes(), tensors_of(call, 1), &bound);
    call.result(bound);
}

inline void signs_accumulate(Call& call) {
    bool fits = false;
    psedge::signs_accumulate(call.array(0).data(), call.array(0).bytes(), tensors_of(call, 1),
                             call.number<float>(2), call.floats(3), &fits);
    if (!fits) give_up("prove.py sent malformed signs");
}

inline void digest(Call& call) {
    std::uint64_t result = 0;
    psedge::digest(call.floats(0), call.elements(0), &result);
    call.results = {result};
}

struct Kernel {
    const char* name;
    void (*run)(Call&);
};

constexpr Kernel KERNELS[] = {
    {"encode", encode},
    {"encode_delta", encode_delta},
    {"decode", decode},
    {"decode_accumulate", decode_accumulate},
    {"sgd", sgd},
    {"adam", adam},
    {"sample_threshold", sample_threshold},
    {"select", select},
    {"select_bins", select_bins},
    {"sparse_encode", sparse_encode},
    {"sparse_check", sparse_check},
    {"sparse_accumulate", sparse_accumulate},
    {"signs_encode", signs_encode},
    {"signs_check", signs_check},
    {"signs_accumulate", signs_accumulate},
    {"digest", digest},
};

inline void run(Call& call) {
    for (const Kernel& kernel : KERNELS) {
        if (call.name == kernel.name) return kernel.run(call);
    }
    give_up("no kernel is called " + call.name);
}

}  // namespace driver
