"""Telling servers who the live workers are: one round at a time for each of them.

Changes that come while a server answers wait and go out together with the next round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psedge.protocol.address import Address
from psedge.protocol.calls import ask
from psedge.protocol.errors import PsedgeError, UnreachableError
from psedge.protocol.messages import SHARD_MEMBERS
from psedge.protocol.ports import Transport
from psedge.protocol.shards import Members, ServerReport
from psedge.supervisor.server_list import ServerEntry

CONTROL_TIMEOUT_SECONDS = 10.0
#: Revision that a server reports of a shard whose backups have yet to acknowledge the members.
UNCONFIRMED = -1

#: The live workers: those that changed after a revision, or all of them for None.
Table = Callable[[int | None], Members]
#: Takes a server's report.
Take = Callable[[ServerEntry, ServerReport, float], None]


@dataclass(slots=True)
class _Round:
    """The latest one of a server. waits: it has yet to look at the table."""

    task: asyncio.Task[None] | None = None
    waits: bool = False


class MemberRounds:
    """Of all servers."""

    def __init__(
        self, transport: Transport, token: str, notify: Callable[[str], None], take: Take
    ) -> None:
        self._transport = transport
        self._token = token
        self._notify = notify
        self._take = take
        self._rounds: dict[int, _Round] = {}

    async def tell(
        self,
        entries: Sequence[ServerEntry],
        table: Table,
        now: Callable[[], float],
        seconds: float,
        moved: asyncio.Event,
    ) -> bool:
        """Return when all of them have answered, or after so many seconds.

        Afterwards a server's `revision` says which members its shards have shown to know.
        False: `moved` was set before that, so others have to be told.
        """
        pending = {self._next_round(entry, table, now) for entry in entries}
        if not pending:
            return True
        moving = asyncio.ensure_future(moved.wait())
        try:
            while pending and not moving.done():
                first = asyncio.FIRST_COMPLETED
                done, _ = await asyncio.wait({*pending, moving}, timeout=seconds, return_when=first)
                if not done:
                    return True
                for each in done & pending:
                    each.result()
                pending -= done
            return not pending
        finally:
            moving.cancel()

    def _next_round(
        self, entry: ServerEntry, table: Table, now: Callable[[], float]
    ) -> asyncio.Task[None]:
        """The one that will tell the server of everything up to this moment."""
        latest = self._rounds.setdefault(entry.server, _Round())
        if latest.task is None or not latest.waits:
            latest.waits = True
            latest.task = asyncio.ensure_future(self._round(entry, latest, latest.task, table, now))
        return latest.task

    async def _round(
        self,
        entry: ServerEntry,
        latest: _Round,
        before: asyncio.Task[None] | None,
        table: Table,
        now: Callable[[], float],
    ) -> None:
        try:
            if before is not None and not before.done():
                await asyncio.wait((before,))
        finally:
            latest.waits = False
        try:
            since = entry.revision if entry.revision >= 0 else None
            await self._tell(entry, table(since), now)
            if entry.revision < 0 and since is not None:
                await self._tell(entry, table(None), now)
        except UnreachableError:
            # Whether it is still there is found out in another way, and told.
            entry.revision = -1
        except PsedgeError as error:
            entry.revision = -1
            self._notify(f"server {entry.server} at {entry.url}: {error}")

    async def _tell(self, entry: ServerEntry, members: Members, now: Callable[[], float]) -> None:
        """Afterwards the entry's revision is -1 if the server lacks what `members` builds on, or
        does not answer for all of its shards; the one before if it is not confirmed yet."""
        report = await ask(
            self._transport,
            Address(entry.url, self._token),
            SHARD_MEMBERS,
            members,
            ServerReport,
            timeout_seconds=CONTROL_TIMEOUT_SECONDS,
        )
        self._take(entry, report, now())
        seen = [each.revision for each in report.shards if each.shard in entry.shards]
        if len(seen) == len(entry.shards) and min(seen, default=-1) >= members.revision:
            entry.revision = max(entry.revision, members.revision)
        elif UNCONFIRMED not in seen:
            entry.revision = -1
