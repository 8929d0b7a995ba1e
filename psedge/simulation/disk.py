"""A virtual disk: a Storage that takes time, fills up, rots, and forgets what was not synced.

It does step by step what `psedge.protocol.disk` does on a real one: a file is written as a draft,
synced, renamed, and its folder synced; what is appended stays in the page cache until it is synced
or the kernel writes it back. As there, an operation goes on when its caller is cancelled: it runs
in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, TypeVar

from psedge.protocol.ports import Buffer
from psedge.protocol.storage_path import DRAFT_SUFFIX, parts_below
from psedge.protocol.write_pace import QUICK_BYTES
from psedge.simulation.file_system import File, FileSystem, Folder, Parts

#: A file is written in pieces of this size, between which others get their turn at the disk.
PIECE_BYTES = 1 << 20
#: Linux writes back what has been dirty for 30 s (vm.dirty_expire_centisecs).
WRITE_BACK_SECONDS = 30.0
#: How error messages name the root.
ROOT = "of the virtual disk"

T = TypeVar("T")


class VirtualDisk:
    """The Storage of one virtual host, which keeps it while its processes come and go.

    clock_sleep: virtual time. seed: of what a power cut leaves and of where bits rot.
    bytes_per_second: of reading and writing. sync_seconds: what one fsync takes besides; the
    defaults are those of a good SD card or a plain SSD behind a file system's journal.
    Raises what `psedge.protocol.disk.Disk` raises, OSError with ENOSPC among it.
    """

    def __init__(
        self,
        clock_sleep: Callable[[float], Awaitable[None]],
        seed: int,
        *,
        bytes_per_second: float = 80e6,
        sync_seconds: float = 0.005,
        capacity_bytes: float = math.inf,
    ) -> None:
        #: Everything takes so many times longer; a fault may set it.
        self.slow_factor = 1.0
        self.file_system = FileSystem(capacity_bytes)
        self._sleep = clock_sleep
        self._random = random.Random(seed)  # noqa: S311
        self._bytes_per_second = bytes_per_second
        self._sync_seconds = sync_seconds
        self._device = asyncio.Lock()
        self._making = asyncio.Lock()
        # Folders and files of which this process knows that their names are on disk.
        self._lasting: set[Parts] = set()
        self._drafts = itertools.count()
        # What was written at once: whoever is next at the device waits for these bytes, too.
        self._behind_bytes = 0
        # A dict keeps the order in which operations began, so that they end in it.
        self._operations: dict[asyncio.Task[Any], None] = {}
        self._write_back: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether nothing more fits; a fault may set it."""
        return self.file_system.full

    @full.setter
    def full(self, full: bool) -> None:
        self.file_system.full = full

    async def read(self, path: str) -> bytes:
        return await self.operation(self._read(parts_below(path, ROOT)))

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        await self.operation(self._write(parts_below(path, ROOT), parts))

    async def append(self, path: str, data: Buffer) -> None:
        await self.operation(self._append(parts_below(path, ROOT), data))

    async def open_append(self, path: str) -> VirtualFile:
        return await self.operation(self._open(parts_below(path, ROOT)))

    async def sync(self, path: str) -> None:
        await self.operation(self._sync_file(parts_below(path, ROOT)))

    async def names(self, folder: str) -> list[str]:
        return await self.operation(self._names(parts_below(folder, ROOT, root_allowed=True)))

    async def remove(self, path: str) -> None:
        await self.operation(self._remove(parts_below(path, ROOT)))

    def process_died(self) -> None:
        """Stop what runs where it is; drafts stay, and so does what is only in the page cache."""
        for operation in self._operations:
            operation.cancel()
        self._operations.clear()
        self._lasting.clear()
        # Who held them is gone and will not release them.
        self._device, self._making = asyncio.Lock(), asyncio.Lock()

    def power_cut(self) -> None:
        """Lose what was not synced, or some of it, as the seed has it."""
        self.process_died()
        self._behind_bytes = 0
        if self._write_back is not None:
            self._write_back.cancel()
            self._write_back = None
        self.file_system.power_cut(self._random.randrange)

    def rot(self, path_part: str = "") -> str | None:
        """Flip one bit of one file whose path contains `path_part`; None if there is none."""
        paths = [path for path, content in self.files().items() if content and path_part in path]
        if not paths:
            return None
        path = self._random.choice(paths)
        content = self.file_system.file(parts_below(path, ROOT)).content
        bit = self._random.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        return path

    def files(self) -> dict[str, bytes]:
        """Contents by path, sorted, as a reader would see them now."""
        found = {
            "/".join(parts): bytes(node.content)
            for parts, node in self.file_system.walk()
            if isinstance(node, File) and not parts[-1].endswith(DRAFT_SUFFIX)
        }
        return dict(sorted(found.items()))

    async def operation(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        self._operations[task] = None
        task.add_done_callback(lambda done: self._operations.pop(done, None))
        return await asyncio.shield(task)

    async def _read(self, parts: Parts) -> bytes:
        file = self.file_system.file(parts)
        async with self._device:
            await self._busy(len(file.content) / self._bytes_per_second)
        return bytes(file.content)

    async def _write(self, parts: Parts, data: Sequence[Buffer]) -> None:
        await self._make_folders(parts[:-1])
        draft = (*parts[:-1], f".{parts[-1]}.{next(self._drafts)}{DRAFT_SUFFIX}")
        try:
            file = self.file_system.open_file(draft)
            self._made_dirty()
            for part in data:
                await self._write_pieces(file, part, draft)
            await self._sync()
            self.file_system.sync_file(file, len(file.content))
            self.file_system.rename(draft, parts[-1])
        except OSError:
            with contextlib.suppress(OSError):
                self.file_system.unlink(draft)
            raise
        await self._sync()
        self.file_system.sync_folder(parts[:-1])
        self._lasting.add(parts)

    async def _write_pieces(self, file: File, data: Buffer, parts: Parts) -> None:
        for piece in _pieces(data):
            async with self._device:
                await self._busy(len(piece) / self._bytes_per_second)
            self.file_system.extend(file, piece, parts)

    async def _append(self, parts: Parts, data: Buffer) -> None:
        await self._make_folders(parts[:-1])
        await self.extend(self.file_system.open_file(parts), [data], parts)

    async def _open(self, parts: Parts) -> VirtualFile:
        await self._make_folders(parts[:-1])
        file = self.file_system.open_file(parts)
        self._made_dirty()
        return VirtualFile(self, file, parts)

    async def extend(self, file: File, data: Sequence[Buffer], parts: Parts) -> None:
        """Add to the end of an open file, which may have been removed meanwhile."""
        self._made_dirty()
        # Linux locks a file while it is written to, so appended data are never mixed.
        async with self._device:
            for piece in itertools.chain.from_iterable(map(_pieces, data)):
                await self._busy(len(piece) / self._bytes_per_second)
                self.file_system.extend(file, piece, parts)

    def extend_now(self, file: File, data: Sequence[Buffer], parts: Parts) -> bool:
        """As `extend`, in no time; False while the device is at work or slow."""
        pieces = [piece for each in data for piece in _pieces(each)]
        size = sum(map(len, pieces))
        if self._device.locked() or self.slow_factor > 1.0 or size > QUICK_BYTES:
            return False
        self._made_dirty()
        self._behind_bytes += size
        for piece in pieces:
            self.file_system.extend(file, piece, parts)
        return True

    async def _sync_file(self, parts: Parts) -> None:
        file = self.file_system.file(parts)
        # What is appended while the disk is at work may or may not be on it afterwards: it is not.
        length = len(file.content)
        await self._sync()
        self.file_system.sync_file(file, length)
        if parts not in self._lasting:
            await self._sync()
            self.file_system.sync_folder(parts[:-1])
            self._lasting.add(parts)

    async def _make_folders(self, parts: Parts) -> None:
        async with self._making:
            for depth in range(1, len(parts) + 1):
                made = self.file_system.make_folder(parts[:depth])
                if not made and parts[:depth] in self._lasting:
                    continue
                await self._sync()
                self.file_system.sync_folder(parts[: depth - 1])
                self._lasting.add(parts[:depth])

    async def _names(self, parts: Parts) -> list[str]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            entries = self.file_system.folder(parts).entries
            return sorted(name for name in entries if not name.endswith(DRAFT_SUFFIX))
        return []

    async def _remove(self, parts: Parts) -> None:
        """A folder's files go one by one, in an order that no one can count on."""
        self._lasting -= {known for known in self._lasting if known[: len(parts)] == parts}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            node = self.file_system.folder(parts[:-1]).entries.get(parts[-1])
            below = list(self.file_system.walk(parts)) if isinstance(node, Folder) else []
            files = [path for path, node in below if isinstance(node, File)]
            self._random.shuffle(files)
            folders = [path for path, node in below if isinstance(node, Folder)]
            self._made_dirty()
            for path in (*files, *folders, parts):
                async with self._device:
                    await self._busy(0.0)
                self.file_system.unlink(path)

    async def _sync(self) -> None:
        async with self._device:
            await self._busy(self._sync_seconds)

    async def _busy(self, seconds: float) -> None:
        seconds += self._behind_bytes / self._bytes_per_second
        self._behind_bytes = 0
        await self._sleep(seconds * self.slow_factor)

    def _made_dirty(self) -> None:
        if self._write_back is None:
            # In a context of its own: it belongs to the kernel, and not to whoever called.
            work = self._write_back_later()
            self._write_back = Context().run(asyncio.ensure_future, work)

    async def _write_back_later(self) -> None:
        await self._sleep(WRITE_BACK_SECONDS)
        self.file_system.sync_all()
        self._write_back = None


class VirtualFile:
    """An open file of a virtual disk, as an AppendFile."""

    def __init__(self, disk: VirtualDisk, file: File, parts: Parts) -> None:
        self._disk = disk
        self._file = file
        self._parts = parts

    def append_now(self, parts: Sequence[Buffer]) -> bool:
        return self._disk.extend_now(self._file, parts, self._parts)

    async def append(self, parts: Sequence[Buffer]) -> None:
        await self._disk.operation(self._disk.extend(self._file, parts, self._parts))

    async def close(self) -> None:
        """Nothing is held."""


def _pieces(data: Buffer) -> list[memoryview]:
    view = memoryview(data)
    if not view.nbytes:
        return []
    view = view.cast("B")
    return [view[at : at + PIECE_BYTES] for at in range(0, len(view), PIECE_BYTES)]
