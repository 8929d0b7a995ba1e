"""The serving half of the aiohttp transport: requests in, handlers called, replies out.

It sits on aiohttp's low-level server, without routing or middleware. A request's body goes chunk
by chunk into the buffer that the handler gives, and a reply's parts go to the socket one after the
other; nothing is joined, since at 2 MB a copy costs as much as the update it carries.
"""

from __future__ import annotations

import asyncio
import errno
import http
import logging
import socket
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from psedge.protocol.checksum import CHECKSUM_HEADER, BodyCheck, checksum_of
from psedge.protocol.errors import AddressError, FrameError, RefusedError
from psedge.protocol.ports import Buffer, Handler, Reply
from psedge.protocol.refusals import over_body_limit, refusal_of, reply_or_refusal

#: Bounds on what comes before a body: the request line, each header, all headers together.
LINE_LIMIT_BYTES = 4096
HEADERS_LIMIT_BYTES = 8192
#: Received bytes that may wait in memory, per connection, for a handler to read them.
RECEIVE_BUFFER_BYTES = 2**20
#: A peer that neither sends its body nor takes its reply for so long loses its connection.
STALL_SECONDS = 30.0
#: Idle connections stay open longer than a client keeps them, so the client closes first.
IDLE_SECONDS = 90.0

_BACKLOG = 512
_SCRATCH_BYTES = 2**16
_BEARER = "Bearer "
#: aiohttp writes a traceback for every request that is no HTTP, such as a port scanner's; their
#: sender is told, and nobody here could do anything about them.
_strangers = logging.Logger(f"{__name__}.strangers")
_strangers.addHandler(logging.NullHandler())


class AiohttpListener:
    """One bound address and the requests in flight there."""

    def __init__(self, handler: Handler, body_limit_bytes: int) -> None:
        self._handler = handler
        self._body_limit_bytes = body_limit_bytes
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._protocols = web.Server(
            self._respond,
            handler_cancellation=True,
            access_log=None,
            logger=_strangers,
            auto_decompress=False,
            max_line_size=LINE_LIMIT_BYTES,
            max_field_size=LINE_LIMIT_BYTES,
            read_bufsize=RECEIVE_BUFFER_BYTES,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._host = ""
        self._port = 0

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        return self._port

    async def open(self, host: str, port: int) -> None:
        """Bind and serve. Raises AddressError when that is not possible."""
        loop = asyncio.get_running_loop()
        try:
            where = await loop.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # A name such as localhost has several addresses, which port 0 would give several
            # ports: one is enough, and IPv4 is what people write into a join line.
            where.sort(key=lambda entry: entry[0] != socket.AF_INET)
            self._server = await loop.create_server(
                self._protocols, str(where[0][4][0]), port, backlog=_BACKLOG
            )
        except OSError as error:
            raise AddressError(_cannot_listen(host, port, error)) from error
        self._host, self._port = self._server.sockets[0].getsockname()[:2]

    async def close(self) -> None:
        """Stop accepting, cancel the handlers in flight, close every connection."""
        if self._server is not None:
            self._server.close()
        tasks = [task for task in self._in_flight if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._protocols.shutdown(timeout=1.0)

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        try:
            return _Response(request, await self._reply_to(request))
        finally:
            self._in_flight.discard(task)

    async def _reply_to(self, request: web.BaseRequest) -> Reply:
        try:
            incoming = self._admitted(request)
        except RefusedError as error:
            return refusal_of(error, request.raw_path)
        return await reply_or_refusal(self._handler, incoming)

    def _admitted(self, request: web.BaseRequest) -> AiohttpIncoming:
        """The request as handlers see it, once its bounds are known to be kept."""
        if request.method not in ("POST", "GET"):
            raise RefusedError("bad-request", f"psedge takes GET and POST, not {request.method}")
        headers = request.raw_headers
        if sum(len(name) + len(value) for name, value in headers) > HEADERS_LIMIT_BYTES:
            raise RefusedError("too-large", f"headers over {HEADERS_LIMIT_BYTES} bytes")
        length = request.content_length
        if length is None:
            if request.method == "POST" or request.body_exists:
                raise RefusedError("bad-request", "a request needs a Content-Length header")
            length = 0
        if length > self._body_limit_bytes:
            raise over_body_limit(length, self._body_limit_bytes)
        return AiohttpIncoming(request, length)


class AiohttpIncoming:
    """One request of aiohttp as an Incoming."""

    __slots__ = ("_check", "_content", "_request", "_rest", "_taken", "_unread", "length", "path")

    def __init__(self, request: web.BaseRequest, length: int) -> None:
        self._request = request
        self._content = request.content
        self._rest = memoryview(b"")
        self._unread = length
        self._check = BodyCheck(request.headers.get(CHECKSUM_HEADER, ""), length)
        #: Bytes taken out of the stream.
        self._taken = 0
        self.length = length
        self.path = request.raw_path.partition("?")[0]

    @property
    def peer(self) -> str:
        return self._request.remote or ""

    @property
    def token(self) -> str:
        presented = self._request.headers.get("Authorization", "")
        return presented[len(_BEARER) :] if presented.startswith(_BEARER) else ""

    async def read_into(self, buffer: memoryview) -> None:
        target = buffer.cast("B")
        wanted = len(target)
        if wanted > self._unread:
            raise FrameError(
                f"the body of {self.length} bytes is {wanted - self._unread} bytes too short"
            )
        filled = 0
        while True:
            taken = min(len(self._rest), wanted - filled)
            target[filled : filled + taken] = self._rest[:taken]
            self._check.add(self._rest[:taken])
            self._rest = self._rest[taken:]
            filled += taken
            if filled == wanted:
                break
            self._rest = memoryview(await self._next_chunk())
        self._unread -= wanted

    async def check_rest(self) -> None:
        scratch = memoryview(bytearray(min(self._unread, _SCRATCH_BYTES)))
        while self._check.pending:
            await self.read_into(scratch[: self._unread])

    async def _next_chunk(self) -> bytes:
        """Some more of the body, as it arrived."""
        # What is here already needs no wait, and no timer for one.
        here = self._content.total_bytes > self._taken
        try:
            # Unlike the other ways to read, this one never joins chunks.
            chunk, _ = await (self._content.readchunk() if here else self._awaited_chunk())
        except (web.RequestPayloadError, ConnectionError) as error:
            raise FrameError(f"the body ended early: {error}") from error
        if not chunk:
            raise FrameError("the body ended early")
        self._taken += len(chunk)
        return chunk

    async def _awaited_chunk(self) -> tuple[bytes, bool]:
        """The next chunk, unless the caller falls silent for too long."""
        loop = asyncio.get_running_loop()
        stalled = FrameError(f"no byte of the body arrived for {STALL_SECONDS:.0f} s")
        timer = loop.call_later(STALL_SECONDS, self._content.set_exception, stalled)
        try:
            return await self._content.readchunk()
        finally:
            timer.cancel()


class _Response(web.StreamResponse):
    """Writes a Reply by itself: a head of few bytes, then the parts as they are."""

    def __init__(self, request: web.BaseRequest, reply: Reply) -> None:
        super().__init__(status=reply.status)
        self._caller = request
        self._parts = reply.parts

    @property
    def keep_alive(self) -> bool:
        return self._caller.keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        transport = self._caller.transport
        if transport is None:
            raise ConnectionResetError("the caller has gone")
        transport.writelines([_head(self.status, self._parts, self.keep_alive), *self._parts])
        await _drained(self._caller, transport)


async def _drained(request: web.BaseRequest, transport: asyncio.WriteTransport) -> None:
    """Return when the reply has left, or nearly; abort the connection of a peer that stalls."""
    unsent = transport.get_write_buffer_size()
    if not unsent:
        return
    loop = asyncio.get_running_loop()

    timer: asyncio.TimerHandle

    def check(before: int) -> None:
        nonlocal timer
        now = transport.get_write_buffer_size()
        if now == before:
            transport.abort()
        else:
            timer = loop.call_later(STALL_SECONDS, check, now)

    timer = loop.call_later(STALL_SECONDS, check, unsent)
    try:
        await request.writer.drain()
    finally:
        timer.cancel()


def _head(status: int, parts: Sequence[Buffer], keep_alive: bool) -> bytes:
    length = sum(memoryview(part).nbytes for part in parts)
    return (
        b"HTTP/1.1 %d %b\r\nContent-Length: %d\r\nContent-Type: %b\r\n%b: %b\r\n"
        b"Connection: %b\r\n\r\n"
    ) % (
        status,
        http.HTTPStatus(status).phrase.encode("ascii"),
        length,
        b"application/octet-stream" if status == 200 else b"application/json",
        CHECKSUM_HEADER.encode("ascii"),
        checksum_of(parts).encode("ascii"),
        b"keep-alive" if keep_alive else b"close",
    )


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    where = f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: this machine knows no host {host!r}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {where}: another program uses that port; "
            "stop it, or choose another port with --port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {where}: {host} is not an address of this machine"
    if error.errno == errno.EACCES:
        return f"cannot listen on {where}: ports below 1024 need root; choose another with --port"
    return f"cannot listen on {where}: {error.strerror or error}"
