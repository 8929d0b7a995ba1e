"""One parameter server inside an event loop: its listener, its shards, its place in the cluster."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from psedge.protocol.address import DEFAULT_PORT, Address, url_of
from psedge.protocol.door import Door
from psedge.protocol.errors import AddressError, RefusedError
from psedge.protocol.ports import (
    Clock,
    Handler,
    Incoming,
    Listener,
    RandomBits,
    Reply,
    Transport,
)
from psedge.server.node import ServerNode
from psedge.server.service import ASSIGNMENT_LIMIT_BYTES, ShardService
from psedge.server.store import ServerStore

LOOPBACK = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104
#: A server that joins others on the same machine takes the first free of so many ports.
_PORTS_TRIED = 16


class HostedServer:
    """Made by `open`, answers from `start` on, takes part in a run with `serve_for`."""

    def __init__(
        self,
        listener: Listener,
        routes: dict[str, Handler],
        transport: Transport,
        clock: Clock,
        notify: Callable[[str], None],
        incarnation: int,
        service: ShardService,
    ) -> None:
        self.listener = listener
        self._routes = routes
        self._transport = transport
        self._clock = clock
        self._notify = notify
        #: Tells this start of the server from all others.
        self.incarnation = incarnation
        self._service = service

    @classmethod
    async def open(
        cls,
        host: str,
        port: int | None,
        token: str | None,
        *,
        transport: Transport,
        clock: Clock,
        notify: Callable[[str], None],
        random_bits: RandomBits = secrets.randbits,
        service: ShardService | None = None,
        store: ServerStore | None = None,
        leave: int | None = None,
    ) -> HostedServer:
        """Listen. port: 0 takes a free one, None the first free one from the default on.

        leave: a port that None does not take, for it is somebody else's, there or not yet.
        service: what holds the shards; None makes one. store: where that one keeps logs; None
        keeps none.

        Raises AddressError when the address cannot be bound.
        """
        routes: dict[str, Handler] = {}
        door = Door(routes, token=token)

        def handle(incoming: Incoming) -> Awaitable[Reply]:
            if not routes:
                raise RefusedError("not-ready", "this server is still starting")
            return door(incoming)

        tried = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED)
        ports = [each for each in tried if each != leave] if port is None else [port]
        for candidate in ports:
            try:
                listener = await transport.listen(
                    host, candidate, handle, body_limit_bytes=ASSIGNMENT_LIMIT_BYTES
                )
            except AddressError:
                if candidate == ports[-1]:
                    raise
            else:
                shards = service or ShardService(
                    clock, transport=transport, store=store, notify=notify
                )
                return cls(listener, routes, transport, clock, notify, random_bits(63), shards)
        raise AssertionError("the last port either listens or raises")

    @property
    def url(self) -> str:
        """How this machine reaches the server."""
        host = LOOPBACK if self.listener.host in EVERYWHERE else self.listener.host
        return url_of(host, self.listener.port)

    def keep(self, store: ServerStore | None) -> None:
        """Where its shards keep their logs, for who knows it only after `open`; before `serve_for`.

        None: nowhere.
        """
        self._service.store = store

    def start(self, supervisor_routes: Mapping[str, Handler] | None = None) -> None:
        """Answer requests; until then every one is told that the server is not ready.

        supervisor_routes: what the first server answers besides, or instead.
        """
        self._routes.update({**self._service.routes(), **(supervisor_routes or {})})

    async def serve_for(self, supervisor: Address, *, process: int = 0, machine: str = "") -> None:
        """Take part in the supervisor's run until it has ended.

        process, machine: pid and name of its machine, for people.

        Raises AddressError when it is no supervisor or turns this server away, ConfigError when the
        store is of another run, UnreachableError when the supervisor stays lost.
        """
        node = ServerNode(
            self._service,
            supervisor,
            host=self.listener.host,
            port=self.listener.port,
            incarnation=self.incarnation,
            transport=self._transport,
            clock=self._clock,
            notify=self._notify,
            process=process,
            machine=machine,
        )
        await node.run(patient=True)

    async def close(self) -> None:
        """Answer nobody any more; what the store was given is on disk afterwards."""
        await self.listener.close()
        await self._service.close()


async def cancelled(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel what still runs and wait until it has ended, whatever it ends with."""
    left = [task for task in tasks if task is not None]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
