"""A run that outlives a full disk: one notice when writing fails, one when it works again."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
}


class WriteGuard:
    """Runs writes and turns their OSError into words, said once until a write works again."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        #: Why the last write failed, or nothing.
        self.problem = ""

    async def attempt(self, what: str, write: Awaitable[None]) -> bool:
        """Await `write`. False: it failed, and the user has been told that `what` is missing."""
        try:
            await write
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
            if not self.problem:
                self._notify(
                    f"cannot write {what}: {reason}; training goes on, the next write tries again"
                )
            self.problem = reason
            return False
        if self.problem:
            self._notify(f"writing works again: {what}")
        self.problem = ""
        return True
