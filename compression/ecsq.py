"""ecsq: an entropy-coded scalar quantizer, some 1.4 bits a value behind an entropy coder.

Levels lie two root mean squares of their bucket apart, so that most symbols are zero. They travel
as 4 bits, and the lossless stage on top (zstd or deflate) shortens them to their entropy. Gish and
Pierce 1968, "Asymptotically Efficient Quantizing": uniform levels with entropy coding are near the
best there is at a given rate.
"""

from __future__ import annotations

from typing import ClassVar

from psedge.compression.bucketed import RoundedCodec, Rounding


class Ecsq(RoundedCodec):
    """Needs a residual: what it drops is large.

    A level is no wider than the bucket's largest magnitude, and the outermost is the seventh.
    """

    id: ClassVar[int] = 7
    name: ClassVar[str] = "ecsq"

    def __init__(self, rounding: Rounding = "nearest", step: float = 2.0) -> None:
        """step: between levels, in root mean squares of the bucket, 1/16 to 16."""
        super().__init__(rounding)
        self.step = step
