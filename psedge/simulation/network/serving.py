"""The serving half of the virtual transport: listeners, and requests as handlers see them."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING

from psedge.protocol.aiohttp_server import STALL_SECONDS
from psedge.protocol.checksum import BodyCheck
from psedge.protocol.errors import FrameError
from psedge.protocol.ports import Handler

if TYPE_CHECKING:
    from psedge.simulation.network.exchange import Exchange
    from psedge.simulation.network.host import Host

_SCRATCH_BYTES = 2**16


class VirtualListener:
    """One bound address. everywhere: not only for callers on the same host."""

    def __init__(
        self,
        owner: Host,
        host: str,
        port: int,
        handler: Handler,
        body_limit_bytes: int,
        *,
        everywhere: bool,
    ) -> None:
        self.handler = handler
        self.body_limit_bytes = body_limit_bytes
        self.everywhere = everywhere
        #: Of the process that listens: its handlers belong to it.
        self.context = copy_context()
        self._owner = owner
        self._host = host
        self._port = port

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        return self._port

    async def close(self) -> None:
        """Stop accepting, cancel the handlers in flight, close every connection."""
        owner = self._owner
        if owner.listeners.get(self._port) is self:
            del owner.listeners[self._port]
        mine = [
            connection
            for connection in owner.connections
            if connection.listener is self and connection.server is owner
        ]
        tasks = []
        for connection in mine:
            task = None if connection.exchange is None else connection.exchange.task
            if task is not None and not task.done() and task is not asyncio.current_task():
                tasks.append(task)
            connection.close_server("its server was closed")
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


class VirtualIncoming:
    """One request, whose body arrives bit by bit."""

    __slots__ = (
        "_arrived",
        "_check",
        "_end",
        "_exchange",
        "_heard_at",
        "_taken",
        "_waiter",
        "length",
        "needed",
        "path",
        "peer",
        "token",
    )

    def __init__(self, exchange: Exchange, arrived: int) -> None:
        """arrived: bytes of the body that are here."""
        self.path = exchange.path
        self.peer = exchange.peer
        self.token = exchange.token
        self.length = exchange.body.length
        #: Bytes of the body that the handler has taken or is waiting for.
        self.needed = 0
        self._exchange = exchange
        self._arrived = arrived
        self._taken = 0
        self._heard_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._end: FrameError | None = None
        checksum = exchange.body.checksum
        self._check = BodyCheck(checksum, self.length) if checksum else None

    async def read_into(self, buffer: memoryview) -> None:
        target = buffer.cast("B")
        wanted = len(target)
        unread = self.length - self._taken
        if wanted > unread:
            raise FrameError(
                f"the body of {self.length} bytes is {wanted - unread} bytes too short"
            )
        if self._end is not None:
            raise self._end
        self.needed = self._taken + wanted
        if self._arrived < self.length:
            self._exchange.make_room(self.needed)
            if self._arrived < self.needed:
                await self._wait()
        self._exchange.body.copy_into(target, self._taken)
        self._taken += wanted
        if self._check is not None:
            self._check.add(target)

    async def check_rest(self) -> None:
        check = self._check
        if check is None:
            return
        scratch = memoryview(bytearray(min(self.length - self._taken, _SCRATCH_BYTES)))
        while check.pending:
            await self.read_into(scratch[: self.length - self._taken])

    def arrived(self, total: int) -> None:
        """So many bytes of the body are here."""
        self._arrived = total
        waiter = self._waiter
        if waiter is not None:
            self._heard_at = self._exchange.connection.network.now
            if total >= self.needed and not waiter.done():
                waiter.set_result(None)

    def end(self, error: FrameError) -> None:
        """Nothing more will arrive."""
        self._end = error
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
            # The handler may have been cancelled in the same moment, and never look.
            waiter.exception()

    async def _wait(self) -> None:
        """Return when enough has arrived. Raises FrameError if nothing does for STALL_SECONDS."""
        network = self._exchange.connection.network
        self._heard_at = network.now
        self._waiter = waiter = network.loop.create_future()

        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            due = self._heard_at + STALL_SECONDS
            if network.now < due:
                timer = network.loop.call_at(due, look)
            else:
                self.end(FrameError(f"no byte of the body arrived for {STALL_SECONDS:.0f} s"))

        # A timer of the process: it does not run out while the process is stopped.
        timer = network.loop.call_at(self._heard_at + STALL_SECONDS, look)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
