"""Waiting for a change, but not for ever."""

from __future__ import annotations

import asyncio


async def until(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after `seconds`."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0.0))
    except asyncio.TimeoutError:
        return
