"""The worker's side of the parameter servers: push a gradient, receive fresh parameters.

An exchange has three parts, so that the network can be overlapped with computing: `encode` fixes
what is sent and on which version it was computed, `send` awaits the replies of all shards, and
`take` copies them into the vectors. Between `encode` and the end of `send` the gradient must not
change. A push keeps its sequence through every retry, so servers apply it once.

What a lossy codec drops stays in a residual and goes with the next push (error feedback). A push
that a shard refused, or that was given up, leaves the residual as it was before: what earlier
pushes still owe is not lost with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psedge.compression.codec import Codec, Float32Array
from psedge.compression.identity import Identity
from psedge.compression.table import codec_named
from psedge.protocol.address import Address
from psedge.protocol.errors import FrameError
from psedge.protocol.messages import JoinReply, ShardAddress
from psedge.protocol.ports import Buffer, Clock, Transport
from psedge.protocol.wire import Flag, Header, Kind, Status
from psedge.worker.binding import Vectors
from psedge.worker.outage import Notify, Outage
from psedge.worker.shard_link import Rejoin, ShardLink, StopTraining

__all__ = ["ExchangeResult", "Push", "Rejoin", "ShardClient", "StopTraining"]


@dataclass(frozen=True, slots=True)
class ExchangeResult:
    """What the shards made of one push.

    statuses: by shard. staleness, lag: the largest of them, in clocks and in updates.
    clock: the worker's completed steps.
    """

    statuses: tuple[Status, ...]
    staleness: int
    lag: int
    clock: int

    @property
    def nonfinite(self) -> bool:
        return Status.REFUSED_NONFINITE in self.statuses


@dataclass(slots=True)
class _Piece:
    """One shard's part of a push. settled: the shard has answered it, and the residual is right."""

    link: ShardLink
    header: Header
    parts: Sequence[Buffer]
    gradient: Float32Array
    residual: Float32Array | None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Push:
    """An encoded gradient, ready to be sent once."""

    samples: int
    pieces: Sequence[_Piece] = field(repr=False)


class ShardClient:
    """All shards of a run, as one worker under one incarnation sees them.

    base: the supervisor's address; shards without a URL of their own live there.
    vectors: written by `take`; their buffers and counters are read by `encode`.
    residual: float32, as long as the parameters: what an earlier incarnation still owes.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        join: JoinReply,
        base: Address,
        incarnation: int,
        vectors: Vectors,
        notify: Notify,
        *,
        residual: Float32Array | None = None,
    ) -> None:
        self._worker = join.worker
        self._incarnation = incarnation
        self._vectors = vectors
        self._push_codec = codec_named(join.push_codec)
        self._pull_codec = codec_named(join.pull_codec)
        self._sequence = 0
        if residual is None and not isinstance(self._push_codec, Identity):
            residual = np.zeros_like(vectors.parameters)
        self.residual = residual

        def link(shard: ShardAddress) -> ShardLink:
            url = shard.url or base.url
            return ShardLink(
                transport,
                Address(url, base.token),
                shard,
                len(vectors.counters) if shard.shard == 0 else 0,
                self._pull_codec,
                Outage(clock, notify, f"server {url}", incarnation),
            )

        self._links = [link(shard) for shard in join.shards]
        _check_cover(join.shards, len(vectors.parameters), len(vectors.buffers))

    @property
    def bytes_pushed(self) -> int:
        """Bytes of all frames sent, headers included."""
        return sum(link.bytes_sent for link in self._links)

    @property
    def bytes_pulled(self) -> int:
        """Bytes of all frames received, headers included."""
        return sum(link.bytes_received for link in self._links)

    @property
    def received(self) -> bool:
        """Whether something waits for `take`."""
        return any(link.reply is not None for link in self._links)

    def encode(
        self,
        gradient: Float32Array,
        samples: int,
        *,
        buffers_changed: bool = True,
        counters_changed: bool = True,
    ) -> Push:
        """Make the next push of a mean gradient over `samples` samples.

        gradient: float32, as long as the parameters; if any value is not finite all of it is
        overwritten with NaN, so that every shard refuses the push, and not only some of them.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            square = np.dot(gradient, gradient)
        if not np.isfinite(square) and not np.isfinite(gradient).all():
            gradient.fill(np.nan)
        self._sequence += 1
        buffers = self._vectors.buffers.copy() if buffers_changed else self._vectors.buffers[:0]
        counters = self._vectors.counters.tobytes() if counters_changed else b""
        return Push(
            samples,
            [self._piece(link, gradient, samples, buffers, counters) for link in self._links],
        )

    async def send(self, push: Push) -> ExchangeResult:
        """Push to all shards in parallel; returns when the next step is permitted.

        Raises Rejoin when a shard does not know this worker, StopTraining when the run is over.
        """
        try:
            replies = await _together([self._settle(piece) for piece in push.pieces])
        finally:
            for piece in push.pieces:
                if not piece.settled:
                    self._restore_residual(piece)
        return ExchangeResult(
            statuses=tuple(reply.status for reply in replies),
            staleness=max(reply.staleness for reply in replies),
            lag=max(reply.lag for reply in replies),
            clock=min(reply.clock for reply in replies),
        )

    async def exchange(self, gradient: Float32Array, samples: int) -> ExchangeResult:
        """`encode` and `send`; what came back waits for `take`."""
        return await self.send(self.encode(gradient, samples))

    async def pull(self) -> None:
        """Receive the newest parameters and buffers of all shards, to be taken with `take`."""
        await _together([link.request(self._header(link), ()) for link in self._links])

    def take(self) -> bool:
        """Copy what the last exchange or pull received into the vectors.

        Returns whether buffers or counters were among it. Raises FrameError for a payload that
        its codec cannot read.
        """
        changed = False
        for link in self._links:
            if link.reply is None:
                continue
            codec, payload, buffers, counters = link.sections()
            codec.decode(payload, self._vectors.parameters[link.parameters])
            if len(buffers):
                self._vectors.buffers[link.buffers] = np.frombuffer(buffers, "<f4")
            if len(counters):
                self._vectors.counters[:] = np.frombuffer(counters, np.uint8)
            changed = changed or len(buffers) > 0 or len(counters) > 0
            link.version = link.reply.version
            link.buffers_version = link.reply.buffers_version
            link.reply = None
        return changed

    def _piece(
        self,
        link: ShardLink,
        gradient: Float32Array,
        samples: int,
        buffers: Float32Array,
        counters: bytes,
    ) -> _Piece:
        values = gradient[link.parameters]
        residual = None if self.residual is None else self.residual[link.parameters]
        payload = self._push_codec.encode(values, residual)
        own_buffers = buffers[link.buffers].data.cast("B") if len(buffers) else b""
        own_counters = counters if link.counters_bytes else b""
        header = self._header(
            link,
            kind=Kind.EXCHANGE,
            flags=Flag.GATED,
            version=link.version,
            samples=samples,
            codec=self._push_codec.id,
            codec_parameters=self._push_codec.parameters(),
            payload_bytes=len(payload),
            buffers_bytes=len(own_buffers),
            counters_bytes=len(own_counters),
        )
        return _Piece(link, header, (payload, own_buffers, own_counters), values, residual)

    async def _settle(self, piece: _Piece) -> Header:
        """Send one piece and wait at the gate, asking again when the server's poll ends first."""
        link = piece.link
        answer = await link.request(piece.header, piece.parts)
        if answer.status in (Status.REFUSED_LAG, Status.REFUSED_NONFINITE):
            self._restore_residual(piece)
        piece.settled = True
        while link.reply is None:
            await link.request(self._header(link, flags=Flag.GATED), ())
        return answer

    def _restore_residual(self, piece: _Piece) -> None:
        """Undo what encoding a piece did to its residual: r = r' + decoded - gradient."""
        if piece.residual is None or not np.isfinite(piece.gradient).all():
            return
        codec: Codec = self._push_codec
        payload = memoryview(piece.parts[0])
        codec.decode_accumulate(payload, 1.0, piece.residual)
        piece.residual -= piece.gradient

    def _header(self, link: ShardLink, kind: Kind = Kind.PULL, **fields: Any) -> Header:
        return Header(
            kind=kind,
            shard=link.shard.shard,
            worker=self._worker,
            incarnation=self._incarnation,
            sequence=self._sequence,
            reply_codec=self._pull_codec.id,
            buffers_version=link.known_buffers_version,
            **fields,
        )


def _check_cover(shards: Sequence[ShardAddress], parameters: int, buffers: int) -> None:
    """The shards must tile both vectors: anything else would leave parameters unset."""
    at = buffers_at = 0
    for shard in shards:
        if shard.start != at or shard.buffers_start != buffers_at:
            raise FrameError(f"shard {shard.shard} starts at {shard.start}, expected {at}")
        at, buffers_at = shard.stop, shard.buffers_stop
    if (at, buffers_at) != (parameters, buffers):
        raise FrameError(
            f"the shards hold {at} parameters and {buffers_at} buffer values, "
            f"the model has {parameters} and {buffers}"
        )


async def _together(requests: Sequence[Coroutine[Any, Any, Header]]) -> list[Header]:
    """All results in order; the first failure cancels the others before it is raised."""
    if len(requests) == 1:
        return [await requests[0]]
    tasks = [asyncio.ensure_future(request) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
