"""The bytes of one message, as its sender gave them and as they arrive."""

from __future__ import annotations

from collections.abc import Sequence

from psedge.protocol.checksum import checksum_of
from psedge.protocol.ports import Buffer

#: Joining so much is cheaper than looking for what is wanted of it.
SMALL_BYTES = 4096


class Body:
    """Parts one after the other, read in place as long as their owner leaves them unchanged."""

    __slots__ = ("_flipped", "_parts", "checksum", "length")

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self._parts: list[Buffer] = [
            part if type(part) is bytes else memoryview(part).cast("B") for part in parts
        ]
        self.length = sum(map(len, self._parts))
        #: As its sender computed it; only filled in where it can matter.
        self.checksum = ""
        self._flipped = -1

    def flip(self, bit: int) -> None:
        """Let it arrive with one bit changed, behind the back of TCP's checksum."""
        self.checksum = checksum_of(self._parts)
        self._flipped = bit

    def keep(self) -> None:
        """Make a copy, because the owner of the parts takes them back."""
        self._parts = [b"".join(self._parts)]

    def copy_into(self, target: memoryview, start: int) -> None:
        """Fill `target` with the bytes from `start` on."""
        if self.length <= SMALL_BYTES:
            target[:] = b"".join(self._parts)[start : start + len(target)]
        else:
            self._gather(target, start)
        if self._flipped >= 0:
            at = (self._flipped >> 3) - start
            if 0 <= at < len(target):
                target[at] ^= 1 << (self._flipped & 7)

    def _gather(self, target: memoryview, start: int) -> None:
        filled = 0
        for part in self._parts:
            if filled == len(target):
                break
            if start >= len(part):
                start -= len(part)
                continue
            piece = memoryview(part)[start : start + len(target) - filled]
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            start = 0
