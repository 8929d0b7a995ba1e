"""A file system as data: what a reader sees now, and what a power cut would leave of it.

Each file knows how much of it was forced to disk; each folder keeps, beside its entries, those that
are on disk and the changes that are not yet. A power cut keeps a prefix of each: of a file's tail
any number of bytes, of a folder's changes any number in their order. A rename is one change, so
it has happened or not.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

#: As Linux file systems have it.
NAME_LIMIT_BYTES = 255

#: draw(n) gives one of 0 .. n - 1.
Draw = Callable[[int], int]
#: The names on the way from the root.
Parts = tuple[str, ...]


@dataclass(eq=False, slots=True)
class File:
    """content: as a reader sees it. synced: so many bytes of it survive a power cut."""

    content: bytearray = field(default_factory=bytearray)
    synced: int = 0


@dataclass(eq=False, slots=True)
class Folder:
    """entries: as a reader sees them. on_disk: as of the last sync. changes: made since then.

    A change is what happens to one name or, in a rename, to two at once; None takes it away.
    """

    entries: dict[str, File | Folder] = field(default_factory=dict)
    on_disk: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def change(self, change: dict[str, File | Folder | None]) -> None:
        _apply(change, self.entries)
        self.changes.append(change)

    def sync(self) -> None:
        self.on_disk = dict(self.entries)
        self.changes.clear()

    def power_cut(self, draw: Draw) -> None:
        for change in self.changes[: draw(len(self.changes) + 1)]:
            _apply(change, self.on_disk)
        self.entries = dict(self.on_disk)
        self.changes.clear()


def _apply(change: dict[str, File | Folder | None], entries: dict[str, File | Folder]) -> None:
    for name, node in change.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class FileSystem:
    """Files and folders under one root, with room for `capacity_bytes`.

    Every method raises OSError as Linux does. full: nothing more fits, whatever the capacity is.
    """

    def __init__(self, capacity_bytes: float = math.inf) -> None:
        self.full = False
        self._capacity_bytes = capacity_bytes
        self._root = Folder()

    @property
    def used_bytes(self) -> int:
        """Of all files, drafts among them."""
        return sum(len(node.content) for _, node in self.walk() if isinstance(node, File))

    def folder(self, parts: Parts) -> Folder:
        """Raises FileNotFoundError, or NotADirectoryError where a file is in the way."""
        node: File | Folder = self._root
        for name in parts:
            if isinstance(node, File):
                raise _error(errno.ENOTDIR, parts)
            if name not in node.entries:
                raise _error(errno.ENOENT, parts)
            node = node.entries[name]
        if isinstance(node, File):
            raise _error(errno.ENOTDIR, parts)
        return node

    def file(self, parts: Parts) -> File:
        """Raises FileNotFoundError, IsADirectoryError or NotADirectoryError."""
        node = self.folder(parts[:-1]).entries.get(parts[-1])
        if node is None:
            raise _error(errno.ENOENT, parts)
        if isinstance(node, Folder):
            raise _error(errno.EISDIR, parts)
        return node

    def make_folder(self, parts: Parts) -> bool:
        """Whether it was made; False where something of that name is there already."""
        parent = self.folder(parts[:-1])
        if parts[-1] in parent.entries:
            return False
        if self.full:
            raise _error(errno.ENOSPC, parts)
        parent.change({_checked_name(parts): Folder()})
        return True

    def open_file(self, parts: Parts) -> File:
        """The file, made if there is none. Raises IsADirectoryError, NotADirectoryError."""
        parent = self.folder(parts[:-1])
        if parts[-1] not in parent.entries:
            parent.change({_checked_name(parts): File()})
        return self.file(parts)

    def extend(self, file: File, data: memoryview, parts: Parts) -> None:
        """Add to the end of a file. On a full disk what fits is written and ENOSPC raised.

        data: bytes. parts: the file's path, for the message.
        """
        fits = 0 if self.full else len(data)
        if self._capacity_bytes < math.inf:
            fits = min(fits, int(max(0, self._capacity_bytes - self.used_bytes)))
        file.content += data[:fits]
        if fits < len(data):
            raise _error(errno.ENOSPC, parts)

    def rename(self, parts: Parts, name: str) -> None:
        """Give a file another name in its folder, in place of a file that has it.

        Raises IsADirectoryError where a folder has it.
        """
        folder, file = self.folder(parts[:-1]), self.file(parts)
        target = (*parts[:-1], name)
        replaced = folder.entries.get(name)
        if isinstance(replaced, Folder):
            raise _error(errno.EISDIR, target)
        folder.change({parts[-1]: None, _checked_name(target): file})

    def unlink(self, parts: Parts) -> None:
        """Remove a file or an empty folder. Raises FileNotFoundError, ENOTEMPTY."""
        folder = self.folder(parts[:-1])
        node = folder.entries.get(parts[-1])
        if node is None:
            raise _error(errno.ENOENT, parts)
        if isinstance(node, Folder) and node.entries:
            raise _error(errno.ENOTEMPTY, parts)
        folder.change({parts[-1]: None})

    def walk(self, parts: Parts = ()) -> Iterator[tuple[Parts, File | Folder]]:
        """Everything below a folder, a folder after what it holds."""
        for name, node in list(self.folder(parts).entries.items()):
            if isinstance(node, Folder):
                yield from self.walk((*parts, name))
            yield (*parts, name), node

    def sync_file(self, file: File, length: int) -> None:
        """Force the first `length` bytes of a file to disk."""
        file.synced = max(file.synced, length)

    def sync_folder(self, parts: Parts) -> None:
        self.folder(parts).sync()

    def sync_all(self) -> None:
        """As the kernel's write-back does after a while."""
        self._root.sync()
        for _, node in self.walk():
            if isinstance(node, Folder):
                node.sync()
            else:
                self.sync_file(node, len(node.content))

    def power_cut(self, draw: Draw) -> None:
        """Lose what was not forced to disk, or some of it."""
        waiting: list[Folder] = [self._root]
        while waiting:
            folder = waiting.pop()
            folder.power_cut(draw)
            for node in folder.entries.values():
                if isinstance(node, Folder):
                    waiting.append(node)
                else:
                    kept = node.synced + draw(len(node.content) - node.synced + 1)
                    del node.content[kept:]
                    node.synced = kept

    def check_invariants(self) -> None:
        """Raises AssertionError when the figures contradict each other."""
        assert self.used_bytes <= self._capacity_bytes
        for parts, node in self.walk():
            if isinstance(node, File):
                assert node.synced <= len(node.content), parts
            else:
                assert node.changes or node.entries == node.on_disk, parts


def _checked_name(parts: Parts) -> str:
    if len(os.fsencode(parts[-1])) > NAME_LIMIT_BYTES:
        raise _error(errno.ENAMETOOLONG, parts)
    return parts[-1]


def _error(code: int, parts: Parts) -> OSError:
    return OSError(code, os.strerror(code), str(PurePosixPath(*parts)))
