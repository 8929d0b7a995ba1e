"""A supervisor that dies and is started anew, asked as workers and servers ask it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from supervisor_rig import Rig

from psedge.protocol import messages
from psedge.protocol.status import Status
from psedge.supervisor.book import Book
from psedge.supervisor.checkpoint import Checkpoint, CheckpointStore
from psedge.supervisor.sqlite_store import FILE, SqliteStore


class Life(Rig):
    """A rig whose supervisor has a book, dies and is started anew."""

    def __init__(self, folder: Path, **cluster: Any) -> None:
        super().__init__(folder, heartbeat_seconds=0.02, **cluster)
        self.watching: asyncio.Future[None] | None = None

    async def begin(self) -> None:
        await self.reborn()
        await self.started()

    async def reborn(self, **fields: Any) -> None:
        """As after SIGKILL: what the old one has not stored is gone."""
        self.die()
        store = await SqliteStore.open(self.folder / FILE, self.notes.append)
        bits = iter(range(1, 99))
        book = await Book.open(store, self.clock, self.notes.append, lambda _: next(bits))
        self.supervise(book, **fields)
        self.watching = asyncio.ensure_future(self.supervisor.run())

    async def end(self) -> None:
        """Stop the run in order."""
        assert self.watching is not None
        await self.ask(messages.STOP, messages.Stop("enough"))
        for worker in (0, 1):
            await self.ask(messages.LEAVE, messages.Leave(worker, 1 + worker))
        for server in (0, 1):
            await self.beat(server)
        await self.watching

    def die(self) -> None:
        if self.watching is not None:
            self.watching.cancel()

    async def checkpoint(self) -> Checkpoint:
        """Written now."""
        keeper = self.supervisor._keeper
        state = self.supervisor.state
        await keeper._save(state, await keeper._gather(state))
        checkpoint = await CheckpointStore(self.disk, 2, pytest.fail).latest()
        assert checkpoint is not None
        return checkpoint

    async def servers_come_back(self, *servers: int) -> None:
        """These, or all of them."""
        for server in servers or range(len(self.services)):
            service = self.services[server]
            reply = await self.ask(messages.SERVER_HEARTBEAT, service.report())
            assert reply.command == "register"
            await self.register(server)
            await self.beat(server)

    async def wait_for(self, what: Any) -> Status:
        for _ in range(1000):
            status = await self.status()
            if what(status):
                return status
            self.clock.seconds += 0.1
            await asyncio.sleep(0.005)
        raise AssertionError(await self.status())


def forget(folder: Path) -> None:
    """The book is lost."""
    for file in folder.glob(FILE + "*"):
        file.unlink()
