"""Keeps the sets of copies whole: admits whom a primary has brought up to date, drops whom it can't
reach and who is dead, and finds servers for copies that are missing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from psedge.protocol.errors import PsedgeError
from psedge.protocol.ports import Clock
from psedge.protocol.replicas import Peer, Reign, SetChange
from psedge.supervisor.fleet import Fleet
from psedge.supervisor.placement import BackOff, Offer, recruit
from psedge.supervisor.server_calls import ServerCalls
from psedge.supervisor.server_list import ServerEntry
from psedge.supervisor.shard_table import Decision
from psedge.supervisor.shard_view import evidence_of


class SetKeeper:
    """Of all shards of a run."""

    def __init__(self, fleet: Fleet, calls: ServerCalls, clock: Clock) -> None:
        self._fleet = fleet
        self._calls = calls
        self._clock = clock
        self._back_off = BackOff()

    async def change(self, change: SetChange) -> Reign:
        """What a primary asks for. Returns the reign as it then is: as it was, if the primary has
        yet to hear of it.

        Raises RefusedError: `stale-term` when the asker reigns no more, `conflict` for a learner
        that is none.
        """
        table, shard, server = self._fleet.table, change.shard, change.server

        def propose() -> Decision:
            if table.is_overtaken(shard, change.term, change.revision):
                return Decision("keep", "the request was overtaken", shard, server)
            if change.action == "drop":
                return table.dropped(shard, change.term, server, change.why)
            return table.admitted(shard, change.term, server, change.why)

        decision = await self._fleet.decrees.decree(propose)
        if decision.reign is not None:
            self._changed(decision)
            return decision.reign
        reign = table.reign(shard)
        assert reign is not None
        return reign

    def due(self, reign: Reign, now: float) -> Coroutine[Any, Any, None] | None:
        """What has to be done about a shard whose primary is there, one thing at a time."""
        primary = self._fleet.servers[reign.primary.server]
        if not primary.attached or primary.detector.suspect(now):
            # Whoever cannot be heard now may be well, and it is this machine that is cut off.
            return None
        for peer in (*reign.backups, *reign.learners):
            if self._fleet.servers[peer.server].dead and peer.server not in reign.doubted:
                return self._amend(reign, self._without(reign, peer, now))
        wanted = self._fleet.replication.replicas
        if 1 + len(reign.backups) + len(reign.learners) >= wanted:
            return None
        server, why = self._recruit(reign, wanted, now)
        if server is None:
            return None
        peer, table = self._fleet.peer(self._fleet.servers[server]), self._fleet.table
        return self._amend(reign, lambda: table.recruited(reign.shard, peer, why))

    def promoted(self, before: Reign, after: Reign) -> None:
        """Who has no part any more came to be without one as if it had been dropped."""
        for peer in before.backups:
            if after.role_of(peer.server) is None:
                url = self._fleet.servers[peer.server].url
                self._back_off.dropped(before.shard, url, self._clock.now())

    def news_for(self, entry: ServerEntry) -> tuple[tuple[Reign, ...], tuple[int, ...]]:
        """Reigns that a server has not heard of, and shards of which nobody needs its copy."""
        reigns, drop = [], []
        table = self._fleet.table
        for shard, replica in entry.keeps.items():
            reign = table.reign(shard)
            if not self._fleet.assigned or table.is_sealing(shard):
                continue
            if reign is None or not self._fleet.has(shard):
                drop.append(shard)
            elif reign.role_of(entry.server) is None:
                if not self._may_be_needed(reign, entry):
                    drop.append(shard)
            elif (replica.term, replica.revision) < (reign.term, reign.revision):
                reigns.append(reign)
        return tuple(reigns), tuple(drop)

    async def tell(self, entry: ServerEntry, reign: Reign) -> None:
        """Best effort: the reply to its next heartbeat says it again."""
        try:
            await self._calls.tell(entry, reign)
        except PsedgeError:
            return

    def _may_be_needed(self, reign: Reign, entry: ServerEntry) -> bool:
        """Whether a copy without a part may yet be given one, or be all that is left of another."""
        copies = 1 + len(reign.backups) + len(reign.learners)
        if copies < self._fleet.replication.replicas:
            return True
        members = (reign.primary, *reign.backups)
        stores = {self._fleet.servers[peer.server].store for peer in members}
        return bool(entry.store) and entry.store in stores

    def _without(self, reign: Reign, peer: Peer, now: float) -> Callable[[], Decision]:
        why, table = evidence_of(self._fleet.servers[peer.server], now), self._fleet.table
        return lambda: table.given_up(reign.shard, reign.term, peer.server, why)

    def _recruit(self, reign: Reign, wanted: int, now: float) -> tuple[int | None, str]:
        offers, blocked = [], {}
        for entry in self._fleet.list.live():
            if entry.detector.suspect(now):
                continue
            copies = len(self._fleet.table.held_by(entry.server))
            offers.append(Offer(entry.server, entry.lossless, copies, tuple(entry.keeps)))
            wait = self._back_off.wait(reign.shard, entry.url, now)
            if wait > 0:
                blocked[entry.server] = wait
        return recruit(reign, offers, wanted, self._fleet.lossless(), blocked)

    async def _amend(self, before: Reign, propose: Callable[[], Decision]) -> None:
        """Change who holds a shard besides its primary, and let the primary know.

        Raises RefusedError if its reign has ended meanwhile.
        """
        decision = await self._fleet.decrees.decree(propose)
        if decision.reign is not None:
            self._changed(decision)
            await self.tell(self._fleet.servers[before.primary.server], decision.reign)

    def _changed(self, decision: Decision) -> None:
        url, now = self._fleet.servers[decision.server].url, self._clock.now()
        if decision.action == "drop":
            self._back_off.dropped(decision.shard, url, now)
        elif decision.action == "admit":
            self._back_off.admitted(decision.shard, url, now)
