"""Reads a shard's log back from its folder: the newest sound snapshot and the entries after it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from psedge.protocol.errors import FrameError
from psedge.protocol.log_entry import Entry
from psedge.protocol.shards import ShardOrder
from psedge.server.log_files import LogStart
from psedge.server.log_folder import LogFolder
from psedge.server.log_reader import LogReader
from psedge.server.segment import decode_segment_header, first_of, segment_name
from psedge.server.snapshot import Snapshot, index_of, snapshot_name


@dataclass(frozen=True, slots=True)
class Recovered:
    """A shard as it was found on disk. entries: what came after the state in `order`.

    damage: why it certainly had more entries than these, in words; empty if it may have had none.
    """

    order: ShardOrder
    arrays: dict[str, NDArray[Any]]
    entries: list[Entry]
    damage: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a shard's folder came to.

    shard: None if there is nothing to go on from. notes: sentences about what was lost.
    """

    recovered: Recovered | None
    start: LogStart
    notes: list[str]


@dataclass(frozen=True, slots=True)
class SoundSnapshot:
    """A snapshot that was read and is what was written."""

    index: int
    snapshot: Snapshot
    arrays: dict[str, NDArray[Any]]


class LogContents:
    """The files of a shard's folder, by what they hold.

    snapshots, segments: the indexes in their names, rising. damaged: why a snapshot could not be
    read, by its index.
    """

    def __init__(self, folder: LogFolder, names: list[str]) -> None:
        self.folder = folder
        self.names = names
        self.snapshots = sorted(i for name in names if (i := index_of(name)) is not None)
        self.segments = sorted(i for name in names if (i := first_of(name)) is not None)
        self.damaged: dict[int, str] = {}

    @classmethod
    async def of(cls, folder: LogFolder) -> LogContents:
        return cls(folder, await folder.names())

    async def sound_snapshot(self, index: int) -> SoundSnapshot | None:
        """None: it is damaged, and `damaged` says how."""
        try:
            snapshot, arrays = await self.folder.read_snapshot(index)
        except FrameError as error:
            self.damaged[index] = str(error)
            return None
        if snapshot.order.at.index != index:
            self.damaged[index] = f"it is of entry {snapshot.order.at.index}"
            return None
        return SoundSnapshot(index, snapshot, arrays)

    async def entries(
        self, reader: LogReader, *, all_files: bool = False
    ) -> AsyncIterator[list[Entry]]:
        """The entries behind the reader's position, segment by segment.

        all_files: look into those too that should hold nothing but earlier ones.
        """
        before = [first for first in self.segments if first <= reader.at.index + 1]
        for first in self.segments[0 if all_files else max(0, len(before) - 1) :]:
            content = await self.folder.read_segment(first)
            yield reader.add(self.folder.place(segment_name(first)), content)


async def recover(folder: LogFolder, run: str, shard: int) -> Found:
    """What there is of a shard. Raises OSError if a file cannot be read at all."""
    contents = await LogContents.of(folder)
    best: SoundSnapshot | None = None
    sound: list[tuple[int, int]] = []
    for index in reversed(contents.snapshots):
        found = await contents.sound_snapshot(index)
        if found is None or not _belongs(found, run, shard, contents):
            continue
        sound.append((found.snapshot.lineage, index))
        if best is None or found.snapshot.lineage > best.snapshot.lineage:
            best = found
    if best is None:
        return await _nothing(contents, shard)
    lineage = best.snapshot.lineage
    reader = LogReader(run, shard, lineage, best.snapshot.order.at)
    entries = [entry async for some in contents.entries(reader) for entry in some]
    if reader.stale:
        # Left of a log that was replaced, and perhaps in front of a file that is still needed.
        reader = LogReader(run, shard, lineage, best.snapshot.order.at)
        whole = contents.entries(reader, all_files=True)
        entries = [entry async for some in whole for entry in some]
    if reader.newer:
        contents.damaged[best.index] = f"{reader.newer} is of a log that replaced it"
        return await _nothing(contents, shard)
    kept = sorted(index for each, index in sound if each == lineage)
    return Found(
        Recovered(best.snapshot.order, best.arrays, entries, _damage(contents, reader)),
        _start(contents, reader, lineage, kept),
        _notes(contents, reader, best.index, shard),
    )


def _belongs(found: SoundSnapshot, run: str, shard: int, contents: LogContents) -> bool:
    snapshot = found.snapshot
    if snapshot.run == run and snapshot.order.assignment.shard == shard:
        return True
    contents.damaged[found.index] = (
        f"it is of shard {snapshot.order.assignment.shard} of run {snapshot.run!r}"
    )
    return False


def _start(
    contents: LogContents, reader: LogReader, lineage: int, snapshots: list[int]
) -> LogStart:
    segments = tuple(
        first
        for first in contents.segments
        if first <= reader.at.index
        and contents.folder.place(segment_name(first)) not in reader.stale
    )
    kept = {*map(snapshot_name, snapshots), *map(segment_name, segments)}
    return LogStart(
        lineage=lineage,
        at=reader.at,
        snapshots=tuple(snapshots),
        segments=segments,
        discard=tuple(name for name in contents.names if name not in kept),
        tail_bytes=reader.taken_bytes,
    )


def _notes(contents: LogContents, reader: LogReader, taken: int, shard: int) -> list[str]:
    notes = []
    for index in sorted(contents.damaged, reverse=True):
        place = contents.folder.place(snapshot_name(index))
        note = f"the snapshot {place} is not used ({contents.damaged[index]})"
        if index > taken:
            note += f"; shard {shard} goes on from the one of entry {taken}"
        if index > reader.at.index:
            note += (
                f", and the log reaches only to entry {reader.at.index}: entries "
                f"{reader.at.index + 1} to {index} at least are lost"
            )
        notes.append(note)
    if reader.loss is not None:
        notes.append(reader.loss.sentence(shard))
    return notes


def _damage(contents: LogContents, reader: LogReader) -> str:
    """What shows that there were more entries than could be read."""
    if reader.loss is not None and reader.loss.after:
        return reader.loss.found()
    for index, why in sorted(contents.damaged.items(), reverse=True):
        if index > reader.at.index:
            return f"the snapshot {contents.folder.place(snapshot_name(index))} is not used ({why})"
    return ""


async def _nothing(contents: LogContents, shard: int) -> Found:
    """A folder from which no shard can be made; a new beginning there must outlive what is left."""
    lineage = 0
    for first in contents.segments:
        content = await contents.folder.read_segment(first)
        try:
            header, _ = decode_segment_header(memoryview(content))
        except FrameError:
            continue
        lineage = max(lineage, header.lineage)
    notes = []
    if contents.names:
        why = "; ".join(
            f"{contents.folder.place(snapshot_name(index))}: {why}"
            for index, why in sorted(contents.damaged.items())
        )
        notes.append(
            f"shard {shard} cannot be recovered from {contents.folder.path}: it holds no snapshot "
            f"that could be used ({why or 'there is none'})"
        )
    return Found(None, LogStart(lineage=lineage, discard=tuple(contents.names)), notes)
