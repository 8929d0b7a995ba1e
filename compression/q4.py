"""q4: linear, 4 bits a value and a scale per 256 (4.06 bits), 7 levels either side of zero."""

from __future__ import annotations

from typing import ClassVar

from psedge.compression.bucketed import RoundedCodec


class Q4(RoundedCodec):
    """A bucket's largest magnitude is the outermost level; the error is at most half a level."""

    id: ClassVar[int] = 4
    name: ClassVar[str] = "q4"
