"""The codec contract: how float32 numbers become bytes and come back.

A codec is stateless; what it drops goes into the caller's residual (error feedback, Seide et al.
2014, "1-Bit Stochastic Gradient Descent"), so that sum(decoded) + residual = sum(values) over any
number of encodings, by any codecs in turn. Its id and eight bytes of parameters travel in the frame
header; the payload is opaque to everyone else. `table.py` lists the codecs; each is one file.

Every array is one-dimensional, C-contiguous, little-endian float32, and as long as the slice has
coded elements (`Slice.coded`); a payload is read only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from psedge.compression.step import Step
from psedge.protocol.layout import Slice
from psedge.protocol.ports import Buffer

Float32Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(slots=True)
class EncoderState:
    """What an encoder carries from one payload to the next; one per sender, shard and direction.

    seed: of this payload's stochastic rounding, a uint32. payloads: how many were made before it.
    bases: `power-sgd`'s, by tensor. velocity: a worker's own momentum, where `top-k` corrects it.
    """

    seed: int = 0
    payloads: int = 0
    bases: dict[int, Float32Array] = field(default_factory=dict)
    velocity: Float32Array | None = None


class Encoded(msgspec.Struct, frozen=True):
    """parts: the payload, in order; they may share memory with what was encoded.

    finite: False if a value was NaN or infinite. Each bucket that holds such a value is then left
    out: it decodes to zeros, and its residual is as it was.
    """

    parts: Sequence[Buffer]
    finite: bool = True


class Codec(Protocol):
    #: Travels in the frame header; never reused for another format.
    id: ClassVar[int]
    #: What a config calls it.
    name: ClassVar[str]

    def parameters(self) -> bytes:
        """Eight bytes that, with the id, make an equal decoder at the other end."""
        ...

    def payload_limit(self, piece: Slice) -> int:
        """Most bytes that a payload of the slice may have, known before it is made or read."""
        ...

    def encode(
        self, values: Float32Array, residual: Float32Array | None, piece: Slice, state: EncoderState
    ) -> Encoded:
        """Encode `values` + `residual`, leaving in `residual` what the payload does not carry.

        values: not modified. residual: updated in place; None drops the error.
        """
        ...

    def encode_delta(
        self, target: Float32Array, published: Float32Array, piece: Slice, state: EncoderState
    ) -> Encoded:
        """Encode `target` - `published`, and add to `published` what a decoder will add."""
        ...

    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool:
        """Whether all decoded values are numbers no larger than `limit`.

        Raises FrameError for a malformed payload. What has passed can be decoded without errors.
        """
        ...

    def decode(self, payload: Bytes, piece: Slice, out: Float32Array) -> None:
        """Write the decoded values to `out`. Raises FrameError for a malformed payload."""
        ...

    def decode_accumulate(
        self, payload: Bytes, piece: Slice, weight: float, out: Float32Array
    ) -> None:
        """Add `weight` times the decoded values to `out`. Raises FrameError as `decode` does."""
        ...

    def decode_apply(
        self, payloads: Sequence[Bytes], weights: Sequence[float], piece: Slice, step: Step
    ) -> None:
        """Take `step` along the weighted sum of checked payloads, added in their order."""
        ...
