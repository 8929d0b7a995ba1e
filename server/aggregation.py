"""How what several workers send becomes one: the joint step of `bsp`, and the merging of buffers.

Everything is weighted by samples, so that it does not matter how a batch was spread over workers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psedge.compression.codec import Float32Array
from psedge.server.push import Push


def merge_buffers(merged: Float32Array, contribution: Float32Array, share: float) -> None:
    """Move `merged` towards `contribution` by `share`, in place; both float32 of equal length.

    share: in (0, 1]; 1 makes them equal bit for bit. An element that is not finite in
    `contribution` leaves its counterpart as it is, so that a NaN never spreads and a mask of -inf
    among the buffers is no obstacle to the statistics beside it.
    """
    finite = np.isfinite(contribution)
    with np.errstate(all="ignore"):
        moved = merged + np.float32(share) * (contribution - merged)
    replaces = finite if share == 1.0 else finite & ~np.isfinite(moved)
    np.copyto(moved, contribution, where=replaces)
    np.copyto(merged, moved, where=finite)


@dataclass(frozen=True, slots=True)
class Mean:
    """What a round came to. None: nobody sent any."""

    gradient: Float32Array
    buffers: Float32Array | None
    counters: bytes | None


class Round:
    """One joint step of `bsp` while it gathers: the sample-weighted mean of what was pushed.

    The sum runs in the order of arrival and holds one vector, however many workers there are.
    clock: the one at which every contributor stood before its push.
    """

    def __init__(self, elements: int, clock: int) -> None:
        self.clock = clock
        self._sum: Float32Array = np.zeros(elements, dtype=np.float32)
        self._start()

    def _start(self) -> None:
        self._samples = 0
        self._buffers: Float32Array | None = None
        self._buffers_samples = 0
        self._counters: bytes | None = None
        self._counters_worker = -1

    def add(self, push: Push, gradient: Float32Array, buffers: Float32Array) -> None:
        """Add a push; its gradient is overwritten.

        buffers: the shard's own, which stand in for elements of the push that are not finite.
        """
        if self._samples:
            np.multiply(gradient, np.float32(push.samples), out=gradient)
            np.add(self._sum, gradient, out=self._sum)
        else:
            np.multiply(gradient, np.float32(push.samples), out=self._sum)
        self._samples += push.samples
        if push.buffers is not None:
            if self._buffers is None:
                self._buffers = buffers.copy()
            self._buffers_samples += push.samples
            merge_buffers(self._buffers, push.buffers, push.samples / self._buffers_samples)
        # The highest worker wins, so that the order of arrival does not matter.
        if push.counters is not None and push.worker >= self._counters_worker:
            self._counters, self._counters_worker = push.counters, push.worker

    def take(self) -> Mean | None:
        """The mean over all samples, None without any; begins a new round.

        The gradient is valid, and free to be overwritten, until the next `add`.
        """
        if not self._samples:
            return None
        np.multiply(self._sum, np.float32(1 / self._samples), out=self._sum)
        mean = Mean(self._sum, self._buffers, self._counters)
        self._start()
        return mean
