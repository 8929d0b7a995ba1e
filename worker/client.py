"""The worker's side of the parameter servers: push a gradient, receive fresh parameters.

An exchange has three parts, so that the network can be overlapped with computing: `encode` fixes
what is sent and on which version it was computed, `send` awaits the replies of all shards, and
`take` brings the vectors to where they lead. Between `encode` and the end of `send` the gradient
must not change, and between two `take`s the parameters must not: what comes is mostly the
difference to them. A push keeps its sequence through every retry, so servers apply it once.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psedge.compression.codec import Float32Array
from psedge.compression.codec_speed import Measure, measure
from psedge.compression.coding_work import CodingWork
from psedge.protocol.address import Address
from psedge.protocol.errors import FrameError
from psedge.protocol.messages import JoinReply, ShardAddress
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.wire import Flag, Header, Kind, Status
from psedge.worker.binding import Vectors
from psedge.worker.coding import WorkerCoding
from psedge.worker.directory import Directory
from psedge.worker.endings import Rejoin, StopTraining
from psedge.worker.outage import Notify
from psedge.worker.push import Piece, Push, encode_pieces, take_back, undo
from psedge.worker.residual import Residual
from psedge.worker.shard_link import ShardLink

__all__ = ["ExchangeResult", "Push", "Rejoin", "ShardClient", "StopTraining"]

#: With a lossy push codec, buffers and counters travel with every so many pushes: they are
#: averages over many steps, and as float32 they would weigh as much as all else.
BUFFERS_EVERY = 4
#: Weight of the steps before the latest in the time that one is taken to last.
STEP_MEMORY = 0.8


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


class ShardClient:
    """All shards of a run, as one worker under one incarnation sees them.

    base: the supervisor's address; shards without a URL of their own live there.
    vectors: written by `take`; their buffers and counters are read by `encode`.
    owed: what an earlier incarnation of this worker still owes.
    costs: what codecs cost this worker; None measures it by the clock.
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
        owed: Residual | None = None,
        costs: Measure | None = None,
    ) -> None:
        self._worker = join.worker
        self._incarnation = incarnation
        self._vectors = vectors
        self._clock = clock
        self._notify = notify
        self._sequence = 0
        self._encoded_at: float | None = None
        self._step_seconds = 0.0
        self.owed = Residual(len(vectors.parameters)) if owed is None else owed
        #: What was encoded and decoded so far.
        self.work = CodingWork()
        #: Whether the next push is to carry buffers and counters.
        self.buffers_due = True
        self.directory = Directory(transport, clock, base, join, incarnation, notify)

        def link(shard: ShardAddress) -> ShardLink:
            counters_bytes = len(vectors.counters) if shard.shard == 0 else 0
            return ShardLink(
                transport, clock, self.directory, shard, counters_bytes, notify, self.work
            )

        self._links = [link(shard) for shard in join.shards]
        _check_cover(join.shards, len(vectors.parameters), len(vectors.buffers))
        coded = sum(each.piece.coded for each in self._links)
        self.coding = WorkerCoding(
            join.coding,
            join.lossless,
            coded,
            len(vectors.parameters) - coded,
            functools.partial(measure, now=clock.now) if costs is None else costs,
        )

    @property
    def residual(self) -> Float32Array | None:
        """What pushes still owe, float32 and as long as the parameters; None for nothing."""
        return self.owed.vector

    @property
    def links(self) -> Sequence[ShardLink]:
        """The connections to the shards, in the order of their ranges."""
        return self._links

    @property
    def bytes_pushed(self) -> int:
        """Bytes of all frames sent, headers included."""
        return sum([link.bytes_sent for link in self._links])

    @property
    def bytes_pulled(self) -> int:
        """Bytes of all frames received, headers included."""
        return sum([link.bytes_received for link in self._links])

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

        gradient: float32, as long as the parameters, and not modified; with NaN or Inf in it none
        of it is sent, and every shard counts a refused push.
        """
        self._sequence += 1
        self._judge(gradient)
        lossy = self.coding.push.codec != "identity"
        with_buffers = self.buffers_due or not lossy
        pieces, finite = encode_pieces(self._links, gradient, self.coding, self.owed, self._worker)
        flags = Flag.GATED
        if not finite:
            flags |= Flag.NONFINITE
        elif with_buffers:
            flags |= Flag.BUFFERS
        changed = (buffers_changed, counters_changed) if flags & Flag.BUFFERS else (False, False)
        self._frame(pieces, flags, samples, *changed)
        self.buffers_due = not (lossy and finite) or self._sequence % BUFFERS_EVERY == 0
        return Push(samples, finite, pieces)

    async def send(self, push: Push) -> ExchangeResult:
        """Push to all shards in parallel; returns when the next step is permitted.

        Raises Rejoin when a shard does not know this worker, StopTraining when the run is over.
        """
        try:
            replies = await _together([self._settle(piece) for piece in push.pieces])
        finally:
            for piece in push.pieces:
                if not piece.settled:
                    undo(piece, self.owed)
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
        await _together(
            [link.request(self._header(link, flags=Flag.BUFFERS), ()) for link in self._links]
        )

    def take(self) -> bool:
        """Bring the vectors to where the last exchange or pull leads.

        Returns whether buffers or counters were among it. Raises FrameError for a payload that
        its codec cannot read.
        """
        changed = False
        for link in self._links:
            if link.reply is None:
                continue
            link.take_parameters(self._vectors.parameters[link.parameters])
            buffers, counters = link.buffers_and_counters()
            if len(buffers):
                self._vectors.buffers[link.buffers] = np.frombuffer(buffers, "<f4")
            if len(counters):
                self._vectors.counters[:] = np.frombuffer(counters, np.uint8)
            changed = changed or len(buffers) > 0 or len(counters) > 0
            link.taken()
        return changed

    def close(self) -> None:
        """Ask nobody for anything any more. Requests under way are their callers' to end."""
        self.directory.close()

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        self.owed.check_invariants()
        for link in self._links:
            assert link.reply is None or link.reply.sequence <= self._sequence

    def _judge(self, gradient: Float32Array) -> None:
        """Look at the codecs again if it is time to."""
        now = self._clock.now()
        if self._encoded_at is not None:
            latest = now - self._encoded_at
            past = self._step_seconds or latest
            self._step_seconds = STEP_MEMORY * past + (1 - STEP_MEMORY) * latest
        self._encoded_at = now
        if not self.coding.open:
            return
        down = _seconds_per_byte([(link, link.down.seconds_per_byte) for link in self._links])
        up = _seconds_per_byte([(link, link.up.seconds_per_byte) for link in self._links])
        if down is None:
            return
        up = down if up is None else up
        if not self.coding.due(self._sequence, up, down):
            return
        change = self.coding.judge(self._sequence, up, down, self._step_seconds, gradient)
        if change:
            self._notify(change)

    def _frame(
        self,
        pieces: Sequence[Piece],
        flags: Flag,
        samples: int,
        buffers_changed: bool,
        counters_changed: bool,
    ) -> None:
        """Give each piece its header and its part of buffers and counters."""
        vectors, coding = self._vectors, self.coding
        buffers = vectors.buffers.copy() if buffers_changed else vectors.buffers[:0]
        counters = vectors.counters.tobytes() if counters_changed else b""
        for piece in pieces:
            link = piece.link
            own_buffers = buffers[link.buffers].data.cast("B") if len(buffers) else b""
            own_counters = counters if link.counters_bytes else b""
            piece.extras = (own_buffers, own_counters)
            piece.header = self._header(
                link,
                kind=Kind.EXCHANGE,
                flags=flags,
                version=link.version,
                samples=samples,
                codec=piece.coder.codec.id,
                codec_parameters=piece.coder.codec.parameters(),
                lossless=coding.push_stage().id,
                payload_bytes=piece.payload_bytes,
                buffers_bytes=len(own_buffers),
                counters_bytes=len(own_counters),
            )

    async def _settle(self, piece: Piece) -> Header:
        """Send one piece and wait at the gate, asking again when the server's poll ends first."""
        link, header = piece.link, piece.header
        assert header is not None
        answer = await link.request(header, (*piece.payload, *piece.extras))
        if answer.status == Status.REFUSED_LAG:
            take_back(piece, self.owed)
        elif answer.status == Status.REFUSED_NONFINITE:
            undo(piece, self.owed)
        piece.settled = True
        flags = header.flags & (Flag.GATED | Flag.BUFFERS)
        while link.reply is None:
            await link.request(self._header(link, flags=flags), ())
        return answer

    def _header(self, link: ShardLink, kind: Kind = Kind.PULL, **fields: Any) -> Header:
        coding = self.coding
        return Header(
            kind=kind,
            shard=link.shard.shard,
            worker=self._worker,
            incarnation=self._incarnation,
            sequence=self._sequence,
            reply_codec=coding.pull_codec.id,
            reply_lossless=coding.pull_stage().id,
            **fields,
        )


def _seconds_per_byte(rates: Sequence[tuple[ShardLink, float | None]]) -> float | None:
    """Of the whole model, whose parts cross all links at once; None before anything did."""
    known = [(link.piece.elements, rate) for link, rate in rates if rate is not None]
    if not known:
        return None
    elements = sum(count for count, _ in known)
    return max(count * rate for count, rate in known) / elements


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
