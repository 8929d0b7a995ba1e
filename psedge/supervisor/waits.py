"""Waiting for a change, but not for ever."""

from __future__ import annotations

import asyncio

#: A wait takes at least this long. Deadlines are kept by a clock that may run a little slower than
#: the timers: what is left to wait could shrink for ever and never be nothing.
SHORTEST_SECONDS = 0.001


async def until(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after `seconds`."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, SHORTEST_SECONDS))
    except asyncio.TimeoutError:
        return
