"""What a request asks for, and what a reply brings of a shard's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from psedge.compression.codec import Codec, Float32Array
from psedge.compression.lossless import Lossless
from psedge.compression.native import kernels
from psedge.protocol.ports import Buffer
from psedge.protocol.wire import NO_POSITION, Content

#: A chain proves by digest that both ends agree at every position divisible by it.
DIGEST_EVERY = 16


class Wanted(msgspec.Struct, frozen=True):
    """What a request says about the parameters it is to be answered with.

    position: of the latest reply that the worker has received, NO_POSITION if it needs a snapshot.
    """

    worker: int
    incarnation: int
    codec: Codec
    lossless: Lossless
    position: int = NO_POSITION

    @property
    def key(self) -> tuple[int, int]:
        return self.worker, self.incarnation


class Publication(msgspec.Struct, frozen=True):
    """The payload of a reply and the header's fields about it.

    parts: memory that nobody writes to any more.
    position: where the worker stands once it has taken this; NO_POSITION for no chain.
    digest: of the worker's parameters then; 0 for none.
    """

    content: Content
    codec: Codec
    lossless: Lossless
    version: int
    parts: Sequence[Buffer] = ()
    deltas: int = 0
    position: int = NO_POSITION
    digest: int = 0

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.parts))

    def at(self, position: int, digest: int) -> Publication:
        """The same, at a position of a chain."""
        return msgspec.structs.replace(self, position=position, digest=digest)


def delta_section(parts: Sequence[Buffer]) -> list[Buffer]:
    """A delta as it stands among others in a payload: behind its length."""
    return [sum(map(len, parts)).to_bytes(4, "little"), *parts]


def digest_at(position: int, parameters: Float32Array) -> int:
    """The digest that travels with a difference, 0 where none does."""
    return digest_of(parameters) if position % DIGEST_EVERY == 0 else 0


def digest_of(parameters: Float32Array) -> int:
    return kernels.digest(parameters)


def owned(parts: Sequence[Buffer], source: Float32Array) -> list[Buffer]:
    """The parts of a payload, copied where they are the memory of `source` itself."""
    return [
        bytes(part)
        if len(part) and np.may_share_memory(np.frombuffer(part, np.uint8), source)
        else part
        for part in parts
    ]
