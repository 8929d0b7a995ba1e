"""sign: -s or s, 1 bit a value and a scale per 256 (1.06 bits).

Seide et al. 2014, "1-Bit Stochastic Gradient Descent", with the mean magnitude as scale as in
Karimireddy et al. 2019, "Error Feedback Fixes SignSGD".
"""

from __future__ import annotations

from typing import ClassVar

from psedge.compression.bucketed import KernelCodec


class Sign(KernelCodec):
    """Needs a residual: without one, training loses accuracy."""

    id: ClassVar[int] = 6
    name: ClassVar[str] = "sign"
