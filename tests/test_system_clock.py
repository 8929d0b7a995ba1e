"""The system clock agrees with the machine's."""

from __future__ import annotations

import asyncio
import time

from psedge.protocol.system_clock import SystemClock


def test_now_is_monotonic_and_timestamp_is_wall_time():
    clock = SystemClock()
    before, wall_before = time.monotonic(), time.time()
    now, stamp = clock.now(), clock.timestamp()
    assert before <= now <= time.monotonic()
    assert wall_before <= stamp <= time.time()


def test_sleep_returns_at_the_earliest_after_its_time():
    clock = SystemClock()
    before = clock.now()
    asyncio.run(clock.sleep(0.01))
    assert clock.now() - before >= 0.0099


def test_sleep_lets_others_run():
    async def scenario():
        order = []

        async def other():
            order.append("other")

        task = asyncio.ensure_future(other())
        await SystemClock().sleep(0)
        await task
        order.append("slept")
        return order

    assert asyncio.run(scenario()) == ["other", "slept"]
