"""Where the primaries of the shards are, and what happens while one of them is missing.

The supervisor's map says where they are. Whoever gets no answer from a primary calls `lost`, and
tries again when it returns: at the new place as soon as the supervisor names one, at the old place
after pauses that grow, since it may have been the network alone. One query at a time asks for all
shards that are missed. While the supervisor is away, too, the query is repeated in the same way.

What is under way to a shard that moves is taken back: a primary that was cut off never answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from psedge.protocol.address import Address
from psedge.protocol.calls import ask
from psedge.protocol.errors import FrameError, PsedgeError, RefusedError, UnreachableError
from psedge.protocol.messages import SHARDS, JoinReply, ShardAddress, ShardsQuery, ShardsReply
from psedge.protocol.ports import Clock, Transport
from psedge.worker.endings import Rejoin, StopTraining, consequence_of
from psedge.worker.outage import Notify, Outage

#: What a server that is not a shard's primary, or not yet, answers.
ELSEWHERE = ("not-primary", "not-ready", "stale-term")
#: The supervisor answers a query after 10 s at the latest.
QUERY_TIMEOUT_SECONDS = 20.0
#: Shards that are lost together are asked for together.
GATHER_SECONDS = 0.01
#: Before the supervisor is asked again that knew nothing new.
AGAIN_SECONDS = 0.1

T = TypeVar("T")
Place = tuple[Address, int]


class Directory:
    """The map as one worker knows it under one incarnation.

    base: the supervisor's address; shards without a URL of their own live there.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        base: Address,
        join: JoinReply,
        incarnation: int,
        notify: Notify,
    ) -> None:
        self.revision = join.map_revision
        self._transport = transport
        self._clock = clock
        self._base = base
        self._worker = join.worker
        self._incarnation = incarnation
        self._notify = notify
        self._places = {shard.shard: self._place(shard) for shard in join.shards}
        #: Of the supervisor's map, as heartbeats tell.
        self._newest = self.revision
        #: Shards that are missed, and how often each was tried in vain since it was last there.
        self._missing: dict[int, int] = {}
        #: Servers that keep silent, by URL, and shards that a server does not answer for.
        self._outages: dict[tuple[str, int | None], Outage] = {}
        #: What waits for each shard: a call, or the pause before the next one.
        self._under_way: dict[int, asyncio.Future[Any]] = {}
        self._query: asyncio.Future[None] | None = None
        self._asked: frozenset[int] = frozenset()
        self._ending: Rejoin | StopTraining | None = None

    def address(self, shard: int) -> Place:
        """Where its primary is, and that primary's term."""
        return self._places[shard]

    async def unless_moved(self, shard: int, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, which is for this shard; None if the shard has moved first.

        One at a time for each shard. Raises Rejoin or StopTraining if the supervisor says so.
        """
        place = self._places[shard]
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        self._under_way[shard] = task
        try:
            # Whoever cancels the caller cancels this wait, and whoever moves the shard the task.
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            self._under_way.pop(shard, None)
        if not task.cancelled():
            return task.result()
        if self._ending is not None:
            raise type(self._ending)(str(self._ending))
        if self._places[shard] == place:
            raise asyncio.CancelledError
        return None

    async def lost(self, shard: int, place: Place, error: PsedgeError) -> None:
        """There was no answer from that place: returns when there is something new to try.

        Raises Rejoin or StopTraining if the supervisor says so.
        """
        if place != self._places[shard]:
            return
        tries = self._missing[shard] = self._missing.get(shard, 0) + 1
        pause = self._outage(place, shard, error).failed(tries)
        if self._query is None or shard not in self._asked:
            self._ask()
        await self.unless_moved(shard, self._clock.sleep(pause))

    def answered(self, shard: int) -> None:
        """Its primary is there."""
        url = self._places[shard][0].url
        for key in ((url, None), (url, shard)) if self._outages else ():
            outage = self._outages.pop(key, None)
            if outage is not None:
                outage.answered()
        self.given_up(shard)

    def given_up(self, shard: int) -> None:
        """Nobody waits for an answer of this shard any more."""
        if self._missing.pop(shard, None) is not None and not self._wanted:
            self.close()

    def heard(self, revision: int) -> None:
        """The supervisor's map is of this revision."""
        self._newest = max(self._newest, revision)
        if self._query is None and self._newest > self.revision:
            self._ask()

    def take(self, revision: int, shards: Sequence[ShardAddress]) -> None:
        """The supervisor's map; an older one than the known is ignored."""
        if revision <= self.revision:
            return
        self.revision, self._newest = revision, max(self._newest, revision)
        moved: dict[tuple[str, str], list[int]] = {}
        for shard in shards:
            old, new = self._places.get(shard.shard), self._place(shard)
            if old is None or old == new:
                continue
            self._places[shard.shard] = new
            self._missing.pop(shard.shard, None)
            moved.setdefault((old[0].url, new[0].url), []).append(shard.shard)
            if shard.shard in self._under_way:
                self._under_way[shard.shard].cancel()
        for (old_url, new_url), numbers in moved.items():
            if old_url != new_url:
                self._tell(old_url, new_url, numbers)

    def close(self) -> None:
        """Ask no more."""
        if self._query is not None:
            self._query.cancel()
            self._query = None

    @property
    def _wanted(self) -> bool:
        return bool(self._missing) or self._newest > self.revision

    def _place(self, shard: ShardAddress) -> Place:
        return Address(shard.url or self._base.url, self._base.token), shard.term

    def _outage(self, place: Place, shard: int, error: PsedgeError) -> Outage:
        url = place[0].url
        refused = isinstance(error, RefusedError)
        key = (url, shard if refused else None)
        if key not in self._outages:
            who = f"shard {shard} on {url}" if refused else f"server {url}"
            self._outages[key] = Outage(self._clock, self._notify, who, self._incarnation)
        return self._outages[key]

    def _tell(self, old: str, new: str, shards: Sequence[int]) -> None:
        outage = self._outages.get((old, None))
        unheard = outage is not None and not outage.told
        before = f"server {old} does not answer; " if unheard else ""
        many = len(shards) > 1
        names = f"shard{'s' * many} {' and '.join(map(str, shards))} {'are' if many else 'is'}"
        self._notify(f"{before}{names} now on {new}")
        for shard in shards:
            self._outages.pop((old, shard), None)
        if all(address.url != old for address, _ in self._places.values()):
            self._outages.pop((old, None), None)

    def _ask(self) -> None:
        """Query the supervisor from now on, for all that is missed by now."""
        self.close()
        self._asked = frozenset(self._missing)
        self._query = asyncio.ensure_future(self._find())

    async def _find(self) -> None:
        """Take maps from the supervisor until nothing is missed and no newer one is known of."""
        outage = Outage(self._clock, lambda _: None, "", self._incarnation)
        pause = GATHER_SECONDS
        while self._wanted:
            await self._clock.sleep(pause)
            self._asked = frozenset(self._missing)
            try:
                reply = await self._queried()
            except RefusedError as error:
                ending = consequence_of(error)
                if isinstance(ending, (Rejoin, StopTraining)):
                    self._end(ending)
                    return
                await outage.pause()
            except (UnreachableError, FrameError):
                await outage.pause()
            else:
                outage.answered()
                pause = GATHER_SECONDS if reply.revision > self.revision else AGAIN_SECONDS
                self.take(reply.revision, reply.shards)
        self._query = None

    async def _queried(self) -> ShardsReply:
        suspects = tuple(sorted(self._asked))
        query = ShardsQuery(self._worker, self._incarnation, self.revision, suspects)
        return await ask(
            self._transport,
            self._base,
            SHARDS,
            query,
            ShardsReply,
            timeout_seconds=QUERY_TIMEOUT_SECONDS,
        )

    def _end(self, ending: Rejoin | StopTraining) -> None:
        """Whoever waits for a missing shard hears of it."""
        self._query, self._ending = None, ending
        for shard in self._missing:
            if shard in self._under_way:
                self._under_way[shard].cancel()
