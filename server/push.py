"""One push as a shard takes it, and what became of it."""

from __future__ import annotations

import msgspec

from psedge.compression.codec import Float32Array
from psedge.compression.coder import Opened
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice
from psedge.protocol.wire import Status


class Push(msgspec.Struct, frozen=True):
    """An update and what comes along with it.

    sequence: 1, 2, 3, ... under one incarnation of the worker.
    version: of the parameters on which the gradient was computed.
    samples: how many the gradient is the mean of.
    opened: the encoded gradient; None if the worker left it out because it is not finite.
    buffers: the shard's slice of the worker's buffers, None if they did not change.
    counters: the worker's counters, None if they did not change.
    model: the parameters on which the gradient was computed, None if the server keeps no record.
    """

    worker: int
    incarnation: int
    sequence: int
    version: int
    samples: int
    opened: Opened | None
    buffers: Float32Array | None = None
    counters: bytes | None = None
    model: Float32Array | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a push.

    clock: of the worker, after the push. staleness: clocks it was ahead of the slowest worker
    before. lag: updates applied since the version it was computed on.
    """

    status: Status
    clock: int
    staleness: int
    lag: int


def check_fits(push: Push, piece: Slice, buffers: int, counters: int) -> None:
    """Raise FrameError unless a push is one to a shard that holds `piece`.

    buffers, counters: how many elements, and how many bytes, the shard has of them.
    """
    if push.sequence < 1 or push.samples < 1:
        raise FrameError("a push has a sequence number and samples, both from 1")
    pushed = push.opened.piece if push.opened is not None else piece
    if pushed is not piece and pushed != piece:
        raise FrameError(
            f"the shard holds {piece.elements} parameters from {piece.offset} on, "
            f"the push {pushed.elements} from {pushed.offset} on"
        )
    if push.buffers is not None and push.buffers.shape != (buffers,):
        raise FrameError(f"the shard holds {buffers} buffers, the push {len(push.buffers)}")
    if push.counters is not None and len(push.counters) != counters:
        raise FrameError(
            f"the shard holds {counters} bytes of counters, the push {len(push.counters)}"
        )
