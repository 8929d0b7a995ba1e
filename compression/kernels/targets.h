// How a kernel is compiled: on x86-64 for three instruction sets, of which the best that the
// processor has is chosen once, when the module is loaded; for the platform's baseline elsewhere.
// aarch64 needs no choice, NEON is its baseline.
//
// The choice is made here, rather than by the compiler's target_clones, because that needs glibc,
// is new in Clang, and knows no set with both 512-bit registers and AVX-512's 256-bit instructions.
// Kernels include no standard header with functions in it: the linker would keep one version of
// such a function for all sets, and it might be one that this processor cannot run.
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

namespace psedge {

#if defined(__x86_64__)

enum InstructionSet : int { X86_64_V2, AVX2, AVX512 };
constexpr const char* INSTRUCTION_SETS[] = {"x86-64-v2", "avx2", "avx512"};

// -1 for a processor that has none of them; no kernel may then be called.
static inline int best_instruction_set() {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2")) return -1;
    if (!__builtin_cpu_supports("avx2")) return X86_64_V2;
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? AVX512 : AVX2;
}

#else

#if defined(__aarch64__)
constexpr const char* INSTRUCTION_SETS[] = {"neon"};
#else
constexpr const char* INSTRUCTION_SETS[] = {"baseline"};
#endif

static inline int best_instruction_set() { return 0; }

#endif

// The set in use, an index into INSTRUCTION_SETS; one for the whole module.
inline int instruction_set = best_instruction_set();

}  // namespace psedge

// Makes the kernel NAME of the part NAME_loop.
#if defined(__x86_64__)
#define PSEDGE_KERNEL(name, parameters, arguments)                                               \
    [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]] static void name##_avx512 parameters { \
        name##_loop arguments;                                                                   \
    }                                                                                            \
    [[gnu::target("avx2")]] static void name##_avx2 parameters { name##_loop arguments; }        \
    [[gnu::target("sse4.2")]] static void name##_v2 parameters { name##_loop arguments; }        \
    [[maybe_unused]] static void name parameters {                                               \
        switch (__atomic_load_n(&psedge::instruction_set, __ATOMIC_RELAXED)) {                   \
            case psedge::AVX512: return name##_avx512 arguments;                                 \
            case psedge::AVX2: return name##_avx2 arguments;                                     \
            default: return name##_v2 arguments;                                                 \
        }                                                                                        \
    }
#else
#define PSEDGE_KERNEL(name, parameters, arguments) \
    [[maybe_unused]] static void name parameters { name##_loop arguments; }
#endif
