"""ternary: -s, 0 or s, 2 bits a value and a scale per 256 (2.06 bits).

Li et al. 2016, "Ternary Weight Networks": zero below 0.7 of the mean magnitude, else the mean of
what is above it.
"""

from __future__ import annotations

from typing import ClassVar

from psedge.compression.bucketed import KernelCodec


class Ternary(KernelCodec):
    """Needs a residual: what it drops is large."""

    id: ClassVar[int] = 5
    name: ClassVar[str] = "ternary"
