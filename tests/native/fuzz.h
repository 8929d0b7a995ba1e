// Payloads as no honest encoder makes them: honest ones that were cut, lengthened, spliced, had bits
// flipped or lie about their length. Each lies in memory of exactly its size, so that a sanitizer
// sees a single byte read past its end. What is asked of the kernels:
//
// - a payload whose size is not exactly that of its elements is refused before any kernel sees it,
//   as the bindings do it; all others can be decoded, whatever they hold;
// - a sparse payload, or one of signs, is either malformed, and then nothing is added, or all of it
//   is added;
// - nothing next to an output changes.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "apply.h"
#include "call.h"
#include "dequantize.h"
#include "quantize.h"
#include "select.h"
#include "signs.h"
#include "sparse.h"

namespace driver {

// splitmix64 (Steele et al. 2014): small, seeded, the same everywhere.
class Draw {
  public:
    explicit Draw(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {
        std::uint64_t x = state_ += 0x9E3779B97F4A7C15u;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
        return x ^ (x >> 31);
    }

    std::size_t below(std::size_t limit) { return static_cast<std::size_t>(bits() % limit); }

    float value() {
        const float unit = static_cast<float>(bits() >> 40) / 8388608.0f - 1.0f;
        return below(4) == 0 ? unit * 100.0f : unit;
    }

  private:
    std::uint64_t state_;
};

using Bytes = std::vector<std::uint8_t>;

inline void require(bool holds, const char* what) {
    if (!holds) give_up(std::string("fuzz: ") + what);
}

// An output between two guards.
class Guarded {
  public:
    explicit Guarded(std::size_t elements) : values_(elements + 2, 1.5f) {}
    float* data() { return values_.data() + 1; }
    std::size_t size() const { return values_.size() - 2; }
    void check() const {
        require(values_.front() == 1.5f && values_.back() == 1.5f, "a guard was overwritten");
    }
    bool untouched() const {
        for (const float value : values_) {
            if (value != 1.5f) return false;
        }
        return true;
    }

  private:
    std::vector<float> values_;
};

inline std::vector<float> values(Draw& draw, std::size_t elements) {
    std::vector<float> result(elements);
    for (float& value : result) value = draw.value();
    return result;
}

inline Bytes honest_bucketed(Draw& draw, int code, std::size_t elements) {
    Bytes payload(psedge::payload_bytes(code, elements));
    const std::vector<float> from = values(draw, elements);
    bool finite = true;
    if (code == psedge::FLOAT32) {
        if (elements != 0) std::memcpy(payload.data(), from.data(), payload.size());
    } else {
        psedge::encode(code, from.data(), nullptr, payload.data(), {false, 0, 0, 2.0f}, elements,
                       &finite);
    }
    return payload;
}

inline Bytes honest_sparse(Draw& draw, std::size_t elements) {
    std::vector<std::uint32_t> indices;
    const std::size_t stride = 1 + draw.below(40);
    for (std::size_t i = draw.below(stride); i < elements; i += 1 + draw.below(stride)) {
        indices.push_back(static_cast<std::uint32_t>(i));
    }
    const std::vector<float> picked = values(draw, indices.size());
    Bytes payload(psedge::sparse_limit(indices.size()));
    std::size_t bytes = 0;
    psedge::sparse_encode(indices.data(), picked.data(), indices.size(), nullptr, payload.data(),
                          &bytes);
    payload.resize(bytes);
    return payload;
}

// Three tensors, the second one a seventh of the elements.
struct ThreeTensors {
    explicit ThreeTensors(std::size_t elements) : stops{} {
        stops[0] = static_cast<std::int64_t>(elements / 2);
        stops[1] = static_cast<std::int64_t>(elements / 2 + elements / 7);
        stops[2] = static_cast<std::int64_t>(elements);
    }
    psedge::Tensors tensors() const {
        return {stops, 3, static_cast<std::size_t>(stops[2])};
    }
    std::int64_t stops[3];
};

inline Bytes honest_signs(Draw& draw, std::size_t elements) {
    std::vector<std::uint32_t> indices;
    const std::size_t stride = 1 + draw.below(40);
    for (std::size_t i = draw.below(stride); i < elements; i += 1 + draw.below(stride)) {
        indices.push_back(static_cast<std::uint32_t>(i));
    }
    const std::vector<float> picked = values(draw, indices.size());
    const std::uint16_t scales[] = {0x3F80, 0x3A11, 0x0000};
    const ThreeTensors three(elements);
    Bytes payload(psedge::signs_limit(indices.size(), 3));
    std::size_t bytes = 0;
    psedge::signs_encode(indices.data(), picked.data(), indices.size(), three.tensors(), scales,
                         nullptr, payload.data(), &bytes);
    payload.resize(bytes);
    return payload;
}

inline void mutate(Draw& draw, Bytes& payload) {
    switch (draw.below(7)) {
        case 0:  // cut off
            payload.resize(draw.below(payload.size() + 1));
            break;
        case 1:  // lengthened
            for (std::size_t n = 1 + draw.below(9); n > 0; --n) {
                payload.push_back(static_cast<std::uint8_t>(draw.bits()));
            }
            break;
        case 2:  // a lie about the length, where a sparse payload has it
            for (std::size_t i = 0; i < 4 && i < payload.size(); ++i) {
                if (draw.below(2) == 0) payload[i] = static_cast<std::uint8_t>(draw.bits());
            }
            break;
        case 3:  // one part written over another
            if (payload.size() > 1) {
                const std::size_t from = draw.below(payload.size());
                const std::size_t to = draw.below(payload.size());
                const std::size_t most = payload.size() - (from > to ? from : to);
                std::memmove(payload.data() + to, payload.data() + from, draw.below(most + 1));
            }
            break;
        case 4:  // noise
            for (std::uint8_t& byte : payload) byte = static_cast<std::uint8_t>(draw.bits());
            break;
        default:  // flipped bits
            for (std::size_t n = 1 + draw.below(8); n > 0 && !payload.empty(); --n) {
                payload[draw.below(payload.size())] ^=
                    static_cast<std::uint8_t>(1u << draw.below(8));
            }
    }
}

inline void damage(Draw& draw, Bytes& payload) {
    for (std::size_t n = draw.below(4); n > 0; --n) mutate(draw, payload);
}

// Memory of exactly the payload's size, at an odd address if `shifted`.
class Exact {
  public:
    Exact(const Bytes& payload, bool shifted)
        : memory_(new std::uint8_t[payload.size() + shifted]), shift_(shifted) {
        if (!payload.empty()) std::memcpy(data(), payload.data(), payload.size());
    }
    std::uint8_t* data() const { return memory_.get() + shift_; }

  private:
    std::unique_ptr<std::uint8_t[]> memory_;
    std::size_t shift_;
};

// Returns whether the payload had the right size.
inline bool try_bucketed(Draw& draw, int code, std::size_t elements, const Bytes& payload) {
    if (payload.size() != psedge::payload_bytes(code, elements)) return false;
    const Exact exact(payload, draw.below(2) != 0);
    Guarded out(elements), velocity(elements);
    psedge::decode(code, exact.data(), out.data(), elements);
    psedge::decode_accumulate(code, exact.data(), draw.value(), out.data(), elements);
    const std::uint8_t* payloads[] = {exact.data(), exact.data()};
    const float weights[] = {1.0f, draw.value()};
    const psedge::Gradient gradient = {code, 2, payloads, weights, nullptr};
    const std::int64_t stop = static_cast<std::int64_t>(elements);
    const float settings[] = {0.1f, 5e-4f, 0.9f, 1.0f, 0.0f};
    psedge::sgd(gradient, out.data(), {velocity.data()}, {&stop, settings}, 1.0f, elements);
    out.check();
    velocity.check();
    return true;
}

// Returns whether the payload was well-formed.
inline bool try_sparse(Draw& draw, std::size_t elements, const Bytes& payload) {
    const Exact exact(payload, draw.below(2) != 0);
    double bound = 0.0;
    psedge::sparse_check(exact.data(), payload.size(), elements, &bound);
    Guarded out(elements);
    bool fits = false;
    psedge::sparse_accumulate(exact.data(), payload.size(), draw.value(), out.data(), elements,
                              &fits);
    // A scale with its sign bit set is malformed too, and only the check looks at scales.
    require(fits || bound == -1.0, "a payload passed its check and did not fit");
    require(fits || out.untouched(), "a malformed payload was added in part");
    out.check();
    return bound != -1.0;
}

inline bool try_signs(Draw& draw, std::size_t elements, const Bytes& payload) {
    const Exact exact(payload, draw.below(2) != 0);
    const ThreeTensors three(elements);
    double bound = 0.0;
    psedge::signs_check(exact.data(), payload.size(), three.tensors(), &bound);
    Guarded out(elements);
    bool fits = false;
    psedge::signs_accumulate(exact.data(), payload.size(), three.tensors(), draw.value(),
                             out.data(), &fits);
    require(fits || bound == -1.0, "signs passed their check and did not fit");
    require(fits || out.untouched(), "malformed signs were added in part");
    out.check();
    return bound != -1.0;
}

// Prints how many inputs were refused and how many decoded; ends the process on the first fault.
inline void fuzz(std::size_t inputs, std::uint64_t seed) {
    Draw draw(seed);
    std::size_t decoded = 0;
    for (std::size_t input = 0; input < inputs; ++input) {
        const std::size_t elements = draw.below(3) == 0 ? draw.below(1400) : draw.below(300);
        // Half of the inputs are for the kernels that have the most to check.
        const int kind = static_cast<int>(draw.below(2 * psedge::CODES));
        if (kind < psedge::CODES) {
            Bytes payload = honest_bucketed(draw, kind, elements);
            damage(draw, payload);
            decoded += try_bucketed(draw, kind, elements, payload);
        } else if (kind % 2 == 0) {
            Bytes payload = honest_sparse(draw, elements);
            damage(draw, payload);
            decoded += try_sparse(draw, elements, payload);
        } else {
            Bytes payload = honest_signs(draw, elements);
            damage(draw, payload);
            decoded += try_signs(draw, elements, payload);
        }
    }
    std::printf("%zu inputs: %zu decoded, %zu refused\n", inputs, decoded, inputs - decoded);
}

}  // namespace driver
