"""One request with its reply over a connection: HTTP as both ends of it see it."""

from __future__ import annotations

import asyncio
import http
import math
from typing import TYPE_CHECKING

from psedge.protocol.aiohttp_server import STALL_SECONDS
from psedge.protocol.checksum import BodyCheck
from psedge.protocol.errors import DamagedError, FrameError, UnreachableError
from psedge.protocol.ports import Allocate, Reply
from psedge.protocol.refusals import (
    REFUSAL_LIMIT_BYTES,
    error_of_refusal,
    over_body_limit,
    refusal_of,
    reply_or_refusal,
)
from psedge.simulation.network.body import Body
from psedge.simulation.network.flow import NEVER, Flow
from psedge.simulation.network.serving import VirtualIncoming

if TYPE_CHECKING:
    from psedge.simulation.network.connection import Connection

#: What the aiohttp transport sends before a body, beside the path and the token.
REQUEST_HEAD_BYTES = 100
REPLY_HEAD_BYTES = 142
_TOKEN_HEAD_BYTES = 24
#: Received bytes that may wait for a handler: in the kernel, and there and in the transport.
KERNEL_WINDOW_BYTES = 2**18
WINDOW_BYTES = 2**20


class Exchange:
    """What caller and server know of one request. peer: how the server knows the caller."""

    __slots__ = (
        "_allocate",
        "_reply_body",
        "_status",
        "_target",
        "active",
        "body",
        "connection",
        "future",
        "head_bytes",
        "incoming",
        "path",
        "peer",
        "reply",
        "request",
        "task",
        "timeout_seconds",
        "token",
        "url",
    )

    def __init__(
        self,
        future: asyncio.Future[memoryview],
        url: str,
        path: str,
        body: Body,
        allocate: Allocate,
        token: str,
        peer: str,
    ) -> None:
        self.future = future
        self.url = url
        self.path = path
        self.body = body
        self.token = token
        self.peer = peer
        #: Whether the caller still waits.
        self.active = True
        self.head_bytes = REQUEST_HEAD_BYTES + len(path)
        if token:
            self.head_bytes += _TOKEN_HEAD_BYTES + len(token)
        self.request: Flow | None = None
        self.incoming: VirtualIncoming | None = None
        self.task: asyncio.Task[None] | None = None
        self.reply: Flow | None = None
        #: The caller's patience, once it waits.
        self.timeout_seconds = math.inf
        #: From `begin` on.
        self.connection: Connection
        self._allocate = allocate
        self._status = 0
        self._reply_body: Body | None = None
        self._target: memoryview | None = None

    def begin(self, connection: Connection) -> None:
        """Send the request on an open connection."""
        self.connection = connection
        server, body = connection.server, self.body
        window = KERNEL_WINDOW_BYTES if server.frozen else WINDOW_BYTES
        connection.network.trace.record(
            "net", connection.caller.name, f"asks {server.name}{self.path} {body.length}"
        )
        self.request = connection.flow(
            body, self.head_bytes, self.head_bytes + window, to_server=True
        )
        connection.pump(self, self.request)

    def request_arrived(self, flow: Flow) -> None:
        """More of the request is at the server's, whose process runs."""
        connection = self.connection
        if flow.delivered == flow.size:
            connection.network.trace.record(
                "net", connection.server.name, f"has {connection.caller.name}{self.path}"
            )
        arrived = flow.delivered - self.head_bytes
        if self.incoming is not None:
            self.incoming.arrived(arrived)
            return
        self.incoming = incoming = VirtualIncoming(self, arrived)
        listener = connection.listener
        assert listener is not None
        if incoming.length > listener.body_limit_bytes:
            refusal = over_body_limit(incoming.length, listener.body_limit_bytes)
            self._send_reply(refusal_of(refusal, incoming.path))
        else:
            # The handler belongs to the process that listens.
            loop = connection.network.loop
            self.task = listener.context.run(asyncio.Task, self._serve(), loop=loop)

    def make_room(self, needed: int) -> None:
        """The handler has taken, or waits for, so much of the body."""
        flow = self.request
        assert flow is not None
        if not self.connection.server.frozen:
            flow.allowance = self.head_bytes + needed + WINDOW_BYTES
            self.connection.resume(self, flow)

    async def _serve(self) -> None:
        connection = self.connection
        network, server = connection.network, connection.server
        assert connection.listener is not None
        assert self.incoming is not None
        reply = await reply_or_refusal(connection.listener.handler, self.incoming)
        cost = network.cpu.get(server.name)
        seconds = 0.0 if cost is None else cost(self.path, self.body.length, reply)
        if seconds <= 0.0 and server.busy_until <= network.now:
            self._send_reply(reply)
            return
        server.busy_until = max(server.busy_until, network.now) + seconds
        network.call_at(server.busy_until, self._send_reply, reply)

    def _send_reply(self, reply: Reply) -> None:
        connection = self.connection
        if connection.exchange is not self or not connection.server_open:
            return
        if connection.server.frozen:
            connection.server.parked.append((self._send_reply, (reply,)))
            return
        self._status = reply.status
        self._reply_body = body = Body(reply.parts)
        window = KERNEL_WINDOW_BYTES if connection.caller.frozen else NEVER
        self.reply = flow = connection.flow(body, REPLY_HEAD_BYTES, window, to_server=False)
        connection.pump(self, flow)
        if flow.sent < flow.size:
            network = connection.network
            network.call_at(network.now + STALL_SECONDS, self._watch, flow, 0)

    def _watch(self, flow: Flow, before: int) -> None:
        """A caller that does not take its reply loses its connection."""
        connection = self.connection
        if connection.exchange is not self or flow.sent == flow.size:
            return
        if flow.delivered == before:
            connection.close_server("its caller takes no reply")
            return
        network = connection.network
        network.call_at(network.now + STALL_SECONDS, self._watch, flow, flow.delivered)

    def reply_arrived(self, flow: Flow) -> None:
        """More of the reply is at the caller's, whose process runs."""
        body = self._reply_body
        assert body is not None
        if self._status == http.HTTPStatus.OK and self._target is None:
            try:
                self._target = self._allocate(body.length)
            except Exception as error:
                self.fail(error)
                self.connection.close_caller()
                return
        if flow.delivered == flow.size:
            connection = self.connection
            connection.network.trace.record(
                "net",
                connection.caller.name,
                f"hears {connection.server.name}{self.path} {self._status} {body.length}",
            )
            connection.finished(self)
            try:
                self._succeed(self._content(body))
            except Exception as error:
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """The call ends with an error, if it has not ended yet."""
        if self.active:
            self.active = False
            if not self.future.done():
                self.future.set_exception(error)
                # A caller whose process has died meanwhile never asks what became of its call.
                self.future.exception()

    def _succeed(self, result: memoryview) -> None:
        if self.active:
            self.active = False
            if not self.future.done():
                self.future.set_result(result)

    def _content(self, body: Body) -> memoryview:
        """The reply's body, where the caller wants it. Raises what the caller has to be told."""
        refused = self._target is None
        whole = memoryview(bytearray(body.length)) if self._target is None else self._target
        view = whole.cast("B")
        body.copy_into(view, 0)
        try:
            if body.checksum:
                BodyCheck(body.checksum, body.length).add(view)
        except DamagedError as error:
            raise UnreachableError(f"the answer of {self.url} was damaged on its way") from error
        if refused:
            status = f"{self._status} {http.HTTPStatus(self._status).phrase}"
            raise error_of_refusal(whole[:REFUSAL_LIMIT_BYTES], self.url, status)
        return whole

    def forget_server(self) -> None:
        """The handler is done; keeping what it had would only make work for Python's collector."""
        self.incoming = self.task = None

    def server_gone(self, why: str) -> None:
        """The server's end is closed: nothing more arrives there, and its handler is cancelled."""
        if self.incoming is not None:
            self.incoming.end(FrameError(f"the body ended early: {why}"))
        if self.task is not None:
            self.task.cancel()
