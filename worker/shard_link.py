"""The connection to one shard: a frame out, a checked frame back, retried until it is answered.

Replies are streamed into memory that is kept, so a received reply must be taken over before the
next request is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from psedge.compression.codec import Codec
from psedge.compression.table import codec_of_frame
from psedge.protocol.address import Address
from psedge.protocol.errors import FrameError, PsedgeError, RefusedError, UnreachableError
from psedge.protocol.messages import EXCHANGE, ShardAddress
from psedge.protocol.ports import Buffer, Transport
from psedge.protocol.wire import HEADER_BYTES, Header, Kind, decode_header, encode_header
from psedge.worker.outage import Outage

#: What a request says of the buffers it has before it received any; never a real version.
NO_VERSION = 2**32 - 1
#: A server answers within its gate's poll limit of 20 s; the rest is for slow links.
REPLY_TIMEOUT_SECONDS = 40.0
SLOWEST_LINK_BYTES_PER_SECOND = 50_000


class Rejoin(PsedgeError):  # noqa: N818
    """The servers do not know this worker (any more): it has to join again."""


class StopTraining(PsedgeError):  # noqa: N818
    """The run ends now; the message says why."""


class ShardLink:
    """Talks to one shard. Counts every byte of frames that went out and came in."""

    def __init__(
        self,
        transport: Transport,
        address: Address,
        shard: ShardAddress,
        counters_bytes: int,
        pull_codec: Codec,
        outage: Outage,
    ) -> None:
        self.shard = shard
        self.parameters = slice(shard.start, shard.stop)
        self.buffers = slice(shard.buffers_start, shard.buffers_stop)
        self.counters_bytes = counters_bytes
        self.bytes_sent = 0
        self.bytes_received = 0
        #: Versions of what was taken over last, and the reply that was not taken over yet.
        self.version = 0
        self.buffers_version = NO_VERSION
        self.reply: Header | None = None
        self._transport = transport
        self._address = address
        self._outage = outage
        self._body = memoryview(b"")
        self._largest = HEADER_BYTES + self.buffers_bytes + counters_bytes
        self._largest += pull_codec.payload_bytes(self.elements)
        self._memory = bytearray(self._largest)

    @property
    def elements(self) -> int:
        return self.shard.stop - self.shard.start

    @property
    def buffers_bytes(self) -> int:
        return 4 * (self.shard.buffers_stop - self.shard.buffers_start)

    @property
    def known_buffers_version(self) -> int:
        """Of the newest buffers that were received, taken over or not."""
        return self.buffers_version if self.reply is None else self.reply.buffers_version

    async def request(self, header: Header, parts: Sequence[Buffer]) -> Header:
        """Send a frame, as often as it takes, and keep the reply.

        Raises Rejoin, StopTraining, RefusedError or FrameError as the shard's answer demands.
        """
        frame = (encode_header(header), *(part for part in parts if len(part)))
        size = HEADER_BYTES + header.body_bytes
        timeout = REPLY_TIMEOUT_SECONDS + (size + self._largest) / SLOWEST_LINK_BYTES_PER_SECOND
        while True:
            try:
                body = await self._transport.call(
                    self._address.url,
                    EXCHANGE,
                    frame,
                    allocate=self._allocate,
                    timeout_seconds=timeout,
                    token=self._address.token,
                )
                break
            except UnreachableError:
                await self._outage.pause()
            except RefusedError as error:
                if error.code != "not-ready":
                    raise _consequence(error) from error
                await self._outage.pause()
        self._outage.answered()
        self.bytes_sent += size
        self.bytes_received += len(body)
        header = self._checked(body)
        # Without a payload the server's poll ended before the gate opened: nothing to take over.
        self.reply = header if header.payload_bytes or not self.elements else None
        return header

    def sections(self) -> tuple[Codec, memoryview, memoryview, memoryview]:
        """The kept reply's codec, payload, buffers and counters; empty where not sent."""
        assert self.reply is not None
        header = self.reply
        first = HEADER_BYTES + header.payload_bytes
        second = first + header.buffers_bytes
        codec = codec_of_frame(header.codec, header.codec_parameters)
        body = self._body
        return codec, body[HEADER_BYTES:first], body[first:second], body[second:]

    def _allocate(self, length: int) -> memoryview:
        if length > self._largest:
            raise FrameError(
                f"shard {self.shard.shard} replied {length} bytes, more than the "
                f"{self._largest} that its parameters and buffers take"
            )
        return memoryview(self._memory)[:length]

    def _checked(self, body: memoryview) -> Header:
        header = decode_header(body[:HEADER_BYTES])
        codec = codec_of_frame(header.codec, header.codec_parameters)
        expected = {
            "kind": header.kind == Kind.REPLY,
            "shard": header.shard == self.shard.shard,
            "length": len(body) == HEADER_BYTES + header.body_bytes,
            "payload": header.payload_bytes in (0, codec.payload_bytes(self.elements)),
            "buffers": header.buffers_bytes in (0, self.buffers_bytes),
            "counters": header.counters_bytes in (0, self.counters_bytes),
        }
        wrong = [what for what, right in expected.items() if not right]
        if wrong:
            raise FrameError(f"reply of shard {self.shard.shard}: wrong {', '.join(wrong)}")
        self._body = body
        return header


def _consequence(error: RefusedError) -> PsedgeError:
    if error.code == "unknown-worker":
        return Rejoin(str(error))
    if error.code == "stopped":
        return StopTraining(str(error))
    return error
