"""One published model for all workers: each difference is encoded once and served to everyone.

It takes the memory of one model instead of one per worker. In exchange what workers get is as old
as the last publication, and staleness costs accuracy; only in `bsp`, where all workers have the
same model anyway, it costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from psedge.compression.codec import EncoderState, Float32Array
from psedge.compression.coder import Coder, Opened
from psedge.compression.identity import Identity
from psedge.compression.lossless import Lossless, NoStage
from psedge.compression.table import codec_named
from psedge.protocol.coding import CodingSettings
from psedge.protocol.layout import Slice
from psedge.protocol.ports import Buffer
from psedge.protocol.wire import Content
from psedge.server.publication import (
    Publication,
    Wanted,
    delta_section,
    digest_at,
    digest_of,
    owned,
)


@dataclass(slots=True)
class _Delta:
    """One difference. staged: its section of a payload, by the id of the lossless stage."""

    opened: Opened
    bytes: int
    staged: dict[int, list[Buffer]] = field(default_factory=dict)

    def section(self, lossless: Lossless) -> list[Buffer]:
        """What workers that can undo `lossless` are sent; made once."""
        found = self.staged.get(lossless.id)
        if found is None:
            body: Buffer = self.opened.body.data
            if len(body):
                body = lossless.compress(body)
            tail: Buffer = self.opened.tail.data
            found = delta_section([part for part in (body, tail) if len(part)])
            self.staged[lossless.id] = found
        return found


class SharedChain:
    """The published model P of one shard and the latest differences that led to it."""

    def __init__(self, piece: Slice, coding: CodingSettings, first_position: int = 0) -> None:
        """first_position: where the chain begins."""
        # A shared chain cannot suit each worker's link; `auto` takes what always costs little.
        self._codec = codec_named("q8" if coding.pull == "auto" else coding.pull, coding)
        self._piece = piece
        self._plain = Coder(self._codec, NoStage(), piece)
        self._every = coding.publish_every
        self._parameters: Float32Array | None = None
        self._version = 0
        self._first_position = self._position = first_position
        self._state = EncoderState()
        self._digest = 0
        self._deltas: deque[_Delta] = deque()
        self._deltas_bytes = 0
        #: The published model as float32, by lossless stage; made when somebody needs it.
        self._snapshots: dict[int, Publication] = {}

    def publication(
        self, wanted: Wanted, version: int, parameters: Callable[[], Float32Array]
    ) -> Publication:
        """What a worker is sent now; see `Published.publication`. Its codec is the chain's."""
        published = self._parameters
        if published is None:
            self._parameters = published = parameters().copy()
            self._version = version
        elif version - self._version >= self._every:
            self._publish(published, parameters())
            self._version = version
        missing = self._position - wanted.position
        if 0 <= missing <= len(self._deltas):
            differences = self._differences(missing, wanted.lossless)
            # More than a snapshot's worth of differences is not worth sending.
            if missing <= 1 or differences.payload_bytes <= published.nbytes:
                return differences
        return self._snapshot(published, wanted.lossless)

    def model_at(self, position: int) -> Float32Array | None:
        """The published model, if the chain stands at `position`."""
        return self._parameters if position == self._position else None

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself or has outgrown its bounds."""
        assert self._deltas_bytes == sum(delta.bytes for delta in self._deltas)
        assert len(self._deltas) <= self._position - self._first_position
        assert self._parameters is not None or self._position == self._first_position
        if self._parameters is not None:
            assert len(self._parameters) == self._piece.elements
            assert self._deltas_bytes <= self._parameters.nbytes or len(self._deltas) == 1

    def _publish(self, published: Float32Array, target: Float32Array) -> None:
        """Move the published model towards `target`, and keep the difference."""
        plain = self._plain
        encoded = plain.encode_delta(target, published, self._state)
        if encoded.finite:
            self._keep(encoded.parts, plain, published.nbytes)
        else:
            # No difference tells of NaN and infinity: everyone gets a snapshot that does.
            np.copyto(published, target)
            self._deltas.clear()
            self._deltas_bytes = 0
        self._position += 1
        self._digest = digest_at(self._position, published)
        self._snapshots.clear()

    def _keep(self, parts: Sequence[Buffer], plain: Coder, limit_bytes: int) -> None:
        """Add the newest difference; all of them together take no more than the limit."""
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        self._deltas.append(_Delta(plain.open(memoryview(payload)), len(payload)))
        self._deltas_bytes += len(payload)
        while self._deltas_bytes > limit_bytes and len(self._deltas) > 1:
            self._deltas_bytes -= self._deltas.popleft().bytes

    def _differences(self, count: int, lossless: Lossless) -> Publication:
        """The latest ones; possibly none, for workers that have everything."""
        latest = range(len(self._deltas) - count, len(self._deltas))
        return Publication(
            Content.DELTAS,
            self._codec,
            lossless,
            self._version,
            [part for index in latest for part in self._deltas[index].section(lossless)],
            deltas=count,
            position=self._position,
            digest=self._digest,
        )

    def _snapshot(self, published: Float32Array, lossless: Lossless) -> Publication:
        found = self._snapshots.get(lossless.id)
        if found is None:
            codec = Identity()
            encoded = Coder(codec, lossless, self._piece).encode(published, None, EncoderState())
            found = Publication(
                Content.WHOLE,
                codec,
                lossless,
                self._version,
                owned(encoded.parts, published),
                position=self._position,
                digest=digest_of(published),
            )
            self._snapshots[lossless.id] = found
        return found
