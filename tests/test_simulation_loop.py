"""Virtual time: the loop that jumps, processes that stop and die, clocks that are wrong, leaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from psedge.simulation.clock import EPOCH, VirtualClock
from psedge.simulation.guard import LeakError
from psedge.simulation.loop import Stalled, VirtualLoop, run_virtual
from psedge.simulation.process import Process
from psedge.simulation.seeds import bits_of, seed_of
from psedge.simulation.trace import EVENTS_LIMIT, Trace


def now() -> float:
    return asyncio.get_running_loop().time()


async def ticks(count: int, log: list[Any], name: str) -> None:
    try:
        for _ in range(count):
            await asyncio.sleep(1.0)
            log.append((name, now()))
    finally:
        log.append((name, "ended"))


def test_a_month_passes_at_once() -> None:
    async def month() -> float:
        await asyncio.sleep(30 * 86_400.0)
        return now()

    assert run_virtual(month()) == 30 * 86_400.0


def test_timers_of_one_moment_run_in_the_order_in_which_they_were_set() -> None:
    async def order() -> list[int]:
        found: list[int] = []
        loop = asyncio.get_running_loop()
        for index in range(50):
            loop.call_at(1.0 + (index % 3), found.append, index)
        await asyncio.sleep(5.0)
        return found

    first = run_virtual(order())
    assert sorted(first) == list(range(50))
    assert first == run_virtual(order())
    assert [index % 3 for index in first] == [0] * 17 + [1] * 17 + [2] * 16


def test_waiting_for_what_can_never_happen_is_an_error() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled, match="nothing is left"):
        run_virtual(forever())
    with pytest.raises(Stalled, match="after 5 virtual seconds"):
        run_virtual(asyncio.sleep(6.0), limit_seconds=5.0)


def test_what_a_callback_raises_ends_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: 1 // 0)
        await asyncio.sleep(1e6)

    with pytest.raises(ZeroDivisionError):
        run_virtual(main(), limit_seconds=2.0)


def test_a_stopped_process_goes_on_where_it_stood() -> None:
    async def main() -> list[Any]:
        log: list[Any] = []
        one, other = Process("a", 1), Process("b", 1)
        one.run(ticks(4, log, "a"))
        other.run(ticks(4, log, "b"))
        await asyncio.sleep(1.5)
        one.stop()
        await asyncio.sleep(4.0)
        one.go_on()
        await asyncio.sleep(4.0)
        assert one.stopped_seconds == 4.0
        return log

    log = run_virtual(main())
    assert [entry for entry in log if entry[0] == "b"] == [
        ("b", 1.0), ("b", 2.0), ("b", 3.0), ("b", 4.0), ("b", "ended"),
    ]  # fmt: skip
    assert [entry for entry in log if entry[0] == "a"] == [
        ("a", 1.0), ("a", 5.5), ("a", 6.5), ("a", 7.5), ("a", "ended"),
    ]  # fmt: skip


def test_a_killed_process_does_not_even_clean_up() -> None:
    async def main() -> list[Any]:
        log: list[Any] = []
        process = Process("a", 1)
        process.run(ticks(4, log, "a"))
        await asyncio.sleep(1.5)
        process.kill()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.keep_tasks()
        process.go_on()
        await asyncio.sleep(10.0)
        return list(log)

    assert run_virtual(main()) == [("a", 1.0)]


def test_what_a_process_starts_belongs_to_it() -> None:
    async def main() -> list[Any]:
        log: list[Any] = []

        async def parent() -> None:
            await asyncio.gather(ticks(3, log, "child"), ticks(3, log, "other child"))

        process = Process("a", 1)
        process.run(parent())
        await asyncio.sleep(1.5)
        process.stop()
        await asyncio.sleep(9.0)
        return list(log)

    assert run_virtual(main()) == [("child", 1.0), ("other child", 1.0)]


def test_clocks_may_be_wrong() -> None:
    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop().time, skew_seconds=3600.0)
        assert clock.timestamp() == EPOCH + 3600.0
        await clock.sleep(10.0)
        assert clock.now() == now() == 10.0
        clock.set_drift(0.25)
        before = clock.now()
        await clock.sleep(10.0)
        assert now() == 18.0
        assert clock.now() - before == pytest.approx(10.0)
        clock.skew_seconds = 0.0
        assert clock.timestamp() == pytest.approx(EPOCH + 20.0)

    run_virtual(main())


@pytest.mark.parametrize(
    "leak",
    [
        lambda: time.time(),
        lambda: time.monotonic(),
        lambda: time.perf_counter(),
        lambda: time.sleep(0.0),
        lambda: time.clock_gettime(time.CLOCK_REALTIME),
        lambda: random.random(),
        lambda: random.shuffle([]),
        lambda: np.random.default_rng(),
        lambda: np.random.rand(),
        lambda: os.urandom(4),
        lambda: secrets.randbits(4),
        lambda: uuid.uuid4(),
        lambda: threading.Thread(target=int).start(),
        lambda: asyncio.get_running_loop().run_in_executor(None, int),
    ],
)
def test_nothing_that_differs_from_run_to_run_leaks_in(leak: Callable[[], object]) -> None:
    async def main() -> None:
        leak()

    with pytest.raises(LeakError):
        run_virtual(main())


@pytest.mark.parametrize(
    "leak",
    [lambda: time.time(), lambda: asyncio.get_running_loop().run_in_executor(None, int)],
)
def test_a_leak_ends_the_run_even_if_it_is_taken_for_another_error(
    leak: Callable[[], object],
) -> None:
    async def main() -> None:
        with contextlib.suppress(Exception):
            leak()

    with pytest.raises(LeakError):
        run_virtual(main())


def test_afterwards_all_is_as_before() -> None:
    places = (time.time, random.random, os.urandom, np.random.default_rng, threading.Thread.start)
    run_virtual(asyncio.sleep(1.0))
    assert places == (
        time.time, random.random, os.urandom, np.random.default_rng, threading.Thread.start,
    )  # fmt: skip
    assert time.time() > 0


def test_generators_with_a_seed_are_welcome() -> None:
    async def main() -> float:
        return float(np.random.default_rng(3).random() + np.random.default_rng(seed=3).random())

    assert run_virtual(main()) == run_virtual(main())


def test_seeds_of_parts_are_independent_and_lasting() -> None:
    assert seed_of(1, "disk", "pi-1") == seed_of(1, "disk", "pi-1")
    assert len({seed_of(1, "a", "b"), seed_of(1, "ab"), seed_of(1, "a"), seed_of(2, "a", "b")}) == 4
    assert bits_of(1, "pi", 1)(62) != bits_of(1, "pi", 2)(62)


def test_the_trace_tells_runs_apart_to_the_last_bit() -> None:
    def traced(at: float, text: str = "x") -> str:
        trace = Trace(lambda: at)
        trace.record("net", "pi-1", text)
        return trace.digest

    assert traced(0.1 + 0.2) != traced(0.3)
    assert traced(0.3) == traced(0.3)
    assert traced(0.3, "y") != traced(0.3)


def test_the_timeline_is_bounded_and_lanes_hold_changes_only() -> None:
    trace = Trace(lambda: 1.0, lanes=True)
    for index in range(EVENTS_LIMIT + 5):
        trace.record("note", "pi-1", str(index), notable=True)
    assert (len(trace.events), trace.left_out) == (EVENTS_LIMIT, 5)
    for state in ("computing", "computing", "waiting"):
        trace.lane("pi-1", state)
    assert trace.lanes == {"pi-1": [(1.0, "computing"), (1.0, "waiting")]}


def test_a_frozen_device_shows_as_dead_and_goes_on_with_what_it_did() -> None:
    trace = Trace(lambda: 1.0, lanes=True)
    trace.lane("pi-1", "computing")
    trace.freeze("pi-1")
    trace.freeze("pi-1")
    trace.lane("pi-1", "transferring")
    assert trace.lanes["pi-1"][-1] == (1.0, "dead")
    trace.thaw("pi-1")
    trace.freeze("server-0")
    trace.thaw("server-0")
    states = {host: [state for _, state in lane] for host, lane in trace.lanes.items()}
    assert states == {
        "pi-1": ["computing", "dead", "transferring"],
        "server-0": ["dead", "waiting"],
    }


def test_a_device_that_is_killed_while_frozen_is_frozen_no_more() -> None:
    trace = Trace(lambda: 1.0, lanes=True)
    trace.lane("pi-1", "computing")
    trace.freeze("pi-1")
    trace.lane("pi-1", "dead")
    trace.lane("pi-1", "waiting")
    trace.thaw("pi-1")
    assert [state for _, state in trace.lanes["pi-1"]] == ["computing", "dead", "waiting"]
