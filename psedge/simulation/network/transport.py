"""The virtual network as a Transport: what one process on a host calls and serves with."""

from __future__ import annotations

import asyncio
import functools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psedge.protocol.aiohttp_client import IDLE_SECONDS
from psedge.protocol.errors import AddressError, UnreachableError
from psedge.protocol.ports import Allocate, Buffer, Handler, Listener
from psedge.simulation.loop import RESOLUTION_SECONDS
from psedge.simulation.network.body import Body
from psedge.simulation.network.connection import Connection
from psedge.simulation.network.exchange import Exchange
from psedge.simulation.network.serving import VirtualListener

if TYPE_CHECKING:
    from psedge.simulation.network.host import Host
    from psedge.simulation.network.network import Network

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
_URL = re.compile(r"http://(?:\[([0-9A-Fa-f:]+)\]|([^/:\[\]\s]+))(?::(\d+))?/?")


class VirtualTransport:
    """Made by `Network.transport`; calls are bound to the virtual loop they are made in."""

    def __init__(self, network: Network, host: Host) -> None:
        self._network = network
        self._host = host
        self._closed = False
        self._listeners: list[VirtualListener] = []
        #: Connections that wait for their next exchange, the latest last.
        self._idle: dict[tuple[str, int], list[Connection]] = {}
        #: When each call in flight is given up. One timer looks after all of them, since hardly any
        #: call comes that far.
        self._deadlines: dict[Exchange, float] = {}
        self._look_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def call(
        self,
        url: str,
        path: str,
        parts: Sequence[Buffer],
        *,
        allocate: Allocate,
        timeout_seconds: float,
        token: str = "",
    ) -> memoryview:
        """See `ports.Transport.call`."""
        if self._closed:
            raise UnreachableError("this transport is closed")
        name, port = _host_and_port(url)
        loop = self._network.loop
        peer = self._host.name
        if name in LOOPBACK:
            name, peer = peer, LOOPBACK[0]
        exchange = Exchange(loop.create_future(), url, path, Body(parts), allocate, token, peer)
        connection = self._connection(exchange, name, port)
        self._deadlines[exchange] = deadline = loop.now + timeout_seconds
        exchange.timeout_seconds = timeout_seconds
        if deadline < self._look_at:
            self._look_again(deadline)
        try:
            return await exchange.future
        finally:
            del self._deadlines[exchange]
            if exchange.active:
                exchange.active = False
                connection.close_caller()

    def _connection(self, exchange: Exchange, name: str, port: int) -> Connection:
        """The connection on which the exchange has begun: one that was kept, or a new one."""
        network = self._network
        kept = self._idle.get((name, port))
        connection = None
        while kept:
            connection = kept.pop()
            if not connection.caller_open:
                continue
            if network.now - connection.idle_since <= IDLE_SECONDS:
                connection.start(exchange)
                return connection
            connection.close_caller()
        server = network.hosts.get(name)
        if server is None:
            raise UnreachableError(f"cannot connect to {exchange.url}: Name or service not known")
        opened = Connection(network, self, self._host, server, port, connection)
        opened.connect(exchange)
        return opened

    def _look(self) -> None:
        """A timer of the process: it does not run out while the process is stopped."""
        due = self._network.now + RESOLUTION_SECONDS
        self._timer, self._look_at = None, math.inf
        for exchange, deadline in self._deadlines.items():
            if deadline < due:
                self._time_out(exchange, exchange.timeout_seconds)
        waiting = [at for at in self._deadlines.values() if at >= due]
        if waiting:
            self._look_again(min(waiting))

    def _look_again(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = at
        self._timer = self._network.loop.call_at(at, self._look)

    def _time_out(self, exchange: Exchange, seconds: float) -> None:
        if exchange.active and not exchange.future.done():
            self._network.trace.record(
                "net", self._host.name, f"gives up {exchange.url}{exchange.path}"
            )
            exchange.future.set_exception(
                UnreachableError(f"{exchange.url} gave no answer in {seconds:g} s")
            )
            exchange.future.exception()

    def keep(self, connection: Connection) -> None:
        """An exchange is over, and its connection may serve another one."""
        if self._closed:
            connection.close_caller()
        else:
            kept = self._idle.setdefault((connection.server.name, connection.port), [])
            kept.append(connection)
            # Calls take the latest one, so that the oldest grow too old after a rush of calls.
            while connection.idle_since - kept[0].idle_since > IDLE_SECONDS:
                kept.pop(0).close_caller()

    async def listen(
        self, host: str, port: int, handler: Handler, *, body_limit_bytes: int
    ) -> Listener:
        """See `ports.Transport.listen`."""
        here = self._host
        if host not in (*EVERYWHERE, *LOOPBACK, here.name):
            raise AddressError(
                f"cannot listen on {host}:{port}: {host} is not an address of this machine"
            )
        if port in here.listeners:
            raise AddressError(
                f"cannot listen on {host}:{port}: another program uses that port; "
                "stop it, or choose another port with --port"
            )
        port = port or here.free_port()
        listener = VirtualListener(
            here, host, port, handler, body_limit_bytes, everywhere=host not in LOOPBACK
        )
        here.listeners[port] = listener
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        """Close every connection; calls in flight end with an UnreachableError."""
        for listener in self._listeners:
            await listener.close()
        self._closed = True
        self._idle.clear()
        for connection in list(self._host.connections):
            if connection.transport is self and connection.caller is self._host:
                connection.hang_up("this transport was closed")
        await asyncio.sleep(0)


@functools.lru_cache(maxsize=4096)
def _host_and_port(url: str) -> tuple[str, int]:
    match = _URL.fullmatch(url)
    if match is None:
        raise AddressError(f"{url!r} is not an address such as http://host:7700")
    return match[1] or match[2], int(match[3] or 80)
