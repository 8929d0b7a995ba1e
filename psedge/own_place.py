"""The proof that a worker's predecessor is dead: a lock that ends with the process that has it.

The supervisor cannot tell a worker that crashed and was started again from two that live and share
a name. On their machine it can be told: whoever has the lock of a place knows that everyone who had
it before is dead, since the kernel takes it from a process only at its end. Workers of one name
lock the first place that is free, so each of them has one of its own.

What the supervisor hears is a random number that lies in the locked file, and not a name of the
machine: host names are given twice, containers share boot and machine ids, disks are cloned.
Whoever reads the number has locked that very file; and it is drawn anew where the file comes from
another boot, so that no copy of a disk brings it to a second machine. Without files or locks there
is no proof, and a predecessor is known by its silence alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import tempfile
import uuid
from pathlib import Path

import msgspec
from typing_extensions import Self

from psedge.protocol.messages import Place

try:
    import fcntl
except ImportError:
    # There are none on Windows.
    fcntl = None  # type: ignore[assignment]

#: More workers of one name on one machine go without a proof.
MOST_PLACES = 64
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_IDENTITY_BYTES = 16
#: More than a file ever holds.
_FILE_BYTES = 1024
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

#: Of all places of this process.
_locked: set[int] = set()


class _Kept(msgspec.Struct, frozen=True):
    """What a place's file says. boot: of the machine, as it was when the identity was drawn."""

    boot: str
    place: Place


class Places:
    """Those of one worker or program. They are free again after `close`, or at its process's end.

    folder: where the locks are; None: in the user's runtime folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._held: list[int] = []

    def take(self, run: str, name: str) -> Place | None:
        """The first free place of workers of this name in this run; None: there is no proof.

        run: tells it from all others, such as its identity or the supervisor's address.
        """
        if fcntl is None:
            return None
        try:
            folder = _opened(_runtime_folder() if self._folder is None else self._folder)
        except OSError:
            return None
        key = hashlib.sha256(f"{run}\n{name}".encode()).hexdigest()[:32]
        try:
            for number in range(1, MOST_PLACES + 1):
                with contextlib.suppress(BlockingIOError):
                    return self._claimed(f"{key}-{number}", folder)
        except OSError:
            return None
        finally:
            os.close(folder)
        return None

    def close(self) -> None:
        """Let others have them."""
        while self._held:
            _closed(self._held.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _claimed(self, file: str, folder: int) -> Place:
        """Raises BlockingIOError when a living holder has it, OSError when it cannot be had."""
        descriptor = os.open(file, _FILE, 0o600, dir_fd=folder)
        _locked.add(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place = _next_holder(descriptor)
        except BaseException:
            _closed(descriptor)
            raise
        self._held.append(descriptor)
        return place


def _next_holder(descriptor: int) -> Place:
    """Read a locked file, and write it for who comes next."""
    boot = _boot()
    place = Place(secrets.token_hex(_IDENTITY_BYTES), 1)
    with contextlib.suppress(msgspec.DecodeError):
        kept = msgspec.json.decode(os.pread(descriptor, _FILE_BYTES, 0), type=_Kept)
        if kept.boot == boot:
            place = Place(kept.place.identity, kept.place.holder + 1)
    text = msgspec.json.encode(_Kept(boot, place))
    if os.pwrite(descriptor, text, 0) != len(text):
        raise OSError("no room for a place")
    os.ftruncate(descriptor, len(text))
    return place


def _boot() -> str:
    """Differs from machine to machine, and where that can be known from boot to boot."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"{uuid.getnode():012x}"


def _runtime_folder() -> Path:
    """Of this user, and gone after a boot where the system has such a folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime:
        return Path(runtime) / "psedge"
    return Path(tempfile.gettempdir()) / f"psedge-{os.getuid()}"


def _opened(path: Path) -> int:
    """A folder that is the user's alone. Raises OSError if it is not."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    folder = os.open(path, _FOLDER)
    found = os.fstat(folder)
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(folder)
        raise PermissionError(f"{path} is open to others")
    return folder


def _closed(descriptor: int) -> None:
    # In a forked child it is closed already.
    if descriptor in _locked:
        _locked.discard(descriptor)
        os.close(descriptor)


def _close_in_child() -> None:
    """A forked process, such as a loader of batches, may outlive its parent and is no worker."""
    while _locked:
        os.close(_locked.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
