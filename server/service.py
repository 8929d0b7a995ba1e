"""The shell of a parameter server: requests in, shard calls, replies out.

Decisions live in `shard.py`. Here bodies are streamed into buffers that are kept, replies are
encoded once for all workers that are due the same version, and workers wait at the gate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from psedge.compression.codec import Codec, Float32Array
from psedge.compression.table import CODECS, codec_of_frame
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
from psedge.server.shard import Outcome, Push, Shard

#: Longest time a worker is kept waiting at the gate before it has to ask again.
GATE_POLL_SECONDS = 20.0
#: Most bytes an assignment may bring: a shard of a billion parameters with two moments.
ASSIGNMENT_LIMIT_BYTES = 16 * 2**30
#: Receive buffers kept per shard; more are made under load and dropped after it.
KEPT_BUFFERS = 16

_CODECS_BY_ID = {codec.id: codec for codec in CODECS}


@dataclass(slots=True)
class HostedShard:
    """A shard with the memory and the waiters that serving it needs."""

    shard: Shard
    gradient: Float32Array
    #: Used last in, first out, so that what is taken is still in the cache.
    receive_buffers: list[bytearray] = field(default_factory=list)
    #: Encoded parameters of `encoded_version`, by codec id.
    encoded: dict[int, Buffer] = field(default_factory=dict)
    encoded_version: int = -1
    #: Workers at the gate, each with the future that lets it through, or sends it away with False.
    waiting: dict[int, asyncio.Future[bool]] = field(default_factory=dict)

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

    def encode_parameters(self, codec: Codec) -> Buffer:
        """The parameters as `codec` sends them; made once for each version."""
        shard = self.shard
        if self.encoded_version != shard.version:
            self.encoded.clear()
            self.encoded_version = shard.version
        payload = self.encoded.get(codec.id)
        if payload is None:
            payload = codec.encode(shard.published(), None)
            if np.may_share_memory(np.frombuffer(payload, np.uint8), shard.parameters):
                # Later pushes change the parameters in place while this reply is being sent.
                payload = bytes(payload)
            self.encoded[codec.id] = payload
        return payload


class ShardService:
    """Serves all shards of one server process."""

    def __init__(self) -> None:
        #: As the supervisor knows this server.
        self.server = 0
        self.incarnation = 0
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

    def report(self) -> ServerReport:
        return ServerReport(
            server=self.server,
            incarnation=self.incarnation,
            shards=tuple(hosted.shard.report() for hosted in self._hosted.values()),
            bytes_received=self._bytes_received,
            bytes_sent=self._bytes_sent,
        )

    async def assign(self, incoming: Incoming) -> Reply:
        """Take over a shard: an Assignment with its arrays, fresh or from a checkpoint."""
        body = await read_body(incoming, ASSIGNMENT_LIMIT_BYTES)
        order, arrays = unpack(body, ShardOrder)
        shard = _shard_of(order, arrays)
        self._hosted[order.assignment.shard] = HostedShard(shard, np.empty_like(shard.parameters))
        return answer(Acknowledged())

    async def members(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Members)
        for hosted in self._hosted.values():
            hosted.shard.set_members(message)
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
        reply_codec = _reply_codec(header)
        outcome = Outcome(Status.NONE, hosted.shard.clock(header.worker), 0, 0)
        if header.kind == Kind.EXCHANGE:
            outcome = await self._push(incoming, header, hosted)
        elif header.kind != Kind.PULL or header.body_bytes or incoming.length != HEADER_BYTES:
            raise FrameError(f"a {header.kind.name} frame with {header.body_bytes} bytes of body")
        self._bytes_received += incoming.length
        if header.flags & Flag.GATED:
            passed = await self._wait_at_gate(hosted, header)
        else:
            passed = True
        if passed:
            # Pushes that have arrived in the meantime go in first: one encoding serves them all.
            await asyncio.sleep(0)
        reply = self._reply(header, hosted, outcome, reply_codec if passed else None)
        self._bytes_sent += sum(len(part) for part in reply.parts)
        return reply

    async def _push(self, incoming: Incoming, header: Header, hosted: HostedShard) -> Outcome:
        codec = codec_of_frame(header.codec, header.codec_parameters)
        shard = hosted.shard
        _check_sections(header, incoming.length, codec, shard)
        body = hosted.receive_buffers.pop() if hosted.receive_buffers else bytearray()
        if len(body) < header.body_bytes:
            body = bytearray(header.body_bytes)
        view = memoryview(body)[: header.body_bytes]
        await incoming.read_into(view)
        # From here to the shard's answer nothing awaits, so workers can share one scratch array.
        codec.decode(view[: header.payload_bytes], hosted.gradient)
        push = _push_of(header, view)
        shard.require(header.worker, header.incarnation)
        outcome = shard.push(push, hosted.gradient)
        view.release()
        if len(hosted.receive_buffers) < KEPT_BUFFERS:
            hosted.receive_buffers.append(body)
        hosted.open_gate()
        return outcome

    async def _wait_at_gate(self, hosted: HostedShard, header: Header) -> bool:
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

    def _reply(
        self, header: Header, hosted: HostedShard, outcome: Outcome, codec: Codec | None
    ) -> Reply:
        """codec: None leaves the parameters out, which tells the worker to ask again."""
        shard = hosted.shard
        payload: Buffer = b""
        buffers: Buffer = b""
        counters: Buffer = b""
        if codec is not None:
            payload = hosted.encode_parameters(codec)
            if header.buffers_version != shard.buffers_version:
                buffers, counters = shard.buffers.tobytes(), shard.counters
        reply = Header(
            kind=Kind.REPLY,
            shard=header.shard,
            worker=header.worker,
            incarnation=header.incarnation,
            sequence=header.sequence,
            version=shard.version,
            clock=outcome.clock,
            codec=codec.id if codec else 0,
            codec_parameters=codec.parameters() if codec else bytes(8),
            status=outcome.status,
            staleness=outcome.staleness,
            lag=outcome.lag,
            buffers_version=shard.buffers_version,
            payload_bytes=len(payload),
            buffers_bytes=len(buffers),
            counters_bytes=len(counters),
        )
        return Reply([encode_header(reply), payload, buffers, counters])


def _shard_of(order: ShardOrder, arrays: dict[str, np.ndarray]) -> Shard:
    """Raises FrameError if an array is missing or of the wrong size."""
    assignment: Assignment = order.assignment
    try:
        if order.state is not None:
            return Shard.restored(assignment, order.state, arrays)
        counters = arrays["counters"].tobytes()
        return Shard(assignment, arrays["parameters"], arrays["buffers"], counters)
    except (KeyError, ValueError) as error:
        raise FrameError(f"assignment of shard {assignment.shard}: {error}") from error


def _reply_codec(header: Header) -> Codec:
    kind = _CODECS_BY_ID.get(header.reply_codec)
    if kind is None:
        raise FrameError(f"unknown reply codec id {header.reply_codec}")
    return kind()


def _check_sections(header: Header, length: int, codec: Codec, shard: Shard) -> None:
    """Sizes are known before a byte of the body is read, so no frame can make us allocate more."""
    if length != HEADER_BYTES + header.body_bytes:
        raise FrameError(f"the frame says {header.body_bytes} bytes of body, the request differs")
    expected = codec.payload_bytes(len(shard.parameters))
    if header.payload_bytes != expected:
        raise FrameError(
            f"shard {header.shard} has {len(shard.parameters)} parameters: a {codec.name} payload "
            f"is {expected} bytes, got {header.payload_bytes}"
        )
    if header.buffers_bytes not in (0, shard.buffers.nbytes):
        raise FrameError(
            f"buffers are {shard.buffers.nbytes} bytes or none, got {header.buffers_bytes}"
        )
    if header.counters_bytes not in (0, len(shard.counters)):
        raise FrameError(
            f"counters are {len(shard.counters)} bytes or none, got {header.counters_bytes}"
        )


def _push_of(header: Header, body: memoryview) -> Push:
    buffers_at = header.payload_bytes
    counters_at = buffers_at + header.buffers_bytes
    buffers = body[buffers_at:counters_at]
    counters = body[counters_at:]
    return Push(
        worker=header.worker,
        incarnation=header.incarnation,
        sequence=header.sequence,
        version=header.version,
        samples=header.samples,
        # Copied: the body's memory is used again for the next push.
        buffers=np.frombuffer(bytes(buffers), "<f4") if header.buffers_bytes else None,
        counters=bytes(counters) if header.counters_bytes else None,
    )
