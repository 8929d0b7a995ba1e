"""A disk that says when a checkpoint is complete, and what is added to the figures of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from psedge.protocol.ports import AppendFile, Buffer, Storage
from psedge.supervisor.checkpoint import META_FILE
from psedge.supervisor.run_rows import METRICS_FILE


class WatchedStorage:
    """A Storage over another one.

    written: called after each complete checkpoint. recorded: called with lines of metrics.jsonl
    before they are written.
    """

    def __init__(
        self, storage: Storage, written: Callable[[], None], recorded: Callable[[bytes], None]
    ) -> None:
        self._storage = storage
        self._written = written
        self._recorded = recorded

    async def read(self, path: str) -> bytes:
        return await self._storage.read(path)

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        await self._storage.write_atomic(path, parts)
        if path.endswith(META_FILE):
            self._written()

    async def append(self, path: str, data: Buffer) -> None:
        if path == METRICS_FILE:
            self._recorded(bytes(data))
        await self._storage.append(path, data)

    async def open_append(self, path: str) -> AppendFile:
        return await self._storage.open_append(path)

    async def sync(self, path: str) -> None:
        await self._storage.sync(path)

    async def names(self, folder: str) -> list[str]:
        return await self._storage.names(folder)

    async def remove(self, path: str) -> None:
        await self._storage.remove(path)
