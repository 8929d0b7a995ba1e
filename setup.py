"""The native kernels' part of the build; all else about the package is in pyproject.toml.

An install without a C++ compiler or Python's headers succeeds: the extension is optional, and
psedge/compression/native.py falls back to NumPy.
"""

from __future__ import annotations

from pathlib import Path

import nanobind
from setuptools import Extension, setup

KERNELS = Path("psedge/compression/kernels")
NANOBIND = Path(nanobind.__file__).parent

setup(
    ext_modules=[
        Extension(
            "psedge.compression._kernels",
            sources=sorted(str(path) for path in KERNELS.glob("*.cpp")),
            depends=sorted(str(path) for path in KERNELS.glob("*.h")),
            include_dirs=[
                nanobind.include_dir(),
                str(NANOBIND / "src"),
                str(NANOBIND / "ext" / "robin_map" / "include"),
            ],
            define_macros=[("NDEBUG", None), ("NB_COMPACT_ASSERTIONS", None)],
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                # The kernels promise NumPy's bits: no operation may be fused or reordered.
                "-ffp-contract=off",
                "-fno-math-errno",
                # Nobody reads the flags of floating-point exceptions; with them, loops that
                # select between computed values would stay scalar.
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-fno-strict-aliasing",
            ],
            extra_link_args=["-s"],
            language="c++",
            optional=True,
        )
    ]
)
