"""How a server reaches the supervisor and the other servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from psedge.protocol.address import Address
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.replicas import Peer, Reign


@dataclass(frozen=True, slots=True)
class Line:
    """supervisor: its address also has the token that opens every server's door.

    follow: called with each reign that the supervisor answers with. seed: of the jitter of pauses;
    servers should differ in it.
    """

    transport: Transport
    clock: Clock
    supervisor: Address
    follow: Callable[[Reign], object]
    seed: int

    def address(self, peer: Peer) -> Address:
        """A peer without a URL is where the supervisor is."""
        return Address(peer.url or self.supervisor.url, self.supervisor.token)
