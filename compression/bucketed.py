"""What the codecs share whose payloads the kernels read and write, bucket by bucket."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from psedge.compression.codec import Bytes, Encoded, EncoderState, Float32Array
from psedge.compression.codes import BUCKET, LEVELS, buckets_of, payload_bytes
from psedge.compression.decode_apply import apply_payloads
from psedge.compression.native import kernels
from psedge.compression.no_parameters import NoParameters
from psedge.compression.step import Step
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice

if TYPE_CHECKING:
    from typing_extensions import Self

Rounding = Literal["nearest", "stochastic"]

#: The first bfloat16 that is infinite or NaN, and the first with a sign.
_INFINITE = 0x7F80
_SIGNED = 0x8000
_BITS, _FLOAT = struct.Struct("<I"), struct.Struct("<f")


class KernelCodec(NoParameters):
    """A codec of which the kernels do all the work; its id is the kernels' code."""

    id: ClassVar[int]
    name: ClassVar[str]
    #: Stochastic rounding keeps the mean of an element right even without a residual.
    stochastic = False
    #: Of `ecsq`, in root mean squares of a bucket.
    step = 2.0

    @classmethod
    def of_settings(cls, settings: CodingSettings) -> Self:
        return cls()

    def payload_limit(self, piece: Slice) -> int:
        return payload_bytes(self.id, piece.coded)

    def encode(
        self, values: Float32Array, residual: Float32Array | None, piece: Slice, state: EncoderState
    ) -> Encoded:
        payload = np.empty(payload_bytes(self.id, piece.coded), np.uint8)
        finite = kernels.encode(
            self.id,
            plain(values),
            residual,
            payload,
            self.stochastic,
            state.seed,
            piece.offset // BUCKET,
            self.step,
        )
        return Encoded((payload.data,), finite)

    def encode_delta(
        self, target: Float32Array, published: Float32Array, piece: Slice, state: EncoderState
    ) -> Encoded:
        payload = np.empty(payload_bytes(self.id, piece.coded), np.uint8)
        finite = kernels.encode_delta(self.id, plain(target), published, payload, self.step)
        return Encoded((payload.data,), finite)

    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool:
        self.check_size(payload, piece)
        scales = payload[: 2 * buckets_of(piece.coded)].view("<u2")
        largest = int(scales.max()) if len(scales) else 0
        if largest >= _SIGNED:
            raise FrameError(f"a {self.name} payload has a negative scale")
        if largest >= _INFINITE:
            return False
        scale: float = _FLOAT.unpack(_BITS.pack(largest << 16))[0]
        return scale * LEVELS[self.id] <= limit

    def decode(self, payload: Bytes, piece: Slice, out: Float32Array) -> None:
        self.check_size(payload, piece)
        kernels.decode(self.id, payload, out)

    def decode_accumulate(
        self, payload: Bytes, piece: Slice, weight: float, out: Float32Array
    ) -> None:
        self.check_size(payload, piece)
        kernels.decode_accumulate(self.id, payload, weight, out)

    def decode_apply(
        self, payloads: Sequence[Bytes], weights: Sequence[float], piece: Slice, step: Step
    ) -> None:
        apply_payloads(self.id, payloads, weights, None, step)

    def check_size(self, payload: Bytes, piece: Slice) -> None:
        """Raises FrameError unless the payload has exactly the size of the slice's."""
        size = payload_bytes(self.id, piece.coded)
        if len(payload) != size:
            raise FrameError(
                f"{self.name} payload of {piece.coded} values is {size} bytes, got {len(payload)}"
            )


class RoundedCodec(KernelCodec):
    """A quantizer that rounds to levels, to the nearest or stochastically."""

    def __init__(self, rounding: Rounding = "nearest") -> None:
        self.stochastic = rounding == "stochastic"

    @classmethod
    def of_settings(cls, settings: CodingSettings) -> Self:
        return cls(settings.rounding)


def plain(values: Float32Array) -> Float32Array:
    """The values as kernels take them: copied only if they are strided or out of alignment."""
    if values.flags.c_contiguous and values.flags.aligned:
        return values
    return np.array(values, np.float32, order="C")
