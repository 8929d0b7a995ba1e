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
        self._failing = False

    async def attempt(self, what: str, write: Awaitable[None]) -> bool:
        """Await `write`. False: it failed, and the user has been told that `what` is missing."""
        try:
            await write
        except OSError as error:
            if not self._failing:
                reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
                self._notify(
                    f"cannot write {what}: {reason}; training goes on, the next write tries again"
                )
            self._failing = True
            return False
        if self._failing:
            self._notify(f"writing works again: {what}")
        self._failing = False
        return True
