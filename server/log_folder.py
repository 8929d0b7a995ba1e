"""The folder of one shard's log: which files are in it, and how they are read and written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from psedge.protocol.ports import AppendFile, Buffer, Storage
from psedge.server.segment import (
    SegmentHeader,
    encode_segment_header,
    first_of,
    segment_name,
)
from psedge.server.snapshot import Snapshot, decode_snapshot, index_of, snapshot_name


def shard_folder(shard: int) -> str:
    return f"shard-{shard}"


class LogFolder:
    """Files by what they hold; every method raises OSError as the Storage does.

    path: relative to the storage's root, empty for the root itself.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self.path = path
        self._storage = storage

    async def names(self) -> list[str]:
        """Of snapshots and segments; nothing else in the folder is ever touched."""
        names = await self._storage.names(self.path or ".")
        return [name for name in names if first_of(name) is not None or index_of(name) is not None]

    async def read_snapshot(self, index: int) -> tuple[Snapshot, dict[str, NDArray[Any]]]:
        """Raises FrameError if it is not what was written."""
        return decode_snapshot(await self._storage.read(self.place(snapshot_name(index))))

    async def write_snapshot(self, index: int, parts: Sequence[Buffer]) -> None:
        await self._storage.write_atomic(self.place(snapshot_name(index)), parts)

    async def read_segment(self, first: int) -> bytes:
        return await self._storage.read(self.place(segment_name(first)))

    async def create_segment(self, header: SegmentHeader) -> None:
        """A segment without entries, on disk; so are all removals in this folder before it."""
        place = self.place(segment_name(header.first))
        await self._storage.write_atomic(place, [encode_segment_header(header)])

    async def open_segment(self, first: int) -> AppendFile:
        """A segment to append to; a new one begins with a header of its own."""
        return await self._storage.open_append(self.place(segment_name(first)))

    async def sync(self, first: int) -> None:
        await self._storage.sync(self.place(segment_name(first)))

    async def remove(self, name: str) -> None:
        await self._storage.remove(self.place(name))

    async def remove_all(self) -> None:
        await self._storage.remove(self.path)

    def place(self, name: str) -> str:
        """A file's path for the Storage, and for people."""
        return f"{self.path}/{name}" if self.path else name
