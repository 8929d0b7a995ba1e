"""Does one fault to one process, and mends it, whatever comes in between."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from psedge.chaos import processes
from psedge.chaos.processes import Running
from psedge.chaos.restart import arguments_again
from psedge.chaos.strikes import THROTTLE_PERIOD_SECONDS, THROTTLE_SHARE, Fault
from psedge.protocol.ports import Clock

#: The kernel takes a moment to end a process that was killed.
_DEATH_POLL_SECONDS = 0.01


class Hands:
    """folder, port: of the run and of its supervisor, for a supervisor that is started again.

    stopping: set when the user wants to end; what is broken is then mended at once.
    """

    def __init__(self, clock: Clock, folder: Path, port: int, stopping: asyncio.Event) -> None:
        self._clock = clock
        self._folder = folder
        self._port = port
        self._stopping = stopping
        self._children: list[subprocess.Popen[bytes]] = []

    async def do(
        self, fault: Fault, running: Running, seconds: float, told: Callable[[str, str], None]
    ) -> int:
        """Returns when the fault is over, with the number of the process that is there then.

        told: is given a word and a sentence when something is mended.
        Raises OSError when a killed process cannot be started again.
        """
        if fault == "kill":
            return await self._kill(running, seconds, told)
        if fault == "pause":
            await self._stand_still(running, seconds)
        else:
            await self._run_in_bursts(running, seconds)
        told("continue", f"process {running.pid}, after {seconds:g} s")
        return running.pid

    def reap(self) -> None:
        """Take note of started processes that have ended; nobody else can."""
        self._children = [child for child in self._children if child.poll() is None]

    async def _kill(
        self, running: Running, seconds: float, told: Callable[[str, str], None]
    ) -> int:
        processes.send(running, signal.SIGKILL)
        try:
            while processes.is_alive(running):
                await self._clock.sleep(_DEATH_POLL_SECONDS)
            await self._sleep(seconds)
        finally:
            again = arguments_again(running.arguments, folder=str(self._folder), port=self._port)
            log = running.folder / self._folder / "logs" / f"chaos-{again[0]}-{running.pid}.log"
            child = processes.start_again(running, again, log)
            self._children.append(child)
        told("restart", f"as process {child.pid}, after {seconds:g} s")
        return child.pid

    async def _stand_still(self, running: Running, seconds: float) -> None:
        try:
            processes.send(running, signal.SIGSTOP)
            await self._sleep(seconds)
        finally:
            processes.send(running, signal.SIGCONT)

    async def _run_in_bursts(self, running: Running, seconds: float) -> None:
        end = self._clock.now() + seconds
        run = THROTTLE_PERIOD_SECONDS * THROTTLE_SHARE
        while self._clock.now() < end and not self._stopping.is_set():
            await self._stand_still(running, THROTTLE_PERIOD_SECONDS - run)
            await self._clock.sleep(run)

    async def _sleep(self, seconds: float) -> None:
        """Shorter if the user wants to end."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
