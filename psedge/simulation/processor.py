"""The processor of a virtual machine: what runs on it takes the time that its device needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from psedge.simulation.devices import Device
from psedge.simulation.process import Process
from psedge.simulation.trace import Trace
from psedge.worker.session import Session

T = TypeVar("T")


class Processor:
    """Runs a worker's functions at once, and then lets the time pass that they would have taken.

    session: of the worker, once it has one; what it encoded and decoded is charged too.
    """

    def __init__(
        self, device: Device, process: Process, trace: Trace, session: Callable[[], Session | None]
    ) -> None:
        self._device = device
        self._process = process
        self._trace = trace
        self._session = session
        self._charged = 0.0

    def charge(self, seconds: float) -> None:
        """What runs now takes so long."""
        self._charged += seconds

    async def compute(self, function: Callable[[], T]) -> T:
        """A Compute; see `psedge.worker.feed`."""
        result = function()
        seconds, self._charged = self._charged + self._coding_seconds(), 0.0
        if seconds > 0:
            self._trace.lane(self._process.host, "computing")
            await self._busy(seconds)
        return result

    async def load(self, function: Callable[[], T]) -> T:
        """Batches are made beside the computing, and in time."""
        return function()

    async def _busy(self, seconds: float) -> None:
        """A process that stood still meanwhile has the rest of its work before it."""
        now, process = asyncio.get_running_loop().time, self._process
        while seconds > 0:
            began, stood = now(), process.stopped_seconds
            await asyncio.sleep(seconds)
            stopped = process.stopped_seconds - stood
            if not stopped:
                return
            # A timer that comes due within the standstill fires at its end.
            seconds -= now() - began - stopped

    def _coding_seconds(self) -> float:
        session = self._session()
        if session is None or not session.connected:
            return 0.0
        work = session.client.work.drain()
        seconds = self._device.coding_seconds(work)
        if work.encoded:
            seconds += self._device.exchange_seconds() * len(session.joined.shards)
        return seconds
