"""The native kernels, where the install could build them; without them NumPy does the same work.

The results are the same bits either way, so machines with and without kernels train together.
"""

from __future__ import annotations

import warnings

try:
    from psedge.compression._kernels import half_decode, half_encode, sgd

    NATIVE = True
except ImportError:
    NATIVE = False
    warnings.warn(
        "psedge's native kernels are not built on this machine: everything works, but float16 and "
        "SGD take several times as long. Install a C++ compiler and Python's headers (on "
        "Debian: apt install g++ python3-dev), then install psedge again",
        RuntimeWarning,
        stacklevel=1,
    )

__all__ = ["NATIVE", "half_decode", "half_encode", "sgd"]
