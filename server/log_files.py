"""The files of a log that is being written: when a segment ends, and which files are still needed.

Nothing is tried twice here. After a write or a sync that failed nobody knows what of it is in the
file, so that segment is never written to again: the next entries go to a new one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from psedge.protocol.log_entry import Entry, encode_entry
from psedge.protocol.ports import Buffer
from psedge.protocol.replicas import Position
from psedge.server.log_folder import LogFolder
from psedge.server.segment import SegmentHeader, segment_name
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
        # The segment that is appended to, and what it holds; the one to sync, if any.
        self._open: int | None = None
        self._size = 0
        self._unsynced: int | None = None
        self._new_segment_at = 0

    @property
    def unsynced(self) -> bool:
        return self._unsynced is not None

    async def begin(self, lineage: int, at: Position, parts: Sequence[Buffer]) -> None:
        """Replace all there is by a snapshot. Afterwards it is on disk, and the old is not."""
        self._lineage = lineage
        self._open = self._unsynced = None
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

    async def append(self, entries: Sequence[Entry], term_before: int) -> None:
        """Write entries that follow each other. term_before: of the entry before the first."""
        first = entries[0].index
        if self._open is None or self._size >= self.segment_bytes or not self.fits(first):
            await self.sync()
            await self._tidy()
            await self._create(first, term_before)
        assert self._open is not None
        data = b"".join(part for entry in entries for part in encode_entry(entry))
        segment, self._unsynced = self._open, self._open
        try:
            await self._folder.append(segment, data)
        except OSError:
            await self._give_up(segment)
            raise
        # A sync that began while this was appended may have left it out.
        self._unsynced = segment
        self._size += len(data)

    async def sync(self) -> None:
        """Force to disk what was appended."""
        segment, lineage = self._unsynced, self._lineage
        if segment is None:
            return
        self._unsynced = None
        try:
            await self._folder.sync(segment)
        except OSError:
            if lineage != self._lineage:
                return  # A new beginning has removed the file meanwhile.
            self.doubtful = True
            if self._open == segment:
                self._open = None
            raise

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
        for first, following in list(itertools.pairwise(self._segments)):
            if following <= needed:
                await self._folder.remove(segment_name(first))
                self._segments.remove(first)

    async def _give_up(self, segment: int) -> None:
        """Never write to a segment again; one that held nothing yet gives its room back."""
        self._open = None
        if self._size == 0:
            self._unsynced = None
            self._segments.remove(segment)
            with contextlib.suppress(OSError):
                await self._folder.remove(segment_name(segment))

    async def _tidy(self) -> None:
        """Remove what was found in the folder and is no part of the log."""
        for name in list(self._discard):
            await self._folder.remove(name)
            self._discard.remove(name)

    async def _create(self, first: int, term_before: int) -> None:
        header = SegmentHeader(self._run, self._shard, self._lineage, first, term_before)
        await self._folder.create_segment(header)
        # One of the same name held nothing that counts: a write to it had failed.
        self._segments = [each for each in self._segments if each < first] + [first]
        self._open, self._size = first, 0
