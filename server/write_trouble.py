"""A server that outlives a full disk: one sentence when writing fails, one when it works again."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

from psedge.protocol.ports import Clock

#: Between two sentences that say that writing fails.
QUIET_SECONDS = 60.0

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

    However many logs are on a disk, people are told once that it fails, and once that it works; on
    a disk that keeps changing its mind, not more often than once a minute.
    """

    def __init__(self, notify: Callable[[str], None], clock: Clock, where: str) -> None:
        """where: the folder in words, for people."""
        self._notify = notify
        self._clock = clock
        self._where = where
        self._failing: set[str] = set()
        #: What people were told that cannot be written, and why; empty once it can.
        self.told = ""
        self._told_at = float("-inf")

    async def attempt(self, what: str, work: Awaitable[None]) -> bool:
        """Await `work`. False: it raised OSError, and people know that `what` is not written."""
        try:
            await work
        except OSError as error:
            now = self._clock.now()
            if not self.told and now - self._told_at >= QUIET_SECONDS:
                self.told = f"cannot write {what} to {self._where}: {reason_of(error)}"
                self._told_at = now
                self._notify(
                    f"{self.told}; nothing is lost while this server runs, and writing is tried "
                    "again"
                )
            self._failing.add(what)
            return False
        self.over(what)
        return True

    def over(self, what: str) -> None:
        """It is written now, or nobody wants it any more."""
        self._failing.discard(what)
        if self.told and not self._failing:
            self.told = ""
            self._notify(f"logs are written to {self._where} again")
