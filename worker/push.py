"""One gradient on its way to the shards, and what its failure does to the residual.

What a lossy codec drops stays in the residual and goes with the next push (error feedback). A push
that a shard refused as too old returns all it carried to the residual. One that was given up, or
that held NaN or Inf, leaves the residual as it was before: what earlier pushes still owe is not
lost with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from psedge.compression.codec import Codec, Encoded, EncoderState, Float32Array
from psedge.compression.coder import Coder, Opened
from psedge.compression.codes import BUCKET, INFINITE_FROM
from psedge.compression.identity import Identity
from psedge.compression.top_k import TopK
from psedge.protocol.ports import Buffer
from psedge.protocol.wire import Header
from psedge.worker.coding import WorkerCoding
from psedge.worker.residual import Residual
from psedge.worker.shard_link import ShardLink


@dataclass(frozen=True, slots=True)
class Carried:
    """Copies of what one shard's encoder carries from push to push, as they were before this one.

    residual: float32, as long as the slice. velocity: as long as its coded part; None if there was
    none yet. state: whose velocity it is.
    """

    residual: Float32Array
    velocity: Float32Array | None
    state: EncoderState

    def put_back(self, residual: Float32Array) -> None:
        """residual: the shard's part, overwritten."""
        residual[:] = self.residual
        self.state.velocity = self.velocity


@dataclass(slots=True)
class Piece:
    """One shard's part of a push.

    gradient: the shard's part. payload: empty for a gradient that was not finite.
    owing: whether a residual went into it. before: kept where the payload does not tell what
    became of the residual. settled: the shard has answered it.
    header, extras: of the frame, once it is made: buffers and counters.
    """

    link: ShardLink
    coder: Coder
    gradient: Float32Array
    payload: Sequence[Buffer]
    owing: bool
    before: Carried | None = None
    settled: bool = False
    header: Header | None = None
    extras: Sequence[Buffer] = ()

    @property
    def payload_bytes(self) -> int:
        return sum(map(len, self.payload))

    def opened(self) -> Opened:
        """The payload as the shard reads it."""
        parts = self.payload
        return self.coder.open(memoryview(parts[0] if len(parts) == 1 else b"".join(parts)))


@dataclass(frozen=True, slots=True)
class Push:
    """An encoded gradient, ready to be sent once. finite: False if it held NaN or Inf."""

    samples: int
    finite: bool
    pieces: Sequence[Piece] = field(repr=False)


def encode_pieces(
    links: Sequence[ShardLink],
    gradient: Float32Array,
    coding: WorkerCoding,
    residual: Residual,
    worker: int,
) -> tuple[list[Piece], bool]:
    """Encode a gradient of all parameters, shard by shard; False if it is not finite.

    Then nothing of it is sent, and the residual is as before.
    """
    codec, stage = coding.push_codec, coding.push_stage()
    exact = isinstance(codec, Identity)
    residual.begin()
    if not exact:
        residual.allocated()
    pieces, finite = [], True
    for link in links:
        coder = link.coders.of(codec, stage)
        values = gradient[link.parameters]
        owed = residual.of(link.piece)
        state = residual.state(link.piece, coding.seed, worker)
        before = _carried(codec, owed, state)
        encoded: Encoded = coder.encode(values, owed, state)
        link.work.encoded[coder.coding] += coder.coded
        pieces.append(Piece(link, coder, values, encoded.parts, owed is not None, before))
        finite = finite and encoded.finite
    if not finite:
        for piece in pieces:
            _undo_finite_part(piece, residual)
            piece.payload = ()
    elif exact:
        residual.clear()
    return pieces, finite


def take_back(piece: Piece, residual: Residual) -> None:
    """The shard refused the push: the residual takes back what it carried."""
    if piece.payload_bytes:
        piece.opened().decode_accumulate(1.0, residual.owed(piece.link.piece))


def undo(piece: Piece, residual: Residual) -> None:
    """The residual becomes what it was before the push: r = r' + decoded - gradient."""
    if piece.before is not None:
        piece.before.put_back(residual.owed(piece.link.piece))
    elif piece.owing and piece.payload_bytes:
        owed = residual.owed(piece.link.piece)
        piece.opened().decode_accumulate(1.0, owed)
        owed -= piece.gradient


def _carried(codec: Codec, owed: Float32Array | None, state: EncoderState) -> Carried | None:
    """For momentum correction, which adds more to the residual than the gradient; else None."""
    if owed is None or not isinstance(codec, TopK) or not codec.momentum:
        return None
    velocity = None if state.velocity is None else state.velocity.copy()
    return Carried(owed.copy(), velocity, state)


def _undo_finite_part(piece: Piece, residual: Residual) -> None:
    """As `undo`, where encoding left out each bucket that was not finite.

    Such a bucket decodes to zeros, or with `identity` to what it is, and its residual did not
    change.
    """
    if piece.before is not None:
        undo(piece, residual)
    if piece.before is not None or not piece.owing:
        return
    owed = residual.owed(piece.link.piece)
    decoded = np.zeros_like(owed)
    piece.opened().decode(decoded)
    coded = piece.link.piece.coded
    with np.errstate(invalid="ignore", over="ignore"):
        change = decoded - piece.gradient
        finite = np.abs(piece.gradient + owed) < INFINITE_FROM
        left_out = ~np.isfinite(decoded) | (~finite & (decoded == 0.0))
    starts = [*range(0, coded, BUCKET), *range(coded, len(owed), BUCKET), len(owed)]
    for start, stop in itertools.pairwise(starts):
        if left_out[start:stop].any():
            change[start:stop] = 0.0
    owed += change
