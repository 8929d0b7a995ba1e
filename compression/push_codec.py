"""What codecs share that no kernel decodes in passing: sparse and low-rank ones.

They are made for pushes, whose residual sends later what a payload leaves out. Deltas and steps are
there for completeness: they go through a float32 vector as long as the slice.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from psedge.compression.codec import Bytes, Encoded, EncoderState, Float32Array
from psedge.compression.decode_apply import apply_decoded
from psedge.compression.step import Step
from psedge.protocol.layout import Slice


class PushCodec:
    """A codec that has only `encode` and `decode_accumulate` of its own; see `Codec`."""

    id: ClassVar[int]
    name: ClassVar[str]

    @abstractmethod
    def parameters(self) -> bytes: ...

    @abstractmethod
    def payload_limit(self, piece: Slice) -> int: ...

    @abstractmethod
    def encode(
        self, values: Float32Array, residual: Float32Array | None, piece: Slice, state: EncoderState
    ) -> Encoded: ...

    @abstractmethod
    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool: ...

    @abstractmethod
    def decode_accumulate(
        self, payload: Bytes, piece: Slice, weight: float, out: Float32Array
    ) -> None: ...

    def encode_delta(
        self, target: Float32Array, published: Float32Array, piece: Slice, state: EncoderState
    ) -> Encoded:
        with np.errstate(all="ignore"):
            difference = target - published
        encoded = self.encode(difference, None, piece, state)
        payload = np.frombuffer(b"".join(encoded.parts), np.uint8)
        self.decode_accumulate(payload, piece, 1.0, published)
        return encoded

    def decode(self, payload: Bytes, piece: Slice, out: Float32Array) -> None:
        self.check(payload, piece, np.inf)
        out.fill(0.0)
        self.decode_accumulate(payload, piece, 1.0, out)

    def decode_apply(
        self, payloads: Sequence[Bytes], weights: Sequence[float], piece: Slice, step: Step
    ) -> None:
        apply_decoded(self, payloads, weights, piece, step)
