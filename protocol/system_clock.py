"""The clock of this machine."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The Clock of real runs: the monotonic clock, the wall clock, and asyncio's timers."""

    def now(self) -> float:
        return time.monotonic()

    def timestamp(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
