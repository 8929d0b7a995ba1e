"""identity: float32 as it is, 4 bytes a value. Best where the link outruns any codec."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from psedge.compression.bucketed import KernelCodec, plain
from psedge.compression.codec import Bytes, Encoded, EncoderState, Float32Array
from psedge.compression.codes import BUCKET
from psedge.protocol.layout import Slice


class Identity(KernelCodec):
    """Loses nothing, so it only adds a residual left over by another codec and clears it.

    A payload with NaN or infinities carries them; in their buckets the residual is as it was.
    """

    id: ClassVar[int] = 0
    name: ClassVar[str] = "identity"

    def encode(
        self, values: Float32Array, residual: Float32Array | None, piece: Slice, state: EncoderState
    ) -> Encoded:
        """The payload may share memory with `values` and must be sent before they change."""
        total = plain(values)
        # As integers: a vector of zeros is found out at the speed of memory.
        if residual is None or not residual.view(np.uint32).max(initial=0):
            return Encoded((total.data.cast("B"),), within(total, np.inf))
        with np.errstate(all="ignore"):
            total = total + residual
        finite = within(total, np.inf)
        if finite:
            residual.fill(0.0)
        else:
            residual[_finite_buckets(total)] = 0.0
        return Encoded((total.data.cast("B"),), finite)

    def encode_delta(
        self, target: Float32Array, published: Float32Array, piece: Slice, state: EncoderState
    ) -> Encoded:
        with np.errstate(all="ignore"):
            delta = target - published
        finite = within(delta, np.inf)
        if not finite:
            delta[~_finite_buckets(delta)] = 0.0
        np.add(published, delta, out=published)
        return Encoded((delta.data.cast("B"),), finite)

    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool:
        self.check_size(payload, piece)
        return within(payload.view("<f4"), limit)


def within(values: Float32Array, limit: float) -> bool:
    """Whether all values are numbers no larger than `limit`."""
    with np.errstate(all="ignore"):
        # The sum of squares is one quick pass; only where it is large does a second one look.
        squares = float(np.dot(values, values))
        if squares <= min(limit, 1e18) ** 2:
            return True
        largest = float(np.abs(values).max()) if len(values) else 0.0
    return largest <= limit and largest != np.inf


def _finite_buckets(values: Float32Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """For each value whether all of its bucket are finite."""
    finite = np.isfinite(values)
    starts = np.arange(0, len(values), BUCKET)
    return np.repeat(np.logical_and.reduceat(finite, starts), BUCKET)[: len(values)]
