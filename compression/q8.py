"""q8: linear, 8 bits a value and a scale per 256 (8.06 bits), 127 levels either side of zero."""

from __future__ import annotations

from typing import ClassVar

from psedge.compression.bucketed import RoundedCodec


class Q8(RoundedCodec):
    """A bucket's largest magnitude is the outermost level; the error is at most half a level."""

    id: ClassVar[int] = 3
    name: ClassVar[str] = "q8"
