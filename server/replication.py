"""Keeps the other copies of a shard like its primary's.

Each peer has a pump: one message at a time is on its way, and whatever was written meanwhile goes
with the next. A peer that lacks what the primary's memory no longer holds, or whose log or digest
is another, is sent an image of the whole and goes on from there.

Only the supervisor says who is in the set. A backup that leaves entries unanswered holds every push
up, so the primary asks to have it dropped; a learner that has caught up counts as a backup before
the supervisor is asked to make it one.
"""

from __future__ import annotations

from collections.abc import Callable

from psedge.protocol.replicas import Peer
from psedge.server.line import Line
from psedge.server.pump import Pump
from psedge.server.replica import Replica


class Replication:
    """All pumps of one shard, for as long as this server is its primary.

    released: called whenever a peer has taken entries. superseded: called when somebody knows of a
    higher term than that of this reign.
    """

    def __init__(
        self,
        replica: Replica,
        line: Line,
        released: Callable[[], None],
        superseded: Callable[[], None],
    ) -> None:
        self._replica = replica
        self._line = line
        self._released = released
        self._superseded = superseded
        self._pumps: dict[Peer, Pump] = {}
        #: Bytes a second that went to each server, also to those that come back later.
        self._rates: dict[int, float] = {}

    def follow_peers(self) -> None:
        """Begin with peers that are new in the reign, end with those that are in it no more."""
        peers, reign = self._replica.peers(), self._replica.reign
        doubted = () if reign is None else reign.doubted
        for peer in self._pumps.keys() - set(peers):
            self._pumps.pop(peer).stop()
        for peer in peers:
            if peer not in self._pumps:
                self._pumps[peer] = Pump(
                    self._replica,
                    peer,
                    self._line,
                    self._released,
                    self._superseded,
                    self._rates,
                )
            if peer.server in doubted:
                self._pumps[peer].drop("the supervisor does not hear it")
        self.wake()

    def wake(self) -> None:
        """There are new entries, or a new reign."""
        for pump in self._pumps.values():
            pump.wake()

    def stop(self) -> None:
        for pump in self._pumps.values():
            pump.stop()
        self._pumps.clear()
