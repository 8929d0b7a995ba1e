"""A folder of a disk, as a Storage of its own: what a program is given that may use no more."""

from __future__ import annotations

from collections.abc import Sequence

from psedge.protocol.ports import AppendFile, Buffer, Storage


class DiskFolder:
    """A Storage over another one, below `folder`."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    async def read(self, path: str) -> bytes:
        return await self._storage.read(self._place(path))

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        await self._storage.write_atomic(self._place(path), parts)

    async def append(self, path: str, data: Buffer) -> None:
        await self._storage.append(self._place(path), data)

    async def open_append(self, path: str) -> AppendFile:
        return await self._storage.open_append(self._place(path))

    async def sync(self, path: str) -> None:
        await self._storage.sync(self._place(path))

    async def names(self, folder: str) -> list[str]:
        return await self._storage.names(self._place(folder))

    async def remove(self, path: str) -> None:
        await self._storage.remove(self._place(path))

    def _place(self, path: str) -> str:
        return f"{self._folder}/{path}"
