"""The system clock agrees with the machine's."""

from __future__ import annotations

import asyncio
import time

import pytest

from psedge.protocol import system_clock
from psedge.protocol.system_clock import SystemClock


def awake_or_asleep():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_now_is_monotonic_and_timestamp_is_wall_time(monkeypatch):
    clock = SystemClock()
    monkeypatch.setattr(system_clock, "_clock", time.monotonic)
    before, wall_before = time.monotonic(), time.time()
    now, stamp = clock.now(), clock.timestamp()
    assert before <= now <= time.monotonic()
    assert wall_before <= stamp <= time.time()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the system has no such clock")
def test_a_lease_runs_out_while_the_machine_sleeps(monkeypatch):
    before = awake_or_asleep()
    assert before <= SystemClock().now() <= awake_or_asleep()
    assert system_clock.best_clock() is not time.monotonic

    def refused(clock):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(time, "clock_gettime", refused)
    assert system_clock.best_clock() is time.monotonic


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
