"""The native kernels, where the install could build them; without them NumPy does the same work.

`kernels` is the module of either, see `_kernels.pyi`. The results are the same bits, so machines
with and without native kernels train together.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psedge.compression import _kernels as kernels

    NATIVE: bool
else:
    try:
        from psedge.compression import _kernels as kernels

        NATIVE = True
    except ImportError:
        from psedge.compression import reference as kernels

        NATIVE = False
        warnings.warn(
            "psedge's native kernels are not built on this machine: everything works, but codecs "
            "and update rules take 10 to 40 times as long, some 5 ms per million parameters and "
            "direction on a PC. Install a C++ compiler and Python's headers (on Debian: apt "
            "install g++ python3-dev), then install psedge again",
            RuntimeWarning,
            stacklevel=1,
        )

__all__ = ["NATIVE", "kernels"]
