// The module of the native kernels.
#include "bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

using namespace nanobind::literals;
using namespace psedge::bindings;

namespace {

// What is written below does the choosing, so it must itself run on every processor: bindings are
// compiled for the platform's baseline.
std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (int set = 0; set <= psedge::best_instruction_set(); ++set) {
        names.emplace_back(psedge::INSTRUCTION_SETS[set]);
    }
    return names;
}

void use_instruction_set(const std::string& name) {
    for (int set = 0; set <= psedge::best_instruction_set(); ++set) {
        if (name == psedge::INSTRUCTION_SETS[set]) {
            __atomic_store_n(&psedge::instruction_set, set, __ATOMIC_RELAXED);
            return;
        }
    }
    throw nb::value_error("this processor has no such instruction set");
}

}  // namespace

NB_MODULE(_kernels, module) {
    if (psedge::best_instruction_set() < 0) {
        throw nb::import_error("this processor is older than x86-64-v2");
    }
    bind_quantize(module);
    bind_apply(module);
    bind_sparse(module);
    module.def("instruction_sets", &instruction_sets);
    module.def("use_instruction_set", &use_instruction_set, "name"_a);
}
