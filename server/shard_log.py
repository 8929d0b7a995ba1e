"""The log of one shard on its way to disk: a queue of entries, and those who wait for it.

Whoever writes never waits: entries are queued, and one task at a time takes all that has gathered
and appends it at once. With `sync = "always"` it then forces them to disk, so that a hundred pushes
that come together cost one sync; with `group` that happens every `sync_seconds`, if there is
anything new.
While the disk is full or too slow, entries wait in memory. What would be too much for that is
dropped, and the log begins anew with a snapshot as soon as there is room: nothing is missing then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from psedge.protocol.errors import PsedgeError, RefusedError
from psedge.protocol.log_entry import Entry
from psedge.protocol.ports import Buffer, Clock
from psedge.protocol.replicas import Position
from psedge.protocol.shards import LogSettings, ShardOrder
from psedge.server.log_files import LogFiles, LogStart
from psedge.server.log_folder import LogFolder
from psedge.server.pauses import Pauses
from psedge.server.snapshot import encode_snapshot
from psedge.server.waiters import Waiters
from psedge.server.write_trouble import WriteTrouble

#: Most bytes that are appended at once.
BATCH_BYTES = 8 * 10**6
#: Most bytes of entries that wait for the disk.
WAITING_LIMIT_BYTES = 64 * 10**6
#: Between two tries to write entries, and to write a snapshot.
RETRY_SECONDS = 2.0
SNAPSHOT_RETRY_SECONDS = 30.0
#: A snapshot is wanted at this part of the log that is allowed: the rest is for what is logged
#: while it is written.
SNAPSHOT_AT = 0.9
#: An order and its arrays.
Image = tuple[ShardOrder, Mapping[str, NDArray[Any]]]
#: `index` of a log that holds nothing.
NOTHING = -1


@dataclass(frozen=True, slots=True)
class _Base:
    """A snapshot that all there is will be replaced by."""

    lineage: int
    at: Position
    parts: Sequence[Buffer]


class ShardLog:
    """index: up to which entries are in the log as the setting means it: appended to its file, with
    `always` on disk. -1 before the first `begin` is on disk.

    image: makes what `snapshot` takes. With it a log that is in trouble mends itself, and is whole
    when it is closed, even if nobody pushes any more; without it the next push does that.
    """

    def __init__(
        self,
        folder: LogFolder,
        run: str,
        shard: int,
        settings: LogSettings,
        clock: Clock,
        trouble: WriteTrouble,
        notify: Callable[[str], None],
        start: LogStart,
    ) -> None:
        self.index = start.at.index if start.at is not None else NOTHING
        self.image: Callable[[], Image] | None = None
        self.shard = shard
        self.lineage = start.lineage
        self._run = run
        self.settings = settings
        self._clock = clock
        self._trouble = trouble
        # What may fail by itself, in words: a sync that works says nothing of what is to come.
        self._what = f"the log of shard {shard}"
        self._newest = f"the newest of {self._what}"
        self._snapshot = f"a snapshot of shard {shard}"
        self._notify = notify
        self._files = LogFiles(folder, run, shard, start, settings.segment_bytes)
        # The latest entry that was given to `write`, and the latest one in the files.
        self._latest = self._written = start.at
        self._waiting: deque[Entry] = deque()
        self._waiting_bytes = 0
        # Changes when what a task has in hand is no longer the beginning of what waits.
        self._generation = 0
        self._base: _Base | None = None
        # Bytes of entries since the newest snapshot.
        self._tail_bytes = start.tail_bytes
        self._retry_snapshot_at = clock.now()
        self._told_slow = False
        # Whether the latest write failed.
        self._failing = False
        self._waiters = Waiters()
        self._writer: asyncio.Task[None] | None = None
        self._syncer: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._snapshotting: asyncio.Task[None] | None = None
        self._pauses = Pauses(clock)
        # Why nothing is written any more, for those who wait.
        self._end: Exception | None = None
        self._crash: BaseException | None = None

    def begin(self, order: ShardOrder, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Start the log anew from an image; what was before counts no more once this is on disk."""
        self.index = NOTHING
        self._waiting.clear()
        self._waiting_bytes = 0
        self._latest = order.at
        self._waiters.fail(RefusedError("not-primary", f"shard {self.shard} was replaced here"))
        self._replace(order, arrays)

    def write(self, entries: Sequence[Entry]) -> None:
        """Append or queue entries, which follow the latest ones. Never waits."""
        if self._crash is not None:
            raise self._crash
        if self._end is not None or not entries:
            return
        for entry in entries:
            if self._latest is None or entry.index != self._latest.index + 1:
                raise ValueError(f"entry {entry.index} does not follow {self._latest}")
            self._latest = Position(entry.term, entry.index)
            self._waiting.append(entry)
            self._waiting_bytes += entry.size
        self._tail_bytes += sum(entry.size for entry in entries)
        # With `always` those who pushed wait, so no more than their pushes can gather here.
        if self._waiting_bytes > WAITING_LIMIT_BYTES and self.settings.sync == "group":
            self._shed()
        if not self._write_now(entries):
            self._start_writing()

    def adopt(self, settings: LogSettings) -> None:
        """Go on under other settings, as those of a new assignment."""
        self.settings = settings
        self._files.segment_bytes = settings.segment_bytes

    def holds(self, index: int) -> asyncio.Future[None]:
        """Done once `index` is in the log, see `index`.

        Fails with RefusedError when it never will be: the log was closed, dropped, or begun anew.
        """
        future = self._waiters.wait(index)
        if self.index >= index:
            self._waiters.release(self.index)
        elif self._end is not None:
            self._waiters.fail(self._end)
        return future

    @property
    def wants_snapshot(self) -> bool:
        """Whether there is so much log that `snapshot` should be called."""
        if self._end is not None or self._clock.now() < self._retry_snapshot_at:
            return False
        if self._broken:
            return True
        enough = self._tail_bytes >= SNAPSHOT_AT * self.settings.snapshot_bytes
        return enough and self._base is None and self._snapshotting is None

    def snapshot(self, order: ShardOrder, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a snapshot; log files that it makes superfluous are removed afterwards.

        order: an image as of now; entries after `order.at` are part of the log already.
        """
        if self._end is not None or self._latest is None or order.at.index > self._latest.index:
            return
        behind = self._broken or self._failing or self._waiting_bytes > BATCH_BYTES
        if behind and self._reaches(order.at):
            # Whatever waits for a disk that does not take it is superfluous once this is there.
            self._retry_snapshot_at = self._clock.now() + SNAPSHOT_RETRY_SECONDS
            self._replace(order, arrays)
        elif not self._broken and self._base is None and self._snapshotting is None:
            parts = encode_snapshot(self._run, self.lineage, order, arrays)
            self._files.new_segment_at(self._latest.index + 1)
            work = self._write_snapshot(order.at.index, parts, self._tail_bytes)
            self._snapshotting = self._task(work)

    async def close(self) -> None:
        """Write what waits, if the disk takes it, and force it to disk."""
        if self._end is None and (self._broken or self._failing):
            self._take_image()
        end = self._stop(RefusedError("stopped", "the server stops"))
        self._start_writing()
        await self._ended()
        await self._trouble.attempt(self._newest, self._files.sync())
        await self._files.close()
        if self._waiting or self._base is not None or self._broken:
            self._notify(
                f"what is new in {self._what} could not be written: it is lost unless another "
                "server has it"
            )
        self._waiters.fail(end)
        self._forget_trouble()

    async def drop(self) -> None:
        """Stop writing; returns when no task touches the files any more."""
        gone = RefusedError("not-primary", f"shard {self.shard} is not on this server")
        self._waiting.clear()
        self._base = None
        self._waiters.fail(self._stop(gone))
        await self._ended()
        await self._files.close()
        self._forget_trouble()

    def _forget_trouble(self) -> None:
        for what in (self._what, self._newest, self._snapshot):
            self._trouble.over(what)

    @property
    def _broken(self) -> bool:
        """Whether the files cannot be continued by what waits: they need a new beginning."""
        if self.settings.sync == "group" and self._files.doubtful and self._base is None:
            return True
        at = self._base.at if self._base is not None else self._written
        return at is not None and bool(self._waiting) and self._waiting[0].index != at.index + 1

    def _reaches(self, at: Position) -> bool:
        """Whether all entries after `at` are in memory."""
        if self._waiting:
            return self._waiting[0].index <= at.index + 1
        return at == self._latest

    def _replace(self, order: ShardOrder, arrays: Mapping[str, NDArray[Any]]) -> None:
        while self._waiting and self._waiting[0].index <= order.at.index:
            self._waiting_bytes -= self._waiting.popleft().size
        self.lineage += 1
        self._generation += 1
        self._tail_bytes = self._waiting_bytes
        parts = encode_snapshot(self._run, self.lineage, order, arrays)
        self._base = _Base(self.lineage, order.at, parts)
        self._start_writing()

    def _shed(self) -> None:
        """Drop what waits longest; the next snapshot will make up for it."""
        if not self._told_slow:
            self._told_slow = True
            self._notify(
                f"the disk does not keep up with {self._what}: {self._waiting_bytes:,} bytes wait; "
                "a new snapshot will stand for them"
            )
        self._generation += 1
        while self._waiting_bytes > WAITING_LIMIT_BYTES // 2 and len(self._waiting) > 1:
            self._waiting_bytes -= self._waiting.popleft().size

    def _take_image(self) -> None:
        """Take a snapshot by itself, since nobody may push while the log is in trouble."""
        if self.image is not None:
            # In the middle of a round there may be none; the next try is not far.
            with contextlib.suppress(RefusedError):
                self.snapshot(*self.image())

    def _start_writing(self) -> None:
        if self._writer is None and self._has_work:
            self._writer = self._task(self._work())

    @property
    def _has_work(self) -> bool:
        if self._base is not None:
            return True
        if self._broken:
            return self.image is not None and self._end is None
        return bool(self._waiting)

    async def _work(self) -> None:
        try:
            while self._has_work:
                if not (self._broken and self._base is None):
                    step = self._write_base if self._base is not None else self._write_batch
                    self._failing = not await self._trouble.attempt(self._what, step())
                    if not self._failing:
                        continue
                if self._end is not None:
                    break
                await self._pauses.wait(RETRY_SECONDS)
                if self.wants_snapshot:
                    self._take_image()
        finally:
            self._writer = None

    async def _write_base(self) -> None:
        base = self._base
        assert base is not None
        if self._snapshotting is not None:
            await asyncio.wait({self._snapshotting})
        await self._files.begin(base.lineage, base.at, base.parts)
        self._trouble.over(self._newest)
        if self._base is base:
            self._base, self._written, self._told_slow = None, base.at, False
            self._retry_snapshot_at = self._clock.now()
            self._raise_index(base.at.index)

    async def _write_batch(self) -> None:
        generation, size = self._generation, 0
        batch: list[Entry] = []
        limit = min(BATCH_BYTES, self.settings.segment_bytes)
        for entry in self._waiting:
            if batch and (size + entry.size > limit or not self._files.fits(entry.index)):
                break
            batch.append(entry)
            size += entry.size
        assert self._written is not None
        await self._files.append(batch, self._written.term)
        if self.settings.sync == "always":
            await self._files.sync()
            self._trouble.over(self._newest)
        if generation == self._generation:
            self._wrote(batch)

    def _write_now(self, entries: Sequence[Entry]) -> bool:
        """Append what nothing waits in front of, if the disk takes it at once."""
        alone = self._writer is None and self._base is None and len(self._waiting) == len(entries)
        if self.settings.sync != "group" or not alone or self._broken:
            return False
        if not self._files.append_now(entries):
            return False
        self._wrote(entries)
        return True

    def _wrote(self, batch: Sequence[Entry]) -> None:
        """The first entries of what waits are in the files, as the setting means it."""
        for _ in batch:
            self._waiting_bytes -= self._waiting.popleft().size
        self._written = Position(batch[-1].term, batch[-1].index)
        self._raise_index(batch[-1].index)
        if self._syncer is None and self._files.unsynced:
            self._syncer = self._task(self._keep_synced())
        if self._closer is None and self._files.behind:
            self._closer = self._task(self._sync_complete())

    async def _keep_synced(self) -> None:
        try:
            while self._files.unsynced and self._end is None:
                await self._pauses.wait(self.settings.sync_seconds)
                await self._trouble.attempt(self._newest, self._files.sync())
            self._start_writing()
        finally:
            self._syncer = None

    async def _sync_complete(self) -> None:
        """Force to disk what is complete, so that the next segment need not wait for it."""
        try:
            await self._trouble.attempt(self._newest, self._files.sync())
            self._start_writing()
        finally:
            self._closer = None

    async def _write_snapshot(self, index: int, parts: Sequence[Buffer], older_bytes: int) -> None:
        """older_bytes: of the log that the snapshot makes up for."""
        try:
            if await self._trouble.attempt(self._snapshot, self._files.snapshot(index, parts)):
                self._tail_bytes = max(0, self._tail_bytes - older_bytes)
                await self._trouble.attempt(self._snapshot, self._files.prune())
            else:
                self._retry_snapshot_at = self._clock.now() + SNAPSHOT_RETRY_SECONDS
        finally:
            self._snapshotting = None

    def _raise_index(self, index: int) -> None:
        self.index = max(self.index, index)
        self._waiters.release(self.index)

    def _stop(self, why: Exception) -> Exception:
        self._end = self._end or why
        self._pauses.end()
        return self._end

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """What is no OSError is a mistake in psedge, and must not pass for a written log."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash = error
            self._waiters.fail(self._stop(PsedgeError(f"{self._what} stopped: {error!r}")))

    async def _ended(self) -> None:
        while tasks := {
            task
            for task in (self._writer, self._syncer, self._closer, self._snapshotting)
            if task is not None
        }:
            await asyncio.wait(tasks)
