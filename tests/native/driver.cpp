// The kernels in a program without Python, so that they can run where Python is not: under
// sanitizers, and on another machine's processor. prove.py compares what comes out with NumPy.
//
//   driver [--set NAME]              answers the calls on stdin, see call.h
//   driver --sets                    prints the instruction sets that this processor has
//   driver [--set NAME] --fuzz N SEED
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fuzz.h"
#include "kernels.h"

namespace {

void use(const char* name) {
    int index = 0;
    for (const char* set : psedge::INSTRUCTION_SETS) {
        if (std::strcmp(set, name) == 0 && index <= psedge::best_instruction_set()) {
            psedge::instruction_set = index;
            return;
        }
        ++index;
    }
    driver::give_up(std::string("this processor has no ") + name);
}

void print_sets() {
    for (int index = 0; index <= psedge::best_instruction_set(); ++index) {
        std::printf("%s\n", psedge::INSTRUCTION_SETS[index]);
    }
}

}  // namespace

int main(int count, char** arguments) {
    for (int i = 1; i < count; ++i) {
        if (std::strcmp(arguments[i], "--sets") == 0) {
            print_sets();
            return 0;
        }
        if (std::strcmp(arguments[i], "--set") == 0 && i + 1 < count) {
            use(arguments[++i]);
        } else if (std::strcmp(arguments[i], "--fuzz") == 0 && i + 2 < count) {
            driver::fuzz(std::strtoull(arguments[i + 1], nullptr, 10),
                         std::strtoull(arguments[i + 2], nullptr, 10));
            return 0;
        } else {
            driver::give_up(std::string("unknown argument ") + arguments[i]);
        }
    }
    driver::Call call;
    while (driver::Call::read(call)) {
        driver::run(call);
        call.answer();
    }
    return 0;
}
