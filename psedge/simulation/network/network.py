"""The network of the virtual world: hosts and their links, and what can go wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import replace

from psedge.protocol.ports import Reply, Transport
from psedge.simulation.loop import VirtualLoop
from psedge.simulation.network.connection import Connection
from psedge.simulation.network.host import Host
from psedge.simulation.network.links import Channel, LinkProfile
from psedge.simulation.network.route import Route
from psedge.simulation.network.transport import VirtualTransport
from psedge.simulation.seeds import random_of
from psedge.simulation.trace import Trace

#: Seconds of processor time that a reply costs: of its path, the request's bytes and itself.
ReplyCost = Callable[[str, int, Reply], float]


class Network:
    """All hosts, each behind one link, joined by switches that are never the bottleneck.

    Made within a running VirtualLoop.

    A link on a shared medium is half-duplex: what goes between two of its hosts passes it twice.
    """

    def __init__(self, trace: Trace, seed: int) -> None:
        self.trace = trace
        self.random = random_of(seed, "network")
        self.hosts: dict[str, Host] = {}
        #: By serving host: replies leave its processor one after the other.
        self.cpu: dict[str, ReplyCost] = {}
        #: Counts every change to links, partitions and hosts; routes are brought up to date by it.
        self.version = 0
        self._media: dict[str, Channel] = {}
        self._partitions: dict[int, tuple[frozenset[str], frozenset[str], bool]] = {}
        self._last_key = 0
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        #: The network belongs to no process: what it does goes on when one is stopped or killed.
        self.call_at = loop.call_plain_at
        self._context = Context()

    @property
    def now(self) -> float:
        """True virtual seconds."""
        return self.loop.now

    def add_host(self, name: str, link: LinkProfile, medium: str = "") -> None:
        """medium: name of the medium of a shared link, by default that of the link."""
        if name in self.hosts:
            raise ValueError(f"there is a host {name} already")
        air = self._media.setdefault(medium or link.name, Channel()) if link.shared else None
        self.hosts[name] = Host(name, link, air)

    def transport(self, host: str) -> Transport:
        """For one process on that host, which others reach at `http://HOST:PORT`."""
        return VirtualTransport(self, self.hosts[host])

    def sent_bytes(self, host: str) -> int:
        """On the wire, with all headers and repetitions, without acknowledgements."""
        return self.hosts[host].port.sent_bytes

    def received_bytes(self, host: str) -> int:
        return self.hosts[host].port.received_bytes

    def change_link(
        self, host: str, *, bits_per_second_factor: float = 1.0, **fields: float
    ) -> None:
        """Multiply a host's rate and set fields of its LinkProfile, on top of earlier changes."""
        port = self.hosts[host].port
        changed = replace(port.profile, **fields)  # type: ignore[arg-type]
        rate = changed.bits_per_second * bits_per_second_factor
        port.profile = replace(changed, bits_per_second=rate)
        self.version += 1

    def restore_link(self, host: str) -> None:
        """Undo every change to a host's link."""
        port = self.hosts[host].port
        port.profile = port.base
        self.version += 1

    def partition(
        self, sources: Sequence[str], targets: Sequence[str], *, both_ways: bool = True
    ) -> int:
        """Let nothing pass from one group of hosts to the other; the key is for `heal`.

        Who sends tries on, with growing pauses; a call only ends when its own patience does.
        """
        self._last_key += 1
        self._partitions[self._last_key] = frozenset(sources), frozenset(targets), both_ways
        self.version += 1
        return self._last_key

    def heal(self, key: int) -> None:
        """End a partition; nothing happens if it has ended."""
        if self._partitions.pop(key, None) is not None:
            self.version += 1

    def reset_connections(self, host: str, peer: str | None = None) -> None:
        """Both ends of every connection of a host, to one peer or to all, break at once."""
        for connection in self._connections(host, peer):
            connection.break_caller("Connection reset by peer")
            connection.close_server("Connection reset by peer", tell=False)

    def half_open(self, host: str, peer: str | None = None) -> None:
        """A host forgets its connections, and no peer is told before it sends something."""
        here = self.hosts[host]
        for connection in self._connections(host, peer):
            if connection.caller is here:
                connection.break_caller("Connection reset by peer")
            if connection.server is here:
                connection.close_server("forgotten", tell=False)

    def process_died(self, host: str) -> None:
        """The process is gone, its kernel is not: whoever is connected is told at once."""
        self._end_process(self.hosts[host], tell=True)

    def host_died(self, host: str) -> None:
        """Power is gone: nobody is told anything, and nothing is answered."""
        here = self.hosts[host]
        self._end_process(here, tell=False)
        here.alive = False
        self.version += 1

    def host_revived(self, host: str) -> None:
        """Power is back; of the connections from before, this host knows nothing."""
        self.hosts[host].alive = True
        self.version += 1

    def freeze(self, host: str) -> None:
        """The process was stopped: its kernel takes bytes until its windows are full."""
        here = self.hosts[host]
        here.frozen = True
        for connection in list(here.connections):
            connection.freeze(here)

    def thaw(self, host: str) -> None:
        """The process goes on, first with what came in the meantime."""
        here = self.hosts[host]
        here.frozen = False
        parked, here.parked = here.parked, []
        for callback, arguments in parked:
            self.loop.call_soon(callback, *arguments, context=self._context)
        for connection in list(here.connections):
            connection.thaw(here)

    def refresh(self, there: Route, back: Route, caller: Host, server: Host) -> None:
        """Bring both directions of a connection up to date."""
        version = self.version
        if there.version == version:
            return
        alive = caller.alive and server.alive
        forth = alive and not self._parted(caller.name, server.name)
        home = alive and not self._parted(server.name, caller.name)
        there.update(version, open_=forth, acknowledged=home)
        back.update(version, open_=home, acknowledged=forth)

    def _parted(self, source: str, target: str) -> bool:
        return source != target and any(
            (source in sources and target in targets)
            or (both_ways and source in targets and target in sources)
            for sources, targets, both_ways in self._partitions.values()
        )

    def _connections(self, host: str, peer: str | None) -> list[Connection]:
        here = self.hosts[host]
        other = None if peer is None else self.hosts[peer]
        return [
            connection
            for connection in here.connections
            if other is None or other in (connection.caller, connection.server)
        ]

    def _end_process(self, here: Host, *, tell: bool) -> None:
        connections = list(here.connections)
        here.listeners.clear()
        for connection in connections:
            if connection.caller is here:
                exchange = connection.exchange
                if exchange is not None and exchange.active:
                    exchange.active = False
                    exchange.future.cancel()
                connection.close_caller(tell=tell)
            if connection.server is here:
                connection.close_server("its server has died", tell=tell)
        here.forget()
        here.frozen = False
