"""The shell of a parameter server: requests in, shard calls, replies out.

Decisions live in `replica.py`, `shard.py` and `published.py`. Here bodies are streamed into buffers
that are kept, and workers wait: at the gate, and until what they pushed is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from psedge.protocol.bundle import pack, unpack
from psedge.protocol.calls import answer, read_body, read_message
from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.messages import (
    EXCHANGE,
    HELLO,
    SHARD_ASSIGN,
    SHARD_MEMBERS,
    SHARD_STATE,
    Acknowledged,
    Hello,
    HelloReply,
)
from psedge.protocol.ports import Buffer, Handler, Incoming, Reply
from psedge.protocol.shards import Members, ShardOrder
from psedge.protocol.version import __version__
from psedge.protocol.wire import (
    HEADER_BYTES,
    WIRE_VERSION,
    Flag,
    Header,
    Kind,
    Status,
    decode_header,
    encode_header,
)
from psedge.server.frames import check_sections, push_of, reply_of, wanted_of
from psedge.server.hosted_shard import HostedShard, not_primary
from psedge.server.replica_routes import INSTALL_LIMIT_BYTES, ReplicaRoutes
from psedge.server.reports import Reporting
from psedge.server.shard import Outcome
from psedge.server.waiters import within

__all__ = ["ASSIGNMENT_LIMIT_BYTES", "HostedShard", "ShardService"]

#: Longest time a worker is kept waiting at the gate before it has to ask again.
GATE_POLL_SECONDS = 20.0
#: Longest time a worker is kept waiting for the acknowledgement of what it depends on.
ACKNOWLEDGE_SECONDS = 20.0
#: Most bytes an assignment may bring.
ASSIGNMENT_LIMIT_BYTES = INSTALL_LIMIT_BYTES
#: Most bytes that the list of the live workers may have: some 200,000 of them.
MEMBERS_LIMIT_BYTES = 2**24
#: How long the supervisor waits for what it is told to be acknowledged.
MEMBERS_SECONDS = 3.0
STATE_SECONDS = 5.0


class ShardService(Reporting):
    """Serves all shards of one server process."""

    def routes(self) -> dict[str, Handler]:
        return {
            EXCHANGE: self.exchange,
            SHARD_ASSIGN: self.assign,
            SHARD_MEMBERS: self.members,
            SHARD_STATE: self.state,
            HELLO: self.hello,
            **ReplicaRoutes(self).routes(),
        }

    async def hello(self, incoming: Incoming) -> Reply:
        """For whoever mistakes this server for the first one, whose supervisor answers instead."""
        await read_message(incoming, Hello)
        return answer(HelloReply(__version__, WIRE_VERSION, supervisor=False, run=""))

    async def assign(self, incoming: Incoming) -> Reply:
        """Take over a copy: a ShardOrder with its arrays, fresh or from a checkpoint."""
        body = await read_body(incoming, ASSIGNMENT_LIMIT_BYTES)
        order, arrays = unpack(body, ShardOrder)
        await self.take(order, arrays)
        return answer(Acknowledged())

    async def members(self, incoming: Incoming) -> Reply:
        """Who is live, for the shards that this server is the primary of."""
        message = await read_message(incoming, Members, limit_bytes=MEMBERS_LIMIT_BYTES)
        for hosted in self.reigning():
            hosted.keep(hosted.replica.set_members(message))
            hosted.published.set_members(hosted.shard.members)
            hosted.reclaim()
            hosted.open_gate()
        return answer(await self.told(MEMBERS_SECONDS))

    async def state(self, incoming: Incoming) -> Reply:
        """Every shard that this server is the primary of, one bundle after the other, each behind
        its length."""
        await read_message(incoming, Acknowledged)
        parts: list[Buffer] = []
        depends = []
        for hosted in self.reigning():
            state, arrays = hosted.shard.state()
            bundle = pack(ShardOrder(hosted.shard.assignment, state), arrays)
            parts += [len(bundle).to_bytes(8, "little"), bundle]
            depends.append((hosted, hosted.replica.at.index))
        if await self.unacknowledged(depends, STATE_SECONDS):
            raise RefusedError(
                "not-ready", "pushes that are in the state are not acknowledged by the backups yet"
            )
        return Reply(parts)

    async def exchange(self, incoming: Incoming) -> Reply:
        """One worker's push and pull on one shard; see `docs/wire.md`."""
        if incoming.length < HEADER_BYTES:
            raise FrameError(f"a frame has at least {HEADER_BYTES} bytes, got {incoming.length}")
        raw = bytearray(HEADER_BYTES)
        await incoming.read_into(memoryview(raw))
        header = decode_header(raw)
        hosted = self._hosted.get(header.shard)
        if hosted is None:
            raise not_primary(header.shard)
        hosted.require_primary(header.term)
        hosted.shard.require(header.worker, header.incarnation)
        wanted = wanted_of(header)
        if header.kind is Kind.EXCHANGE:
            outcome, receive_seconds = await self.receive_push(incoming, header, hosted)
            depends_on = hosted.latest
        elif header.kind is Kind.PULL and incoming.length == HEADER_BYTES and not header.body_bytes:
            outcome = Outcome(Status.NONE, hosted.shard.clock(header.worker), 0, 0)
            receive_seconds, depends_on = 0.0, 0
        else:
            raise FrameError(f"a {header.kind.name} frame with {header.body_bytes} bytes of body")
        self._bytes_received += incoming.length
        passed = Flag.GATED not in header.flags
        if not passed and await self.wait_at_gate(hosted, header):
            # What let it through must not be lost either, or it would be ahead of a new primary.
            passed, depends_on = True, hosted.latest
        if depends_on:
            await self.acknowledged(hosted, header, depends_on)
        if passed and hosted.published.serves_many(wanted):
            # Pushes that have arrived in the meantime go in first: one encoding serves them.
            await asyncio.sleep(0)
        # Between being let through and getting its turn, this copy may have been replaced.
        hosted.require_primary(header.term)
        publication = None
        if passed:
            shard, published = hosted.shard, hosted.published
            publication = published.publication(wanted, shard.version, shard.published)
        reply, sections = reply_of(header, outcome, publication, hosted.shard, receive_seconds)
        return self.reply(reply, sections)

    def reply(self, header: Header, sections: Sequence[Buffer]) -> Reply:
        """An exchange's reply."""
        self._bytes_sent += HEADER_BYTES + header.body_bytes
        return Reply([encode_header(header), *sections])

    async def receive_push(
        self, incoming: Incoming, header: Header, hosted: HostedShard
    ) -> tuple[Outcome, float]:
        """What became of a push, and how many seconds its body took to arrive."""
        replica = hosted.replica
        coder = hosted.coders.of_frame(header.codec, header.codec_parameters, header.lossless)
        check_sections(header, incoming.length, coder, hosted.shard)
        size = incoming.length - HEADER_BYTES
        if replica.keeps_entries:
            # An entry keeps what it arrived in.
            body, frame = None, _frame_memory(header, size)
            view = frame[HEADER_BYTES:]
        else:
            body, frame = hosted.receive_buffer(size), None
            view = memoryview(body)[:size]
        began = self._clock.now()
        await incoming.read_into(view)
        seconds = self._clock.now() - began
        hosted.require_primary(header.term)
        model = hosted.published.model_of(header.worker, header.incarnation, header.position)
        push = push_of(header, view, coder, model)
        if frame is None and replica.keeps_entries:
            # Somebody has come to want entries while this one arrived.
            frame = memoryview(encode_header(header) + view)
        outcome, _, entries = replica.push(push, () if frame is None else (frame,))
        if body is None:
            hosted.reclaim()
        elif outcome.status is Status.APPLIED:
            hosted.lend(body)
        else:
            hosted.take_back(body)
        hosted.keep(entries)
        hosted.open_gate()
        return outcome, seconds

    async def wait_at_gate(self, hosted: HostedShard, header: Header) -> bool:
        """False: the poll's time is over, or a later request has taken this one's place."""
        worker = header.worker
        if hosted.shard.may_proceed(worker):
            return True
        passage: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        earlier = hosted.waiting.get(worker)
        if earlier is not None and not earlier.done():
            # The worker gave up on its earlier request and sent another: only this one counts.
            earlier.set_result(False)
        hosted.waiting[worker] = passage
        try:
            if not await asyncio.wait_for(passage, GATE_POLL_SECONDS):
                return False
        except asyncio.TimeoutError:
            return False
        finally:
            if hosted.waiting.get(worker) is passage:
                del hosted.waiting[worker]
        hosted.shard.require(worker, header.incarnation)
        return True

    async def acknowledged(self, hosted: HostedShard, header: Header, index: int) -> None:
        """Return once entry `index` is acknowledged, so that the worker may be told.

        Raises RefusedError not-primary if that does not happen here.
        """
        # Between being let through the gate and getting its turn, this copy may have been replaced:
        # whoever comes to wait for it now would not be told.
        hosted.require_primary(header.term)
        if hosted.replica.acknowledged(self._clock.now()) >= index:
            return
        try:
            await within(hosted.unacknowledged.wait(index), ACKNOWLEDGE_SECONDS)
        except asyncio.TimeoutError:
            raise RefusedError(
                "not-primary",
                f"the backups of shard {header.shard} have not acknowledged the push for "
                f"{ACKNOWLEDGE_SECONDS:.0f} s",
            ) from None
        hosted.shard.require(header.worker, header.incarnation)


def _frame_memory(header: Header, body_bytes: int) -> memoryview:
    """Memory for a whole frame, with its header in place."""
    # Unlike a bytearray, this memory is not filled with zeros first.
    frame = np.empty(HEADER_BYTES + body_bytes, np.uint8).data
    frame[:HEADER_BYTES] = encode_header(header)
    return frame
