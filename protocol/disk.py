"""The disk of this machine: files under one folder, replaced as a whole or not at all.

A file is written beside its place, forced to disk, renamed over the old one, and then the folder
is forced to disk too: after a power cut there is the old content or the new one. What is appended
to a file is on disk once that was asked for with `sync`. Operations run in threads, since a
Raspberry Pi's SD card may take seconds for one of them; only short writes to a file that is open
already do not, as long as the disk takes them at once (`write_pace.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from psedge.protocol.append_file import DiskFile
from psedge.protocol.errors import ConfigError
from psedge.protocol.ports import AppendFile, Buffer
from psedge.protocol.storage_path import DRAFT_SUFFIX, parts_below
from psedge.protocol.write_pace import WritePace


class Disk:
    """The Storage of real runs.

    Raises ValueError for a path that is absolute or leaves the root through `..`, ConfigError for
    one that leaves it through a link, which is its user's doing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._drafts = itertools.count()
        self._making = threading.Lock()
        # Folders and files of which this process knows that their names are on disk.
        self._lasting: set[Path] = set()
        self._pace = WritePace()

    async def read(self, path: str) -> bytes:
        return await asyncio.to_thread(self._place(path).read_bytes)

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        with self._pace.forcing():
            await asyncio.to_thread(self._write, self._place(path), parts)

    async def append(self, path: str, data: Buffer) -> None:
        await asyncio.to_thread(self._append, self._place(path), data)

    async def open_append(self, path: str) -> AppendFile:
        return await asyncio.to_thread(self._open, self._place(path))

    async def sync(self, path: str) -> None:
        with self._pace.forcing():
            await asyncio.to_thread(self._sync, self._place(path))

    async def names(self, folder: str) -> list[str]:
        return await asyncio.to_thread(_names, self._place(folder, root_allowed=True))

    async def remove(self, path: str) -> None:
        await asyncio.to_thread(self._remove, self._place(path))

    def _place(self, path: str, *, root_allowed: bool = False) -> Path:
        parts = parts_below(path, str(self._root), root_allowed=root_allowed)
        place = self._root.joinpath(*parts)
        if not place.resolve().is_relative_to(self._root):
            raise ConfigError(
                f"{place} leads out of {self._root} through a link: psedge keeps a folder in one "
                "place, so move the whole folder instead"
            )
        return place

    def _write(self, place: Path, parts: Sequence[Buffer]) -> None:
        self._make_folder(place.parent)
        draft = place.with_name(f".{place.name}.{os.getpid()}.{next(self._drafts)}{DRAFT_SUFFIX}")
        try:
            # A draft of this name can be there: a process in a container has the same number again
            # after a crash.
            with draft.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(place)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        _sync_folder(place.parent)
        with self._making:
            self._lasting.add(place)

    def _append(self, place: Path, data: Buffer) -> None:
        self._make_folder(place.parent)
        with place.open("ab") as file:
            file.write(data)

    def _open(self, place: Path) -> DiskFile:
        self._make_folder(place.parent)
        return DiskFile(place, self._pace)

    def _sync(self, place: Path) -> None:
        # Opened for writing: some systems force nothing to disk through a descriptor for reading.
        descriptor = os.open(place, os.O_WRONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if place not in self._lasting:
            _sync_folder(place.parent)
            with self._making:
                self._lasting.add(place)

    def _remove(self, place: Path) -> None:
        with self._making:
            self._lasting -= {known for known in self._lasting if known.is_relative_to(place)}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()

    def _make_folder(self, folder: Path) -> None:
        """Make a folder below the root; its name is on disk before anything is put into it.

        A folder that is there may have been made by a process that was killed before it forced
        the name to disk, so the first use of each does that again.
        """
        with self._making:
            _make_root(self._root)
            below = folder.relative_to(self._root).parts
            for depth in range(1, len(below) + 1):
                each = self._root.joinpath(*below[:depth])
                if each in self._lasting and each.is_dir():
                    continue
                with contextlib.suppress(FileExistsError):
                    each.mkdir()
                _sync_folder(each.parent)
                self._lasting.add(each)


def _make_root(folder: Path) -> None:
    """Make a folder and its parents, and force each new one's name to disk."""
    if folder.is_dir():
        return
    _make_root(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: Path) -> list[str]:
    # A draft is what a crash left of an unfinished write: not a file anyone has written.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(
            entry.name for entry in folder.iterdir() if not entry.name.endswith(DRAFT_SUFFIX)
        )
    return []
