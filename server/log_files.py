"""The files of a log that is being written: when a segment ends, and which files are still needed.

A segment is forced to disk while the next one is appended to already, but no third one is begun
before: what a power cut takes is bounded, however slow the disk is.
Nothing is tried twice here. After a write or a sync that failed nobody knows what of it is in the
file, so that segment is never written to again: the next entries go to a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from psedge.protocol.log_entry import Entry, encode_entry
from psedge.protocol.ports import AppendFile, Buffer
from psedge.protocol.replicas import Position
from psedge.server.log_folder import LogFolder
from psedge.server.segment import SegmentHeader, encode_segment_header, segment_name
from psedge.server.snapshot import snapshot_name

#: The newest one, and the one before it in case the newest cannot be read one day.
KEPT_SNAPSHOTS = 2


@dataclass(frozen=True, slots=True)
class LogStart:
    """A log as it was found on disk.

    lineage: the highest that was seen, 0 if there is no log. at: the latest entry that can be
    reached, None if nothing can be recovered. snapshots, segments: the indexes in their names,
    rising, of those that belong together. discard: names of all other files. tail_bytes: of the
    entries after the newest snapshot.
    """

    lineage: int = 0
    at: Position | None = None
    snapshots: tuple[int, ...] = ()
    segments: tuple[int, ...] = ()
    discard: tuple[str, ...] = ()
    tail_bytes: int = 0


class LogFiles:
    """doubtful: a sync failed, so entries that were appended may not be on disk.

    unsynced: whether there is anything that `sync` would force to disk.
    behind: whether a segment that is complete may not be on disk yet.
    """

    def __init__(
        self, folder: LogFolder, run: str, shard: int, start: LogStart, segment_bytes: int
    ) -> None:
        self.doubtful = False
        self.segment_bytes = segment_bytes
        self._folder = folder
        self._run = run
        self._shard = shard
        self._lineage = start.lineage
        self._snapshots = list(start.snapshots)
        self._segments = list(start.segments)
        self._discard = list(start.discard)
        # The segment that is appended to, what it holds, and its file once that is open.
        self._open: int | None = None
        self._size = 0
        self._file: AppendFile | None = None
        # The segments to force to disk, and those that a `sync` has in hand; the oldest first.
        self._unsynced: list[int] = []
        self._forcing: list[int] = []
        self._syncing = asyncio.Lock()
        self._new_segment_at = 0

    @property
    def unsynced(self) -> bool:
        return bool(self._unsynced)

    @property
    def behind(self) -> bool:
        return any(each != self._open for each in (*self._forcing, *self._unsynced))

    async def begin(self, lineage: int, at: Position, parts: Sequence[Buffer]) -> None:
        """Replace all there is by a snapshot. Afterwards it is on disk, and the old is not."""
        self._lineage = lineage
        await self.close()
        self._unsynced = []
        await self._folder.write_snapshot(at.index, parts)
        for name in await self._folder.names():
            if name != snapshot_name(at.index):
                await self._folder.remove(name)
        self._snapshots, self._segments, self._discard = [at.index], [], []
        self.doubtful = False
        self._new_segment_at = 0
        # A new file makes the removals last: nothing old can come back beside new entries.
        await self._create(at.index + 1, at.term)

    def new_segment_at(self, index: int) -> None:
        """Let a segment begin with this entry, so that a snapshot before it frees whole files."""
        self._new_segment_at = index

    def fits(self, index: int) -> bool:
        """Whether the entry of this index may go where the one before it went."""
        return self._open is None or not self._open < self._new_segment_at <= index

    def append_now(self, entries: Sequence[Entry]) -> bool:
        """As `append`, at once. False: that takes time, or did not work; nothing counts as written.

        What cannot be written is for `append` to find out again, and to say.
        """
        if self._file is None or not self._size or not self._continues(entries[0].index):
            return False
        try:
            if not self._file.append_now(_encoded(entries)):
                return False
        except OSError:
            # The entries before are in it, so there is nothing to remove.
            self._leave()
            return False
        assert self._open is not None
        self._appended(self._open, entries)
        return True

    async def append(self, entries: Sequence[Entry], term_before: int) -> None:
        """Write entries that follow each other. term_before: of the entry before the first."""
        first = entries[0].index
        header: list[Buffer] = []
        if self._open is not None and not self._continues(first) and not self._discard:
            await self._turn_to(first)
            header = [encode_segment_header(self._header(first, term_before))]
        elif not self._continues(first):
            await self.sync()
            await self._tidy()
            await self._create(first, term_before)
        segment, file = self._open, self._file
        assert segment is not None
        if file is None:
            file = self._file = await self._folder.open_segment(segment)
        parts = header + _encoded(entries)
        try:
            if not file.append_now(parts):
                await file.append(parts)
        except OSError:
            await self._give_up(segment)
            raise
        # A sync that began while this was appended may have left it out.
        self._appended(segment, entries)

    async def sync(self) -> None:
        """Force to disk what was appended before this was called."""
        async with self._syncing:
            self._forcing, self._unsynced = self._unsynced, []
            while self._forcing:
                await self._force(self._forcing[0])
                del self._forcing[:1]

    async def close(self) -> None:
        """Nothing is appended any more, or to another segment."""
        file = self._file
        self._leave()
        if file is not None:
            try:
                await file.close()
            except OSError:
                self.doubtful = True

    async def snapshot(self, index: int, parts: Sequence[Buffer]) -> None:
        """Write a snapshot as of this entry."""
        await self._folder.write_snapshot(index, parts)
        self._snapshots = sorted({*self._snapshots, index})

    async def prune(self) -> None:
        """Remove what the kept snapshots do not need."""
        for index in self._snapshots[:-KEPT_SNAPSHOTS]:
            await self._folder.remove(snapshot_name(index))
            self._snapshots.remove(index)
        needed = self._snapshots[0] + 1
        # A sync that looked for a file in the same moment would take its removal for a failure.
        async with self._syncing:
            for first, following in list(itertools.pairwise(self._segments)):
                if following <= needed:
                    await self._folder.remove(segment_name(first))
                    self._segments.remove(first)
                    if first in self._unsynced:
                        self._unsynced.remove(first)

    def _continues(self, index: int) -> bool:
        """Whether the entry of this index goes into the segment that is open."""
        return self._open is not None and self._size < self.segment_bytes and self.fits(index)

    def _appended(self, segment: int, entries: Sequence[Entry]) -> None:
        if segment not in self._unsynced:
            self._unsynced.append(segment)
        self._size += sum(entry.size for entry in entries)

    async def _turn_to(self, first: int) -> None:
        """Open the next segment; the one before is complete."""
        if self.behind:
            await self.sync()
        file = await self._folder.open_segment(first)
        await self.close()
        self._segments.append(first)
        self._open, self._size, self._file = first, 0, file

    async def _force(self, segment: int) -> None:
        lineage = self._lineage
        try:
            await self._folder.sync(segment)
        except OSError:
            if lineage != self._lineage:
                return  # A new beginning has removed the file meanwhile.
            self.doubtful = True
            if self._open == segment:
                self._leave()
            self._unsynced = sorted({*self._forcing[1:], *self._unsynced})
            self._forcing = []
            raise

    def _leave(self) -> None:
        """The next entries go to another segment; an append to this one may be under way."""
        self._open = self._file = None

    async def _give_up(self, segment: int) -> None:
        """Never write to a segment again; one that held nothing yet gives its room back."""
        self._leave()
        if self._size == 0:
            self._segments.remove(segment)
            with contextlib.suppress(OSError):
                await self._folder.remove(segment_name(segment))

    async def _tidy(self) -> None:
        """Remove what was found in the folder and is no part of the log."""
        for name in list(self._discard):
            await self._folder.remove(name)
            self._discard.remove(name)

    async def _create(self, first: int, term_before: int) -> None:
        await self.close()
        await self._folder.create_segment(self._header(first, term_before))
        # One of the same name held nothing that counts: a write to it had failed.
        self._segments = [each for each in self._segments if each < first] + [first]
        self._open, self._size = first, 0

    def _header(self, first: int, term_before: int) -> SegmentHeader:
        return SegmentHeader(self._run, self._shard, self._lineage, first, term_before)


def _encoded(entries: Sequence[Entry]) -> list[Buffer]:
    return [part for entry in entries for part in encode_entry(entry)]
