"""The shell of a parameter server: requests in, shard calls, replies out.

Decisions live in `shard.py` and `published.py`. Here bodies are streamed into buffers that are
kept, and workers wait at the gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from psedge.compression.coder import Coders
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
from psedge.protocol.ports import Buffer, Clock, Handler, Incoming, Reply
from psedge.protocol.shards import Assignment, Members, ServerReport, ShardOrder
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
from psedge.server.aggregation import KEPT_PAYLOADS
from psedge.server.frames import check_sections, push_of, reply_of, wanted_of
from psedge.server.published import Published
from psedge.server.shard import Outcome, Shard

#: Longest time a worker is kept waiting at the gate before it has to ask again.
GATE_POLL_SECONDS = 20.0
#: Most bytes an assignment may bring: a shard of a billion parameters with two moments.
ASSIGNMENT_LIMIT_BYTES = 16 * 2**30
#: Most bytes that the list of the live workers may have: some 200,000 of them.
MEMBERS_LIMIT_BYTES = 2**24
#: Workers whose progress one heartbeat tells at most; the next ones tell the rest.
REPORTED_WORKERS = 2000
#: Receive buffers kept per shard; more are made under load and dropped after it.
KEPT_BUFFERS = 16


@dataclass(slots=True)
class HostedShard:
    """A shard with what serving it needs: records of what was sent, memory, waiters."""

    shard: Shard
    published: Published
    coders: Coders
    #: Used last in, first out, so that what is taken is still in the cache.
    receive_buffers: list[bytearray] = field(default_factory=list)
    #: Buffers with the payloads that a round of `bsp` keeps, the oldest first.
    lent_buffers: list[bytearray] = field(default_factory=list)
    #: The latest change of a worker's progress that the supervisor has heard of.
    told: int = 0
    #: Workers at the gate, each with the future that lets it through, or sends it away with False.
    waiting: dict[int, asyncio.Future[bool]] = field(default_factory=dict)

    def receive_buffer(self, size: int) -> bytearray:
        """Memory of at least `size` bytes."""
        buffer = self.receive_buffers.pop() if self.receive_buffers else bytearray()
        return buffer if len(buffer) >= size else bytearray(size)

    def lend(self, buffer: bytearray) -> None:
        """A buffer whose payload the shard has applied, or keeps for its round."""
        self.lent_buffers.append(buffer)
        self.reclaim()

    def reclaim(self) -> None:
        """Take back what the shard no longer needs."""
        while len(self.lent_buffers) > self.shard.kept_payloads:
            self.take_back(self.lent_buffers.pop(0))

    def take_back(self, buffer: bytearray) -> None:
        if len(self.receive_buffers) < KEPT_BUFFERS:
            self.receive_buffers.append(buffer)

    def check_invariants(self) -> None:
        """Raise AssertionError if a part contradicts itself or a queue has outgrown its bound."""
        self.shard.check_invariants()
        self.published.check_invariants()
        members = {member.worker for member in self.shard.members}
        assert len(self.receive_buffers) <= KEPT_BUFFERS, "too many receive buffers are kept"
        assert len(self.lent_buffers) <= KEPT_PAYLOADS, "a round holds too many buffers"
        for worker, passage in self.waiting.items():
            assert passage.done() or worker in members, f"worker {worker} waits and is no member"
            assert passage.done() or not self.shard.may_proceed(worker), (
                f"worker {worker} may go on and is kept waiting"
            )

    def open_gate(self) -> None:
        """Let through every waiting worker that may proceed; turn away who is no member now."""
        for worker, passage in list(self.waiting.items()):
            if passage.done():
                continue
            try:
                if self.shard.may_proceed(worker):
                    passage.set_result(True)
            except RefusedError as error:
                passage.set_exception(error)


class ShardService:
    """Serves all shards of one server process."""

    def __init__(self, clock: Clock, shard_type: type[Shard] = Shard) -> None:
        """shard_type: what shards are made of."""
        #: As the supervisor knows this server.
        self.server = 0
        self.incarnation = 0
        self._clock = clock
        self._shard_type = shard_type
        self._hosted: dict[int, HostedShard] = {}
        self._bytes_received = 0
        self._bytes_sent = 0

    def routes(self) -> dict[str, Handler]:
        return {
            EXCHANGE: self.exchange,
            SHARD_ASSIGN: self.assign,
            SHARD_MEMBERS: self.members,
            SHARD_STATE: self.state,
            HELLO: self.hello,
        }

    async def hello(self, incoming: Incoming) -> Reply:
        """For whoever mistakes this server for the first one, whose supervisor answers instead."""
        await read_message(incoming, Hello)
        return answer(HelloReply(__version__, WIRE_VERSION, supervisor=False, run=""))

    @property
    def hosted(self) -> Mapping[int, HostedShard]:
        """The shards of this server, by number."""
        return self._hosted

    def report(self) -> ServerReport:
        """Figures, and whose progress changed since the last `news` that the supervisor heard."""
        return self._report(None)[0]

    def news(self) -> tuple[ServerReport, Callable[[], None]]:
        """As `report`, of bounded length, and what to call once the supervisor has heard it."""
        report, changes = self._report(REPORTED_WORKERS)

        def heard() -> None:
            for hosted, change in changes:
                hosted.told = max(hosted.told, change)

        return report, heard

    def forgotten(self) -> None:
        """The supervisor has been started anew and knows nothing."""
        for hosted in self._hosted.values():
            hosted.told = 0

    def _report(self, most: int | None) -> tuple[ServerReport, list[tuple[HostedShard, int]]]:
        shards, changes = [], []
        for number, hosted in self._hosted.items():
            if number == 0:
                report, change = hosted.shard.news(hosted.told, most)
                changes.append((hosted, change))
            else:
                report = hosted.shard.summary()
            shards.append(report)
        whole = ServerReport(
            server=self.server,
            incarnation=self.incarnation,
            shards=tuple(shards),
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
        )
        return whole, changes

    async def assign(self, incoming: Incoming) -> Reply:
        """Take over a shard: an Assignment with its arrays, fresh or from a checkpoint."""
        body = await read_body(incoming, ASSIGNMENT_LIMIT_BYTES)
        order, arrays = unpack(body, ShardOrder)
        # The supervisor adds what earlier runs of the same shards have moved.
        self._bytes_received = self._bytes_sent = 0
        assignment = order.assignment
        shard = _shard_of(order, arrays, self._shard_type)
        published = Published(
            shard.piece,
            assignment.coding,
            remember=assignment.optimizer.delay_compensation > 0,
        )
        self._hosted[assignment.shard] = HostedShard(shard, published, Coders(shard.piece))
        return answer(Acknowledged())

    async def members(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Members, limit_bytes=MEMBERS_LIMIT_BYTES)
        for hosted in self._hosted.values():
            hosted.shard.set_members(message)
            hosted.published.set_members(hosted.shard.members)
            hosted.reclaim()
            hosted.open_gate()
        return answer(self.report())

    async def state(self, incoming: Incoming) -> Reply:
        """Every shard of this server, one bundle after the other, each behind its length."""
        await read_message(incoming, Acknowledged)
        parts: list[Buffer] = []
        for hosted in self._hosted.values():
            state, arrays = hosted.shard.state()
            bundle = pack(ShardOrder(hosted.shard.assignment, state), arrays)
            parts += [len(bundle).to_bytes(8, "little"), bundle]
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
            raise RefusedError("not-ready", f"shard {header.shard} is not on this server")
        hosted.shard.require(header.worker, header.incarnation)
        wanted = wanted_of(header)
        if header.kind is Kind.EXCHANGE:
            outcome, receive_seconds = await self.receive_push(incoming, header, hosted)
        elif header.kind is Kind.PULL and incoming.length == HEADER_BYTES and not header.body_bytes:
            outcome = Outcome(Status.NONE, hosted.shard.clock(header.worker), 0, 0)
            receive_seconds = 0.0
        else:
            raise FrameError(f"a {header.kind.name} frame with {header.body_bytes} bytes of body")
        self._bytes_received += incoming.length
        publication = None
        if Flag.GATED not in header.flags or await self.wait_at_gate(hosted, header):
            shard, published = hosted.shard, hosted.published
            if published.serves_many(wanted):
                # Pushes that have arrived in the meantime go in first: one encoding serves them.
                await asyncio.sleep(0)
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
        shard = hosted.shard
        coder = hosted.coders.of_frame(header.codec, header.codec_parameters, header.lossless)
        check_sections(header, incoming.length, coder, shard)
        size = incoming.length - HEADER_BYTES
        body = hosted.receive_buffer(size)
        view = memoryview(body)[:size]
        began = self._clock.now()
        await incoming.read_into(view)
        seconds = self._clock.now() - began
        model = hosted.published.model_of(header.worker, header.incarnation, header.position)
        outcome = shard.push(push_of(header, view, coder, model))
        if outcome.status is Status.APPLIED:
            hosted.lend(body)
        else:
            hosted.take_back(body)
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


def _shard_of(order: ShardOrder, arrays: dict[str, np.ndarray], shard_type: type[Shard]) -> Shard:
    """Raises FrameError if an array is missing or of the wrong size."""
    assignment: Assignment = order.assignment
    try:
        if order.state is not None:
            return shard_type.restored(assignment, order.state, arrays)
        counters = arrays["counters"].tobytes()
        return shard_type(assignment, arrays["parameters"], arrays["buffers"], counters)
    except (KeyError, ValueError) as error:
        raise FrameError(f"assignment of shard {assignment.shard}: {error}") from error
