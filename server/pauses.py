"""Waits that come to an end when nobody needs to wait any longer."""

from __future__ import annotations

import asyncio

from psedge.protocol.ports import Clock


class Pauses:
    """Sleeps on a clock until it is time, or until `end` has been called."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ended = False
        self._sleeping: set[asyncio.Future[None]] = set()

    async def wait(self, seconds: float) -> None:
        if self._ended:
            return
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        self._sleeping.add(sleep)
        try:
            await asyncio.wait({sleep})
        finally:
            self._sleeping.discard(sleep)
            sleep.cancel()

    def end(self) -> None:
        """Let everybody go on, now and from now on."""
        self._ended = True
        for sleep in self._sleeping:
            sleep.cancel()
