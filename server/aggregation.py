"""How what several workers send becomes one: the joint step of `bsp`, and the merging of buffers.

Everything is weighted by samples, so that it does not matter how a batch was spread over workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psedge.compression.codec import Float32Array
from psedge.compression.coder import Opened
from psedge.server.push import Push

#: Payloads of a round that are kept as they came; with more of them they are summed.
KEPT_PAYLOADS = 8


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
    """What a round came to.

    The mean gradient is `dense` + the sum of `weights` * `opened`. dense: None adds nothing; the
    array is valid, and free to be overwritten, until the next `add`. buffers, counters: None if
    nobody sent any. contributors: distinct workers whose gradients are in it.
    """

    opened: Sequence[Opened]
    weights: Sequence[float]
    dense: Float32Array | None
    buffers: Float32Array | None
    counters: bytes | None
    contributors: int


class Round:
    """One joint step of `bsp` while it gathers: the sample-weighted mean of what was pushed.

    The payloads of a few workers are kept, so that one pass over memory decodes, sums and applies
    them. More are decoded into one sum, in the order of arrival, so that the memory of a round
    does not grow with the workers.
    clock: the one at which every contributor stood before its push.
    """

    def __init__(self, elements: int, clock: int) -> None:
        self.clock = clock
        self._elements = elements
        self._sum: Float32Array | None = None
        self._start()

    @property
    def kept(self) -> int:
        """How many payloads, the latest ones, still refer to the memory they came in."""
        return len(self._opened)

    def _start(self) -> None:
        self._opened: list[Opened] = []
        self._opened_samples: list[int] = []
        self._summed = False
        self._samples = 0
        self._buffers: Float32Array | None = None
        self._buffers_samples = 0
        self._counters: bytes | None = None
        self._counters_worker = -1
        self._workers: set[int] = set()

    def add(self, push: Push, opened: Opened, buffers: Float32Array) -> None:
        """Add a push whose payload has been checked.

        opened: the push's; its memory must not change until the round is taken, or `kept` says
        that it is no longer among the kept ones.
        buffers: the shard's own, which stand in for elements of the push that are not finite.
        """
        if len(self._opened) == KEPT_PAYLOADS:
            self._fold()
        self._opened.append(opened)
        self._opened_samples.append(push.samples)
        self._samples += push.samples
        self._workers.add(push.worker)
        if push.buffers is not None:
            if self._buffers is None:
                self._buffers = buffers.copy()
            self._buffers_samples += push.samples
            merge_buffers(self._buffers, push.buffers, push.samples / self._buffers_samples)
        # The highest worker wins, so that the order of arrival does not matter.
        if push.counters is not None and push.worker >= self._counters_worker:
            self._counters, self._counters_worker = push.counters, push.worker

    def take(self) -> Mean | None:
        """The mean over all samples, None without any; begins a new round."""
        if not self._samples:
            return None
        weights = [samples / self._samples for samples in self._opened_samples]
        dense = self._sum if self._summed else None
        if dense is not None:
            np.multiply(dense, np.float32(1 / self._samples), out=dense)
        mean = Mean(self._opened, weights, dense, self._buffers, self._counters, len(self._workers))
        self._start()
        return mean

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        assert len(self._opened) == len(self._opened_samples) <= KEPT_PAYLOADS
        assert self._samples >= sum(self._opened_samples)
        assert self._summed == (self._samples > sum(self._opened_samples))
        assert not self._summed or self._sum is not None
        assert 0 <= self._buffers_samples <= self._samples
        assert (self._buffers is None) == (self._buffers_samples == 0)
        assert bool(self._workers) == (self._samples > 0)

    def _fold(self) -> None:
        """Decode the kept payloads into the sum, weighted by their samples."""
        if self._sum is None:
            self._sum = np.zeros(self._elements, np.float32)
        elif not self._summed:
            self._sum.fill(0.0)
        self._summed = True
        for opened, samples in zip(self._opened, self._opened_samples, strict=True):
            opened.decode_accumulate(float(samples), self._sum)
        self._opened, self._opened_samples = [], []
