// nanobind's own sources, found in its package on the include path: setuptools takes no source file
// from outside the project.
#include <nb_combined.cpp>
