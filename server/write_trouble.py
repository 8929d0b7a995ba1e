"""A server that outlives a full disk: one sentence when writing fails, one when it works again."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


def reason_of(error: OSError) -> str:
    """Why something could not be read or written, in words."""
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


class WriteTrouble:
    """What of the logs of a server cannot be written at the moment.

    However many logs are on a disk, people are told once that it fails, and once that it works.
    """

    def __init__(self, notify: Callable[[str], None], where: str) -> None:
        """where: the folder in words, for people."""
        self._notify = notify
        self._where = where
        self._failing: set[str] = set()

    async def attempt(self, what: str, work: Awaitable[None]) -> bool:
        """Await `work`. False: it raised OSError, and people know that `what` is not written."""
        try:
            await work
        except OSError as error:
            if not self._failing:
                self._notify(
                    f"cannot write {what} to {self._where}: {reason_of(error)}; nothing is lost "
                    "while this server runs, and writing is tried again"
                )
            self._failing.add(what)
            return False
        self.over(what)
        return True

    def over(self, what: str) -> None:
        """It is written now, or nobody wants it any more."""
        if self._failing:
            self._failing.discard(what)
            if not self._failing:
                self._notify(f"logs are written to {self._where} again")
