"""top-k: the largest values alone, 8 bits each and some 9 bits to say where they are.

The payload is described in kernels/sparse.h. Which values are the largest is not searched for: a
threshold estimated from a sample lets about as many through as were wished, in the pass that adds
the residual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from psedge.compression.bucketed import plain
from psedge.compression.codec import Bytes, Encoded, EncoderState, Float32Array
from psedge.compression.native import kernels
from psedge.compression.no_parameters import NoParameters
from psedge.compression.push_codec import PushCodec
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice

if TYPE_CHECKING:
    from typing_extensions import Self

#: Density of the first payload of a warm-up (Lin et al. 2018).
WARMUP_DENSITY = 0.25
#: Nothing smaller is sent: its scale would be subnormal.
_SMALLEST = 2.0**-100
#: Sampled values that shall lie above the threshold: real gradients cluster, so that the estimate
#: is then mostly within a tenth or two.
_SAMPLED_PICKS = 200


class TopK(NoParameters, PushCodec):
    """About `density` of the values, the largest; the others wait in the residual.

    Without a residual they are lost, which costs 10 points of accuracy. How many are sent is within
    some 20 % of the wish as a rule, and never more than twice of it.

    momentum: of Deep Gradient Compression's momentum correction (Lin et al. 2018): the velocity in
    `EncoderState` runs through the worker's own momentum before the selection and is cleared where
    a value is sent; the servers' momentum has to be 0. warmup_pushes: payloads over which the
    density falls exponentially from 25 %.
    """

    id: ClassVar[int] = 8
    name: ClassVar[str] = "top-k"

    def __init__(
        self, density: float = 0.01, momentum: float = 0.0, warmup_pushes: int = 0
    ) -> None:
        if not 0.0 < density <= 1.0:
            raise ValueError(f"a density is above 0 and at most 1, got {density}")
        self.density = density
        self.momentum = momentum
        self.warmup_pushes = warmup_pushes

    @classmethod
    def of_settings(cls, settings: CodingSettings) -> Self:
        return cls(settings.density, settings.momentum_correction, settings.warmup_pushes)

    def payload_limit(self, piece: Slice) -> int:
        # Every value sent; gaps longer than a byte take a further byte per 128 values left out.
        return _payload_bytes(piece.coded, piece.coded)

    def picks(self, elements: int, payloads: int) -> int:
        """How many values the payload after so many others shall have."""
        density = self.density
        if payloads < self.warmup_pushes:
            part = payloads / self.warmup_pushes
            density = WARMUP_DENSITY ** (1.0 - part) * density**part
        return max(1, min(elements, round(density * elements)))

    def encode(
        self, values: Float32Array, residual: Float32Array | None, piece: Slice, state: EncoderState
    ) -> Encoded:
        """With momentum correction, moves `state.velocity` on."""
        values = plain(values)
        elements = len(values)
        rest = np.zeros(elements, np.float32) if residual is None else residual
        velocity = self._velocity(elements, state)
        wished = self.picks(elements, state.payloads)
        threshold = self._threshold(values, rest, velocity, wished, state.payloads)
        room = min(elements, 2 * wished)
        indices = np.empty(room, np.uint32)
        picked = np.empty(room, np.float32)
        count, finite = kernels.select(
            values, rest, velocity, self.momentum, threshold, indices, picked
        )
        payload = np.empty(_room(count), np.uint8)
        size = kernels.sparse_encode(indices[:count], picked[:count], residual, payload)
        return Encoded((payload[:size].data,), finite)

    def check(self, payload: Bytes, piece: Slice, limit: float) -> bool:
        bound = kernels.sparse_check(payload, piece.coded)
        if bound < 0.0:
            raise FrameError(f"malformed {self.name} payload for {piece.coded} values")
        return bound <= limit and bound != np.inf

    def decode_accumulate(
        self, payload: Bytes, piece: Slice, weight: float, out: Float32Array
    ) -> None:
        try:
            kernels.sparse_accumulate(payload, weight, out)
        except ValueError as error:
            raise FrameError(f"{self.name} payload of {len(payload)} bytes: {error}") from None

    def _velocity(self, elements: int, state: EncoderState) -> Float32Array | None:
        if not self.momentum:
            return None
        if state.velocity is None:
            state.velocity = np.zeros(elements, np.float32)
        return state.velocity

    def _threshold(
        self,
        values: Float32Array,
        rest: Float32Array,
        velocity: Float32Array | None,
        wished: int,
        payloads: int,
    ) -> float:
        """What about `wished` values exceed. Each payload samples other lines than the last."""
        density = wished / len(values)
        stride = max(1, wished // _SAMPLED_PICKS)
        first = payloads % stride
        return max(
            _SMALLEST,
            kernels.sample_threshold(values, rest, velocity, self.momentum, density, first, stride),
        )


def _payload_bytes(count: int, elements: int) -> int:
    return 4 + 2 * -(-count // 256) + 2 * count + elements // 128


def _room(count: int) -> int:
    """What the kernel asks for: it does not look ahead at the gaps."""
    return 4 + 2 * -(-count // 256) + 6 * count
