"""A shard's slice as it travels: a codec for the matrices, float32 for the rest, a lossless stage.

A payload is the codec's payload of the slice's coded part, through the lossless stage, and behind
it the tail: biases, norms and whatever else has one dimension, as little-endian float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from psedge.compression.codec import Bytes, Codec, Encoded, EncoderState, Float32Array
from psedge.compression.coding_work import Coding
from psedge.compression.identity import Identity
from psedge.compression.lossless import Lossless, NoStage, stage_of_frame
from psedge.compression.step import Step
from psedge.compression.table import codec_of_frame
from psedge.protocol.errors import FrameError
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.ports import Buffer

Key = TypeVar("Key")

#: Most coders that are kept of one slice: what peers name must not fill the memory.
KEPT_CODERS = 32

_TAIL = Identity()


class Coder:
    """Encodes whole slices. Stateless; arrays are float32 and as long as the slice."""

    def __init__(self, codec: Codec, lossless: Lossless, piece: Slice) -> None:
        self.codec = codec
        self.lossless = lossless
        self.piece = piece
        #: Elements that the codec sees.
        self.coded = piece.coded
        #: Of the codec and of the lossless stage.
        self.coding: Coding = (codec.name, lossless.name)
        self._tail = _plain(piece, piece.coded)
        self._tail_bytes = 4 * self._tail.elements
        self._body_limit = codec.payload_limit(piece)
        # A lossless stage may lengthen what it cannot shorten, by less than this.
        stage = 0 if isinstance(lossless, NoStage) else 64 + self._body_limit // 64
        #: Most bytes that a payload may have.
        self.payload_limit = self._body_limit + stage + self._tail_bytes

    def encode(
        self, values: Float32Array, residual: Float32Array | None, state: EncoderState
    ) -> Encoded:
        """Encode `values` + `residual`, leaving in `residual` what is not carried.

        The parts may share memory with `values` and must be sent before they change. See `Codec`.
        """
        coded = self.coded
        if coded == 0:
            return _TAIL.encode(values, residual, self._tail, state)
        body = self.codec.encode(
            values[:coded], None if residual is None else residual[:coded], self.piece, state
        )
        if not self._tail.elements:
            return Encoded(self._staged(body.parts), body.finite)
        tail = _TAIL.encode(
            values[coded:], None if residual is None else residual[coded:], self._tail, state
        )
        return Encoded([*self._staged(body.parts), *tail.parts], body.finite and tail.finite)

    def encode_delta(
        self, target: Float32Array, published: Float32Array, state: EncoderState
    ) -> Encoded:
        """Encode `target` - `published` and change `published` as a receiver will change its own.

        The parts share no memory with `target`.
        """
        coded = self.coded
        parts: Sequence[Buffer] = ()
        finite = True
        if coded:
            body = self.codec.encode_delta(target[:coded], published[:coded], self.piece, state)
            parts, finite = self._staged(body.parts), body.finite
        tail = target[coded:]
        published[coded:] = tail
        return Encoded([*parts, tail.tobytes()] if len(tail) else parts, finite)

    def open(self, payload: memoryview) -> Opened:
        """Undo the lossless stage. Raises FrameError if lengths do not fit the slice."""
        tail_bytes = self._tail_bytes
        coded_bytes = len(payload) - tail_bytes
        if coded_bytes < 0:
            raise FrameError(
                f"a payload for {self.piece.elements} parameters has at least {tail_bytes} bytes, "
                f"got {len(payload)}"
            )
        body: Buffer = payload[:coded_bytes]
        if self.coded:
            body = self.lossless.decompress(payload[:coded_bytes], self._body_limit)
        elif coded_bytes:
            raise FrameError(f"{coded_bytes} bytes for codec {self.codec.name}, which has no part")
        return Opened(
            self.codec,
            self.piece,
            np.frombuffer(body, np.uint8),
            np.frombuffer(payload[coded_bytes:], np.uint8),
            self._tail,
        )

    def _staged(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        if isinstance(self.lossless, NoStage):
            return parts
        return [self.lossless.compress(parts[0] if len(parts) == 1 else b"".join(parts))]


class Opened:
    """A payload without its lossless stage, ready to be checked and decoded.

    It refers to the memory it was opened from.
    """

    __slots__ = ("_coded", "_tail_piece", "body", "codec", "piece", "tail")

    def __init__(
        self, codec: Codec, piece: Slice, body: Bytes, tail: Bytes, tail_piece: Slice
    ) -> None:
        """tail_piece: what of the slice is not coded, as a slice of its own."""
        self.codec = codec
        self.piece = piece
        self.body = body
        self.tail = tail
        self._coded = piece.coded
        self._tail_piece = tail_piece

    def check(self, limit: float) -> bool:
        """Whether all values are numbers no larger than `limit`.

        Raises FrameError for a malformed payload; what has passed can be decoded without errors.
        """
        coded = self.codec.check(self.body, self.piece, limit) if self._coded else True
        return (not len(self.tail) or _TAIL.check(self.tail, self._tail_piece, limit)) and coded

    def decode(self, out: Float32Array) -> None:
        """Write the values of the whole slice. Raises FrameError for a malformed payload."""
        coded = self._coded
        if coded:
            self.codec.decode(self.body, self.piece, out[:coded])
        if len(self.tail):
            _TAIL.decode(self.tail, self._tail_piece, out[coded:])

    def decode_accumulate(self, weight: float, out: Float32Array) -> None:
        """Add `weight` times the values. Raises FrameError as `decode` does."""
        coded = self._coded
        if coded:
            self.codec.decode_accumulate(self.body, self.piece, weight, out[:coded])
        if len(self.tail):
            _TAIL.decode_accumulate(self.tail, self._tail_piece, weight, out[coded:])

    def decode_delta(self, out: Float32Array) -> None:
        """Move a receiver's parameters as `encode_delta` moved the sender's record of them."""
        coded = self._coded
        if coded:
            self.codec.decode_accumulate(self.body, self.piece, 1.0, out[:coded])
        if len(self.tail):
            _TAIL.decode(self.tail, self._tail_piece, out[coded:])


def apply(opened: Sequence[Opened], weights: Sequence[float], step: Step) -> None:
    """Take `step` along the weighted sum of checked payloads of one slice, added in their order.

    Payloads of one codec are decoded, summed and applied in one pass; others are summed first.
    """
    first = opened[0]
    piece, coded = first.piece, first._coded
    alike = len(opened) == 1 or all(
        (other.codec.id, other.codec.parameters()) == (first.codec.id, first.codec.parameters())
        for other in opened[1:]
    )
    if not alike:
        total = np.zeros(piece.elements, np.float32)
        for payload, weight in zip(opened, weights, strict=True):
            payload.decode_accumulate(weight, total)
        _TAIL.decode_apply([total.view(np.uint8)], [1.0], _plain(piece, 0), step)
        return
    if coded:
        bodies = [payload.body for payload in opened]
        first.codec.decode_apply(bodies, weights, piece, step.part(0, coded))
    if coded < piece.elements:
        tails = [payload.tail for payload in opened]
        _TAIL.decode_apply(tails, weights, first._tail_piece, step.part(coded, piece.elements))


def _plain(piece: Slice, start: int) -> Slice:
    """The slice from `start` on, as one vector that a codec may treat as coded."""
    elements = piece.elements - start
    tensors = (TensorSlice(0, elements, elements),) if elements else ()
    return Slice(piece.offset + start, elements, tensors)


def coder_of_frame(codec_id: int, parameters: bytes, lossless_id: int, piece: Slice) -> Coder:
    """The coder that a frame's header names. Raises FrameError for one that is not known here."""
    return Coder(codec_of_frame(codec_id, parameters), stage_of_frame(lossless_id), piece)


class Coders:
    """The coders of one slice that were asked for lately: making one takes longer than using it."""

    def __init__(self, piece: Slice) -> None:
        self.piece = piece
        self._made: dict[tuple[Codec, Lossless], Coder] = {}
        self._of_frames: dict[tuple[int, bytes, int], Coder] = {}

    def of(self, codec: Codec, lossless: Lossless) -> Coder:
        """A coder of just this codec and stage."""
        found = self._made.get((codec, lossless))
        if found is None:
            found = Coder(codec, lossless, self.piece)
            _keep(self._made, (codec, lossless), found)
        return found

    def of_frame(self, codec_id: int, parameters: bytes, lossless_id: int) -> Coder:
        """The coder that a frame's header names. Raises FrameError for one not known here."""
        key = (codec_id, parameters, lossless_id)
        found = self._of_frames.get(key)
        if found is None:
            found = coder_of_frame(codec_id, parameters, lossless_id, self.piece)
            _keep(self._of_frames, key, found)
        return found


def _keep(coders: dict[Key, Coder], key: Key, coder: Coder) -> None:
    if len(coders) >= KEPT_CODERS:
        coders.clear()
    coders[key] = coder
