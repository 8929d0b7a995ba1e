// How a kernel is compiled: on x86-64 for three instruction sets, of which the best that the
// processor has is taken at each call; for the platform's baseline elsewhere. aarch64 needs no
// choice, NEON is its baseline.
//
// The choice is made here, rather than by the compiler's target_clones, because that needs glibc,
// is new in Clang, and knows no set with both 512-bit registers and AVX-512's 256-bit instructions.
#pragma once

// Inlined into every version of a kernel, so that it is compiled for that version's set.
#define PSEDGE_PART [[gnu::always_inline]] static inline

// The loop that follows reads and writes an element in the same turn only, so an output that is
// also an input does no harm.
#if defined(__clang__)
#define PSEDGE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define PSEDGE_INDEPENDENT _Pragma("GCC ivdep")
#endif

// Makes the kernel NAME of the part NAME_loop.
#if defined(__x86_64__)
#define PSEDGE_KERNEL(name, parameters, arguments)                                               \
    [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]] static void name##_avx512 parameters { \
        name##_loop arguments;                                                                   \
    }                                                                                            \
    [[gnu::target("avx2")]] static void name##_avx2 parameters { name##_loop arguments; }        \
    static void name##_baseline parameters { name##_loop arguments; }                            \
    static void name parameters {                                                                \
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&          \
            __builtin_cpu_supports("avx512vl")) {                                                \
            name##_avx512 arguments;                                                             \
        } else if (__builtin_cpu_supports("avx2")) {                                             \
            name##_avx2 arguments;                                                               \
        } else {                                                                                 \
            name##_baseline arguments;                                                           \
        }                                                                                        \
    }
#else
#define PSEDGE_KERNEL(name, parameters, arguments) \
    static void name parameters { name##_loop arguments; }
#endif
