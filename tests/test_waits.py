"""Waits end although the clock of their deadline runs slower than the timers."""

from __future__ import annotations

import asyncio

from psedge.simulation.clock import VirtualClock
from psedge.simulation.loop import run_virtual
from psedge.supervisor.waits import until

ROUNDS = 30


def test_a_deadline_on_a_slow_clock_is_reached() -> None:
    async def main() -> int:
        clock = VirtualClock(asyncio.get_running_loop().time, drift=-0.01)
        await asyncio.sleep(1000.0)
        deadline, rounds = clock.now() + 10.0, 0
        while clock.now() < deadline and rounds < ROUNDS:
            await until(asyncio.Event(), deadline - clock.now())
            rounds += 1
        return rounds

    assert run_virtual(main()) < ROUNDS
