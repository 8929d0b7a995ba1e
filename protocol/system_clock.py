"""The clock of this machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def best_clock() -> Callable[[], float]:
    """A clock in seconds that never goes back, and goes on while the machine sleeps if it has one.

    Python's own stands still then, and so do the timers of asyncio. A primary that wakes up would
    take a lease for its own that has ended long ago for everybody else.
    """
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is None:
        return time.monotonic
    try:
        time.clock_gettime(clock)
    except OSError:
        # The kernel is older than this clock, or does not let us.
        return time.monotonic
    return lambda: time.clock_gettime(clock)


_clock = best_clock()


class SystemClock:
    """The Clock of real runs: one that goes on while the machine sleeps, the wall clock, and
    asyncio's timers, which count only the time that it is awake."""

    def now(self) -> float:
        return _clock()

    def timestamp(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
