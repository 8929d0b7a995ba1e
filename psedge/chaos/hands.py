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
from psedge.chaos.restart import arguments_again, is_first_server
from psedge.chaos.strikes import THROTTLE_PERIOD_SECONDS, THROTTLE_SHARE, Fault
from psedge.protocol.ports import Clock

#: The kernel takes a moment to end a process that was killed.
_DEATH_POLL_SECONDS = 0.01
#: How long processes may take to end by themselves once their run has ended.
_FAREWELL_SECONDS = 5.0


def is_started_by_parent(running: Running) -> bool:
    """Whether `psedge run` starts it again if it is killed, and nobody else may."""
    return running.has_parent and is_first_server(running.arguments)


class Hands:
    """folder, port: of the run and of its supervisor, for a supervisor that is started again.

    stopping: set when the user wants to end; what is broken is then mended at once. over: whether
    the run has ended; then nobody is started for it any more.
    """

    def __init__(
        self,
        clock: Clock,
        folder: Path,
        port: int,
        stopping: asyncio.Event,
        over: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._folder = folder
        self._port = port
        self._stopping = stopping
        self._over = over
        self._children: list[subprocess.Popen[bytes]] = []

    async def do(
        self, fault: Fault, running: Running, seconds: float, told: Callable[[str, str], None]
    ) -> int:
        """Returns when the fault is over, with the number of the process that is there then; 0 if
        nobody is, or if `psedge run` starts it again and alone knows its number.

        told: is given a word and a sentence when something is mended.
        Raises OSError when a killed process cannot be started again.
        """
        began = self._clock.now()
        if fault == "kill":
            return await self._kill(running, seconds, told)
        if fault == "pause":
            await self._stand_still(running, seconds)
        else:
            await self._run_in_bursts(running, seconds)
        told("continue", f"process {running.pid}, after {self._clock.now() - began:.1f} s")
        return running.pid

    def reap(self) -> None:
        """Take note of started processes that have ended; nobody else can."""
        self._children = [child for child in self._children if child.poll() is None]

    async def farewell(self) -> None:
        """The run has ended: who was started for it and does not end by itself has missed that, and
        would wait for a supervisor for ever."""
        deadline = self._clock.now() + _FAREWELL_SECONDS
        while self._children and self._clock.now() < deadline:
            await self._clock.sleep(_DEATH_POLL_SECONDS)
            self.reap()
        for child in self._children:
            child.terminate()

    async def _kill(
        self, running: Running, seconds: float, told: Callable[[str, str], None]
    ) -> int:
        child, is_ours = None, not is_started_by_parent(running)
        began = self._clock.now()
        processes.send(running, signal.SIGKILL)
        try:
            while processes.is_alive(running):
                await self._clock.sleep(_DEATH_POLL_SECONDS)
            if is_ours:
                await self._sleep(seconds)
        finally:
            if is_ours and not self._over():
                child = self._start(running)
        if child is None:
            return 0
        told("restart", f"as process {child.pid}, after {self._clock.now() - began:.1f} s")
        return child.pid

    def _start(self, running: Running) -> subprocess.Popen[bytes]:
        again = arguments_again(running.arguments, folder=str(self._folder), port=self._port)
        log = running.folder / self._folder / "logs" / f"chaos-{again[0]}-{running.pid}.log"
        child = processes.start_again(running, again, log)
        self._children.append(child)
        return child

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
