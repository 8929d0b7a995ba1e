"""One push as a shard takes it, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from psedge.compression.codec import Float32Array
from psedge.protocol.wire import Status


@dataclass(frozen=True, slots=True)
class Push:
    """What comes along with a gradient.

    sequence: 1, 2, 3, ... under one incarnation of the worker.
    version: of the parameters on which the gradient was computed.
    samples: how many the gradient is the mean of.
    buffers: the shard's slice of the worker's buffers, None if they did not change.
    counters: the worker's counters, None if they did not change.
    """

    worker: int
    incarnation: int
    sequence: int
    version: int
    samples: int
    buffers: Float32Array | None = None
    counters: bytes | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a push.

    clock: of the worker, after the push. staleness: clocks it was ahead of the slowest worker
    before. lag: updates applied since the version it was computed on.
    """

    status: Status
    clock: int
    staleness: int
    lag: int
