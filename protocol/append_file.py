"""A file of this machine's disk that stays open, since opening it anew costs more than a write."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from psedge.protocol.ports import Buffer
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.write_pace import WritePace

#: Most parts that are given to the operating system at once; Linux takes 1024.
_PARTS = 512

_clock = SystemClock()


class DiskFile:
    """The AppendFile of real runs. Making one opens the file, which raises OSError."""

    def __init__(self, place: Path, pace: WritePace) -> None:
        self._descriptor = -1
        self._pace = pace
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(place, flags, 0o666)

    def __del__(self) -> None:
        # Whoever had it opened in a thread may have been cancelled before it was there.
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def append_now(self, parts: Sequence[Buffer]) -> bool:
        began = _clock.now()
        if not self._pace.is_quick(sum(memoryview(part).nbytes for part in parts), began):
            return False
        _write(self._descriptor, parts)
        now = _clock.now()
        self._pace.took(now - began, now)
        return True

    async def append(self, parts: Sequence[Buffer]) -> None:
        await asyncio.to_thread(_write, self._descriptor, parts)

    async def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # Network file systems write back what is left when a file is closed.
            await asyncio.to_thread(os.close, descriptor)


def _write(descriptor: int, parts: Sequence[Buffer]) -> None:
    """Write all parts, however little of them the operating system takes at once."""
    for first in range(0, len(parts), _PARTS):
        left = [memoryview(part) for part in parts[first : first + _PARTS]]
        while left:
            written = os.writev(descriptor, left)
            while left and written >= left[0].nbytes:
                written -= left.pop(0).nbytes
            if written:
                left[0] = left[0].cast("B")[written:]
