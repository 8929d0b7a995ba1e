"""What a worker's pushes still owe, and what its encoders carry from one push to the next."""

from __future__ import annotations

import zlib

import numpy as np

from psedge.compression.codec import EncoderState, Float32Array
from psedge.protocol.layout import Slice


class Residual:
    """One worker's, through codec switches, refusals and joining again.

    elements: of the parameter vector. Memory is taken only once something is owed.
    """

    def __init__(self, elements: int) -> None:
        self.vector: Float32Array | None = None
        self._elements = elements
        self._pushes = 0
        self._states: dict[tuple[int, int], EncoderState] = {}

    def allocated(self) -> Float32Array:
        """The vector, float32 and as long as the parameters; zeros if nothing was owed."""
        if self.vector is None:
            self.vector = np.zeros(self._elements, np.float32)
        return self.vector

    def of(self, piece: Slice) -> Float32Array | None:
        """The part of a shard; None if nothing is owed."""
        if self.vector is None:
            return None
        return self.vector[piece.offset : piece.offset + piece.elements]

    def owed(self, piece: Slice) -> Float32Array:
        """The part of a shard, to add to."""
        return self.allocated()[piece.offset : piece.offset + piece.elements]

    def clear(self) -> None:
        """Nothing is owed any more: a codec that drops nothing took all of it along."""
        self.vector = None

    def begin(self) -> None:
        """The next push begins."""
        self._pushes += 1

    def check_invariants(self) -> None:
        """Raise AssertionError if what is owed is not finite or not as long as the parameters."""
        if self.vector is not None:
            assert len(self.vector) == self._elements
            assert np.isfinite(self.vector).all(), "the residual is not finite"

    def state(self, piece: Slice, seed: int, worker: int) -> EncoderState:
        """The state for this push of a shard's encoder.

        The seed of its rounding follows from the run's seed, the worker and the push, so that a
        run can be repeated and no two workers round alike.
        """
        key = (piece.offset, piece.elements)
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = EncoderState()
        state.payloads = self._pushes - 1
        state.seed = zlib.crc32(b"%d %d %d" % (seed, worker, self._pushes))
        return state
