"""The checksum of a body: what TCP's 16 bits let through is found before anyone acts on it.

XXH3-64 (https://xxhash.com) guards against errors, not against forgery. It travels as 16
hexadecimal digits in the header `Psedge-Checksum`; a body without it, as `curl` sends one, is not
checked.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from psedge.protocol.errors import DamagedError
from psedge.protocol.ports import Buffer

CHECKSUM_HEADER = "Psedge-Checksum"


def checksum_of(parts: Sequence[Buffer]) -> str:
    """Of the bytes of all parts, one after the other."""
    if len(parts) == 1:
        return xxhash.xxh3_64_hexdigest(parts[0])
    whole = xxhash.xxh3_64()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


class BodyCheck:
    """Follows a body as it arrives.

    announced: what its sender said the checksum is; empty if nothing was said.
    length: of the whole body in bytes.
    """

    __slots__ = ("_announced", "_unseen", "_whole")

    def __init__(self, announced: str, length: int) -> None:
        self._announced = announced.lower()
        self._unseen = length
        self._whole = xxhash.xxh3_64() if announced and length else None

    @property
    def pending(self) -> bool:
        """Whether bytes that are still to come decide if the body is whole."""
        return self._whole is not None and self._unseen > 0

    def add(self, data: Buffer) -> None:
        """The next bytes. Raises DamagedError with the last if they are not what was sent."""
        if self._whole is None or not len(data):
            return
        self._whole.update(data)
        self._unseen -= len(data)
        if self._unseen == 0 and self._whole.hexdigest() != self._announced:
            raise DamagedError("the body was damaged on its way: its checksum is another")
