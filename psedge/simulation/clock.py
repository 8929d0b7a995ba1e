"""The clocks of virtual hosts: each may be wrong in its own way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Virtual time 0 on a wall clock that is right: 1 January 2026, 00:00 UTC.
EPOCH = 1_767_225_600.0


class VirtualClock:
    """The Clock of one host.

    loop_time: true virtual seconds. skew_seconds: by how much the date is wrong; it touches
    `timestamp` only, as setting a date does. drift: how much faster than true the clock runs, as
    a fraction.
    """

    def __init__(
        self,
        loop_time: Callable[[], float],
        *,
        skew_seconds: float = 0.0,
        drift: float = 0.0,
        epoch: float = EPOCH,
    ) -> None:
        self.skew_seconds = skew_seconds
        self._loop_time = loop_time
        self._epoch = epoch
        self._drift = drift
        self._since = loop_time()
        self._shown = self._since

    @property
    def drift(self) -> float:
        return self._drift

    def set_drift(self, drift: float) -> None:
        """Run faster or slower from now on; `now` does not jump."""
        self._shown = self.now()
        self._since = self._loop_time()
        self._drift = drift

    def now(self) -> float:
        return self._shown + (self._loop_time() - self._since) * (1.0 + self._drift)

    def timestamp(self) -> float:
        return self._epoch + self.now() + self.skew_seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / (1.0 + self._drift))
