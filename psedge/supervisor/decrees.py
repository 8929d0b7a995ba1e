"""Reigns on their way into force: written to the supervisor's store, then enacted, then told.

One at a time: what is proposed builds on the table as it is, and nothing of it is known to anybody
before it is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from psedge.protocol.errors import PsedgeError
from psedge.protocol.replicas import Reign
from psedge.supervisor.server_list import ServerList
from psedge.supervisor.shard_table import Decision, ServerRecord, ShardTable

if TYPE_CHECKING:
    from psedge.supervisor.book import Book

T = TypeVar("T")


def holders_of(reigns: Iterable[Reign]) -> set[int]:
    """Numbers of the servers that have a part in any of these."""
    return {
        peer.server for reign in reigns for peer in (reign.primary, *reign.backups, *reign.learners)
    }


def _unrecorded(decision: Decision) -> None:
    """Nobody wants to know."""


class Decrees:
    """The shard table of a run, with what makes it last.

    book: None: the run is over when the supervisor is. record: takes each decision before it is
    stored, so that the journal, which goes to the same store, can never lack it.
    """

    def __init__(self, servers: ServerList) -> None:
        self.table = ShardTable()
        self.book: Book | None = None
        self.record: Callable[[Decision], None] = _unrecorded
        self._servers = servers
        self._one_at_a_time = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def open(self, propose: Callable[[], Iterable[Decision]]) -> list[Decision]:
        """Several shards at once. Raises what the book raises; then nothing has changed."""
        return await self._whole(self._open(propose))

    async def decree(self, propose: Callable[[], Decision]) -> Decision:
        """propose: asked once the table stands still. Raises what it and the book raise."""
        return (await self.open(lambda: (propose(),)))[0]

    async def reserve(self, shard: int) -> int:
        """A term that no copy has heard of, for copies to promise; it has been stored."""
        return await self._whole(self._reserve(shard))

    async def save(self) -> None:
        """Store the table and the servers as they are."""
        await self._whole(self._save())

    async def _open(self, propose: Callable[[], Iterable[Decision]]) -> list[Decision]:
        async with self._one_at_a_time:
            decisions = list(propose())
            reigns: list[Reign] = [each.reign for each in decisions if each.reign is not None]
            for each in decisions:
                if each.reign is not None:
                    self.record(each)
            if reigns:
                if self.book is not None:
                    await self.book.save_shards(self.table.export(reigns), self._records(reigns))
                self.table.enact(*reigns)
            return decisions

    async def _reserve(self, shard: int) -> int:
        async with self._one_at_a_time:
            term = self.table.next_term(shard)
            if self.book is not None:
                state = self.table.export(reserved=((shard, term),))
                await self.book.save_shards(state, self._records())
            self.table.reserve(shard, term)
            return term

    async def _save(self) -> None:
        async with self._one_at_a_time:
            if self.book is not None:
                await self.book.save_shards(self.table.export(), self._records())

    def _records(self, reigns: Iterable[Reign] = ()) -> tuple[ServerRecord, ...]:
        """reigns: about to be enacted."""
        return self._servers.records(holders_of((*self.table.reigns(), *reigns)))

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Once it is begun it is finished, also if whoever asked for it is gone meanwhile: what is
        stored and what is in force must not part."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PsedgeError):
            # Whoever asked may be gone; a mistake in the program must not go unseen.
            raise error
