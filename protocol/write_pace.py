"""Whether a write to a disk is a copy into memory or a wait, by what has been seen of that disk.

A write of some kilobytes into the kernel's memory takes ten microseconds; to hand it to a thread,
and to hear that it is done, takes ten times that. But a write may also wait for the device, for
seconds on an SD card, and whoever does that in the event loop keeps everybody waiting. Writes wait
where something is being forced to disk, or where more was written than the kernel holds for a slow
device. The first is known; the second is found out by one write that took long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

#: Longer writes are for threads in any case: a small machine copies so much in a millisecond.
QUICK_BYTES = 2**18
#: A quick write that took longer has waited; for so long no other one is tried then.
SLOW_SECONDS = 0.05
REST_SECONDS = 10.0


class WritePace:
    """What is known of one disk."""

    def __init__(self) -> None:
        self._forcing = 0
        self._rest_until = float("-inf")

    @contextlib.contextmanager
    def forcing(self) -> Iterator[None]:
        """Something is being forced to disk meanwhile."""
        self._forcing += 1
        try:
            yield
        finally:
            self._forcing -= 1

    def is_quick(self, size: int, now: float) -> bool:
        """Whether writing `size` bytes is a matter of microseconds, as far as one can tell."""
        return size <= QUICK_BYTES and not self._forcing and now >= self._rest_until

    def took(self, seconds: float, now: float) -> None:
        """A write that was to be quick has taken so long."""
        if seconds > SLOW_SECONDS:
            self._rest_until = now + REST_SECONDS
