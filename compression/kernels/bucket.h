// How payloads are laid out: buckets of 256 values, the last one padded. A quantized payload is the
// scales of all buckets, each the upper half of a float32 (bfloat16, 8 significant bits), and then
// the codes of all buckets. Codes are planar: a byte holds elements that lie far apart, so that
// packing and unpacking work on whole registers on every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "targets.h"

namespace psedge {

constexpr std::size_t BUCKET = 256;

// The ids of the codecs that write these payloads; codes.py has the same.
enum Code : int { FLOAT32, FLOAT16, BFLOAT16, Q8, Q4, TERNARY, SIGN, ECSQ };
constexpr int CODES = 8;

// Bytes of the codes of one bucket, scale not included.
constexpr std::size_t code_bytes(int code) {
    constexpr std::size_t bytes[CODES] = {4 * BUCKET, 2 * BUCKET, 2 * BUCKET, BUCKET,
                                          BUCKET / 2, BUCKET / 4, BUCKET / 8, BUCKET / 2};
    return bytes[code];
}

constexpr std::size_t buckets_of(std::size_t elements) { return (elements + BUCKET - 1) / BUCKET; }

// Exact size of a payload. Those without scales are not padded.
constexpr std::size_t payload_bytes(int code, std::size_t elements) {
    return code <= BFLOAT16 ? elements * (code == FLOAT32 ? 4 : 2)
                            : buckets_of(elements) * (2 + code_bytes(code));
}

// Values in a bucket of a vector: 256, fewer in the last one.
constexpr std::size_t values_in(std::size_t elements, std::size_t bucket) {
    const std::size_t left = elements - bucket * BUCKET;
    return left < BUCKET ? left : BUCKET;
}

PSEDGE_PART std::int32_t bits_of(float value) {
    std::int32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

PSEDGE_PART float float_of(std::int32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

PSEDGE_PART std::uint16_t word_at(const std::uint8_t* bytes) {
    std::uint16_t word;
    __builtin_memcpy(&word, bytes, sizeof word);
    return word;
}

PSEDGE_PART void put_word(std::uint8_t* bytes, std::uint16_t word) {
    __builtin_memcpy(bytes, &word, sizeof word);
}

// Asks for the floats that a loop over buckets needs four buckets later. The processor's own
// prefetching stops at the ends of pages, which are as long as four buckets: large vectors go by a
// sixth faster, small ones as before. An address past the end of a vector does no harm.
template <bool changed>
PSEDGE_PART void prefetch(const float* bucket) {
    const std::uintptr_t ahead = reinterpret_cast<std::uintptr_t>(bucket) + 16 * BUCKET;
    for (std::size_t byte = 0; byte < 4 * BUCKET; byte += 64) {
        __builtin_prefetch(reinterpret_cast<const void*>(ahead + byte), changed ? 1 : 0);
    }
}

PSEDGE_PART float scale_at(const std::uint8_t* payload, std::size_t bucket) {
    return float_of(static_cast<std::int32_t>(
        static_cast<std::uint32_t>(word_at(payload + 2 * bucket)) << 16));
}

}  // namespace psedge

// Calls PART<code> ARGUMENTS for a code that is known only at run time. Once per bucket is cheap.
#define PSEDGE_BY_CODE(code, part, arguments)                \
    switch (code) {                                          \
        case psedge::FLOAT32: part<psedge::FLOAT32> arguments; break;   \
        case psedge::FLOAT16: part<psedge::FLOAT16> arguments; break;   \
        case psedge::BFLOAT16: part<psedge::BFLOAT16> arguments; break; \
        case psedge::Q8: part<psedge::Q8> arguments; break;             \
        case psedge::Q4: part<psedge::Q4> arguments; break;             \
        case psedge::TERNARY: part<psedge::TERNARY> arguments; break;   \
        case psedge::SIGN: part<psedge::SIGN> arguments; break;         \
        default: part<psedge::ECSQ> arguments; break;                   \
    }
