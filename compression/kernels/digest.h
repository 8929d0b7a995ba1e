// 64 bits that tell two vectors apart. Every element's bits are hashed with its position and the
// hashes summed modulo 2**32, twice over, so no order of summation can matter: the digest is the
// same on every instruction set. A change of one element always changes it; it is no defence
// against an adversary.
#pragma once

#include <cstddef>
#include <cstdint>

#include "bucket.h"
#include "quantize.h"

namespace psedge {

PSEDGE_PART void digest_loop(const float* values, std::size_t elements, std::uint64_t* out) {
    std::uint32_t first = static_cast<std::uint32_t>(elements);
    std::uint32_t second = 0;
    for (std::size_t i = 0; i < elements; ++i) {
        const std::uint32_t position = static_cast<std::uint32_t>(i) * 0x9E3779B9u;
        const std::uint32_t hash = hashed(static_cast<std::uint32_t>(bits_of(values[i])) ^ position);
        first += hash;
        second += (hash ^ (hash >> 15)) * 0x2C1B3C6Du;
    }
    const std::uint64_t both = (static_cast<std::uint64_t>(first) << 32) | second;
    // 0 is how a frame says that it has no digest.
    *out = both != 0 ? both : 1;
}

PSEDGE_KERNEL(digest, (const float* values, std::size_t elements, std::uint64_t* out),
              (values, elements, out))

}  // namespace psedge
