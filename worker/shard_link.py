"""The connection to one shard: a frame out, a checked frame back, retried until it is answered.

A shard is where its primary is, and that changes while training goes on (`directory.py`). A frame
that is sent again is the same push under the same sequence; only the term, and what the worker says
of the primary's record of it, are of the moment.

Replies are streamed into memory that is kept, so a received reply must be taken over before the
next request is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from psedge.compression.codec import Float32Array
from psedge.compression.coder import Coder, Coders
from psedge.compression.coding_work import CodingWork
from psedge.compression.identity import Identity
from psedge.compression.link_meter import LinkMeter
from psedge.compression.lossless import Deflate
from psedge.compression.native import kernels
from psedge.protocol.errors import FrameError, RefusedError, UnreachableError
from psedge.protocol.messages import EXCHANGE, ShardAddress
from psedge.protocol.ports import Buffer, Clock, Transport
from psedge.protocol.wire import (
    HEADER_BYTES,
    NO_POSITION,
    Content,
    Header,
    Kind,
    decode_header,
    encode_header,
)
from psedge.worker.directory import ELSEWHERE, Directory
from psedge.worker.endings import consequence_of
from psedge.worker.outage import Notify

#: What a request says of the buffers it has before it received any; never a real version.
NO_VERSION = 2**32 - 1
#: A server answers within its gate's poll limit of 20 s; the rest is for slow links.
REPLY_TIMEOUT_SECONDS = 40.0
SLOWEST_LINK_BYTES_PER_SECOND = 50_000
#: Most differences in one reply; together they are no longer than the parameters as float32.
DELTAS_LIMIT = 64
#: Before each difference stands its length.
LENGTH_BYTES = 4
#: What is looked at in a reply's header, in this order.
_PARTS = ("kind", "shard", "length", "payload", "differences", "buffers", "counters")


class ShardLink:
    """Talks to one shard. Counts every byte of frames that were answered and of the answers.

    work: counts what is encoded and decoded here.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        directory: Directory,
        shard: ShardAddress,
        counters_bytes: int,
        notify: Notify,
        work: CodingWork,
    ) -> None:
        self.shard = shard
        self.work = work
        self.piece = shard.slice
        self.coders = Coders(self.piece)
        self.parameters = slice(shard.start, shard.stop)
        self.buffers = slice(shard.buffers_start, shard.buffers_stop)
        self.counters_bytes = counters_bytes
        self.bytes_sent = 0
        self.bytes_received = 0
        self.up, self.down = LinkMeter(), LinkMeter()
        #: Versions of what was taken over last, and the reply that was not taken over yet.
        self.version = 0
        self.buffers_version = NO_VERSION
        self.reply: Header | None = None
        self._position = NO_POSITION
        self._differs = False
        self._transport = transport
        self._clock = clock
        self._directory = directory
        #: Of the primary whose record of this worker `position` and `buffers_version` are about.
        self._term = directory.address(shard.shard)[1]
        self._notify = notify
        self._body = memoryview(b"")
        self._body_began = 0.0
        longest = Coder(Identity(), Deflate(), self.piece).payload_limit
        self._largest = HEADER_BYTES + self.buffers_bytes + counters_bytes
        self._largest += longest + DELTAS_LIMIT * LENGTH_BYTES
        self._memory = bytearray(self._largest)

    @property
    def buffers_bytes(self) -> int:
        return 4 * (self.shard.buffers_stop - self.shard.buffers_start)

    @property
    def known_buffers_version(self) -> int:
        """Of the newest buffers that were received, taken over or not."""
        return self.buffers_version if self.reply is None else self.reply.buffers_version

    @property
    def known_position(self) -> int:
        """In the chain of pulls, of what was received last; NO_POSITION asks for all of it."""
        if self._differs:
            return NO_POSITION
        return self._position if self.reply is None else self.reply.position

    @property
    def position(self) -> int:
        """In the chain of pulls, of what was taken over last."""
        return self._position

    async def request(self, header: Header, parts: Sequence[Buffer]) -> Header:
        """Send a frame, as often as it takes and to whoever is the primary, and keep the reply.

        header: term, position and buffers version are filled in here.
        Raises Rejoin, StopTraining, RefusedError or FrameError as the shard's answer demands.
        """
        shard = self.shard.shard
        pushed = header.body_bytes
        try:
            body = await self._answer(header, [part for part in parts if len(part)])
        except BaseException:
            self._directory.given_up(shard)
            raise
        seconds = self._clock.now() - self._body_began
        self._directory.answered(shard)
        self.bytes_sent += HEADER_BYTES + pushed
        self.bytes_received += len(body)
        reply = self._checked(body)
        if pushed:
            self.up.add(pushed, 1e-6 * reply.receive_microseconds)
        pulled = len(body) - HEADER_BYTES
        if pulled:
            self.down.add(pulled, seconds)
        # Without content the server's poll ended before the gate opened: nothing to take over.
        self.reply = reply if reply.content != Content.NONE else None
        return reply

    async def _answer(self, header: Header, parts: Sequence[Buffer]) -> memoryview:
        """What the primary replies, whoever that is by then."""
        shard, directory = self.shard.shard, self._directory
        size = HEADER_BYTES + header.body_bytes
        timeout = REPLY_TIMEOUT_SECONDS + (size + self._largest) / SLOWEST_LINK_BYTES_PER_SECOND
        while True:
            place = address, term = directory.address(shard)
            self._meet(term)
            call = self._transport.call(
                address.url,
                EXCHANGE,
                [self._encoded(header), *parts],
                allocate=self._allocate,
                timeout_seconds=timeout,
                token=address.token,
            )
            try:
                body = await directory.unless_moved(shard, call)
            except UnreachableError as error:
                await directory.lost(shard, place, error)
            except RefusedError as error:
                if error.code not in ELSEWHERE:
                    raise consequence_of(error) from error
                await directory.lost(shard, place, error)
            else:
                if body is not None:
                    return body

    def _meet(self, term: int) -> None:
        """A new primary has no record of what this worker has: it sends the whole."""
        if term != self._term:
            self._term, self._position, self.buffers_version = term, NO_POSITION, NO_VERSION

    def _encoded(self, header: Header) -> bytes:
        return encode_header(
            msgspec.structs.replace(
                header,
                term=self._term,
                position=self.known_position,
                buffers_version=self.known_buffers_version,
            )
        )

    def take_parameters(self, out: Float32Array) -> None:
        """Bring the shard's part of the parameters to where the kept reply leads.

        out: exactly as the reply before left it. Raises FrameError for a damaged payload.
        """
        assert self.reply is not None
        reply = self.reply
        coder = self.coders.of_frame(reply.codec, reply.codec_parameters, reply.lossless)
        payload = self._body[HEADER_BYTES : HEADER_BYTES + reply.payload_bytes]
        payloads = 1 if reply.content == Content.WHOLE else reply.deltas
        self.work.decoded[coder.coding] += payloads * coder.coded
        if reply.content == Content.WHOLE:
            coder.open(payload).decode(out)
            self._differs = False
        else:
            for delta in _deltas(payload, reply.deltas):
                coder.open(delta).decode_delta(out)
        self._position = reply.position
        if reply.digest and not self._differs and kernels.digest(out) != reply.digest:
            self._differs = True
            self._notify(
                f"the parameters of shard {self.shard.shard} are not what its server has on "
                "record for this worker; asking for all of them"
            )

    def buffers_and_counters(self) -> tuple[memoryview, memoryview]:
        """Those of the kept reply, empty where not sent."""
        assert self.reply is not None
        first = HEADER_BYTES + self.reply.payload_bytes
        second = first + self.reply.buffers_bytes
        return self._body[first:second], self._body[second:]

    def taken(self) -> None:
        """The kept reply has been taken over, all of it."""
        assert self.reply is not None
        self.version = self.reply.version
        self.buffers_version = self.reply.buffers_version
        self.reply = None

    def _allocate(self, length: int) -> memoryview:
        if length > self._largest:
            raise FrameError(
                f"shard {self.shard.shard} replied {length} bytes, more than the "
                f"{self._largest} that its parameters and buffers take"
            )
        self._body_began = self._clock.now()
        return memoryview(self._memory)[:length]

    def _checked(self, body: memoryview) -> Header:
        header = decode_header(body[:HEADER_BYTES])
        expected = (
            header.kind is Kind.REPLY,
            header.shard == self.shard.shard,
            len(body) == HEADER_BYTES + header.body_bytes,
            header.content is not Content.NONE or header.payload_bytes == 0,
            header.deltas <= DELTAS_LIMIT,
            header.buffers_bytes in (0, self.buffers_bytes),
            header.counters_bytes in (0, self.counters_bytes),
        )
        if not all(expected):
            wrong = [what for what, right in zip(_PARTS, expected, strict=True) if not right]
            raise FrameError(f"reply of shard {self.shard.shard}: wrong {', '.join(wrong)}")
        self._body = body
        return header


def _deltas(payload: memoryview, count: int) -> list[memoryview]:
    """The differences in a payload, each behind its length."""
    found = []
    at = 0
    for _ in range(count):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(payload[at:start], "little")
        if at > len(payload):
            raise FrameError("a reply's differences are longer than its payload")
        found.append(payload[start:at])
    if at != len(payload):
        raise FrameError(f"{len(payload) - at} bytes after a reply's last difference")
    return found
