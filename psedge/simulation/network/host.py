"""A machine as the network sees it: a port, a kernel behind it, and what is open there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psedge.simulation.network.links import Channel, LinkProfile, Port

if TYPE_CHECKING:
    from psedge.simulation.network.connection import Connection
    from psedge.simulation.network.serving import VirtualListener

#: The first port that `listen` gives to whoever asks for any.
FIRST_FREE_PORT = 32_768
#: From so many connections on, idle ones are looked for.
SWEEP_CONNECTIONS = 64
_LOOPBACK = LinkProfile("loopback", 20e9, 10e-6, buffer_bytes=2**30)


class Host:
    """One machine. medium: the channel it shares with others, if its link is half-duplex."""

    __slots__ = (
        "_next_port",
        "_sweep_at",
        "alive",
        "busy_until",
        "connections",
        "frozen",
        "listeners",
        "loopback",
        "name",
        "parked",
        "port",
    )

    def __init__(self, name: str, link: LinkProfile, medium: Channel | None) -> None:
        self.name = name
        self.port = Port(link, medium)
        self.loopback = Port(_LOOPBACK)
        self.alive = True
        self.frozen = False
        #: When the processor will have computed every reply that it owes.
        self.busy_until = 0.0
        self.listeners: dict[int, VirtualListener] = {}
        #: Of which one end is here, in the order in which they were opened.
        self.connections: dict[Connection, None] = {}
        #: What the kernel of a frozen host holds back from its process, in order.
        self.parked: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._next_port = FIRST_FREE_PORT
        self._sweep_at = SWEEP_CONNECTIONS

    def add(self, connection: Connection, now: float) -> None:
        """A connection was opened; now and then, those that nobody uses any more are closed."""
        self.connections[connection] = None
        if len(self.connections) >= self._sweep_at:
            for each in list(self.connections):
                each.close_if_idle(now)
            self._sweep_at = max(SWEEP_CONNECTIONS, 2 * len(self.connections))

    def free_port(self) -> int:
        while self._next_port in self.listeners:
            self._next_port += 1
        self._next_port += 1
        return self._next_port - 1

    def forget(self) -> None:
        """Nothing of what was open here is left."""
        self.listeners.clear()
        self.connections.clear()
        self.parked.clear()
        self.busy_until = 0.0
