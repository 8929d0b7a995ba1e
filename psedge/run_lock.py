"""One supervisor for one run folder: a lock that lasts as long as its process."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import msgspec

from psedge.protocol.errors import ConfigError

FILE = "supervisor.lock"
#: What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class Holder(msgspec.Struct, frozen=True):
    """Who supervises a run. url: where it answers. host, port: as it was told to listen."""

    process: int
    machine: str
    url: str
    host: str = ""
    port: int = 0


class RunLock:
    """Held from `take` on, until `release` or the end of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def take(self, holder: Holder) -> None:
        """Say who supervises the run from now on.

        Where the file system knows no locks, this does nothing: the supervisor's book then notices
        a second supervisor.
        Raises ConfigError when a living one has the lock, or the folder cannot be written to.
        """
        self._descriptor = self._locked()
        if self._descriptor is None:
            return
        # Only for people: a full disk must not keep a run from being supervised.
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, msgspec.json.encode(holder), 0)
        except OSError:
            return

    def require_free(self) -> None:
        """Raises ConfigError as `take` does, which may be called later."""
        if self._folder.is_dir():
            self._descriptor = self._locked()
            self.release()

    def _locked(self) -> int | None:
        try:
            path = self._folder / FILE
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(
                f"the run folder {self._folder} cannot be written to: {error.strerror or error}; "
                "name another with --out"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = os.read(descriptor, 4096)
            os.close(descriptor)
            raise ConfigError(self._taken(told)) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                return None
            raise
        return descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def last_holder(self) -> Holder | None:
        """Who supervised the run last, as far as that can be read."""
        try:
            return msgspec.json.decode((self._folder / FILE).read_bytes(), type=Holder)
        except (OSError, msgspec.DecodeError):
            return None

    def _taken(self, told: bytes) -> str:
        try:
            holder = msgspec.json.decode(told, type=Holder)
        except msgspec.DecodeError:
            return f"the run in {self._folder} has its supervisor already: end that one first"
        return (
            f"the run in {self._folder} has its supervisor already, process {holder.process} on "
            f"{holder.machine}: see `psedge status --join {holder.url}`, or end it first"
        )
