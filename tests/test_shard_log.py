"""A log on its way to disk: what is there when somebody was told so, and what that costs."""

from __future__ import annotations

import asyncio
import random

import msgspec
import numpy as np
import pytest
from log_rig import (
    ALWAYS,
    GROUP,
    RUN,
    Server,
    check_recovered,
    entries,
    files,
    image,
    reopened,
    run,
    written,
)

from psedge.protocol.replicas import Position
from psedge.server.log_files import LogFiles, LogStart
from psedge.server.log_folder import LogFolder
from psedge.server.segment import segment_name
from psedge.server.snapshot import encode_snapshot, snapshot_name
from psedge.simulation.process import Process


def test_always_means_on_disk_and_group_means_in_the_file():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        logs = [server.store.log(0, ALWAYS), server.store.log(1, GROUP)]
        for shard, log in enumerate(logs):
            log.begin(*image(0, shard=shard))
            assert log.index == -1
            await log.holds(0)
        before = disk.counts["sync"]
        logs[1].write(entries(1, 3))
        await logs[1].holds(2)
        assert disk.counts["sync"] == before
        logs[0].write(entries(1, 3))
        assert logs[0].index == 0
        await logs[0].holds(2)
        assert disk.counts["sync"] == before + 1
        assert [log.index for log in logs] == [2, 2]

    run(scenario)


def test_entries_that_gather_while_the_disk_works_cost_one_append_and_one_sync():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(msgspec.structs.replace(ALWAYS, segment_bytes=10**6, snapshot_bytes=10**6))
        await log.holds(0)
        disk.counts.clear()
        server.write(log)
        await asyncio.sleep(0)
        for _ in range(100):
            server.write(log)
        await log.holds(101)
        assert disk.counts == {"append": 2, "sync": 2}

    run(scenario)


def test_with_group_there_is_one_sync_a_second_and_none_when_nothing_is_new():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(msgspec.structs.replace(GROUP, segment_bytes=10**6, snapshot_bytes=10**6))
        await log.holds(0)
        await asyncio.sleep(10.0)
        disk.counts.clear()
        for _ in range(1000):
            server.write(log)
            await asyncio.sleep(0.01)
        await asyncio.sleep(60.0)
        assert 9 <= disk.counts.pop("sync") <= 11
        assert disk.counts == {"append": 1000}

    run(scenario)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_was_said_to_be_on_disk_survives_a_power_cut_at_any_moment(seed):
    chance = random.Random(seed)
    held: list[int] = []

    async def serve(disk):
        server = Server(disk, seed=seed)
        await server.open()
        log = server.log(ALWAYS, begin=server.at.index == 0)

        async def wait(index):
            await log.holds(index)
            held.append(index)

        waiting = []
        while True:
            index = server.write(log, chance.randrange(1, 4), size=chance.randrange(0, 400))
            waiting.append(asyncio.ensure_future(wait(index)))
            await asyncio.sleep(chance.choice([0.0, 0.001, 0.01]))

    async def scenario(disk):
        for life in range(3):
            process = Process("server", life)
            process.run(serve(disk))
            await asyncio.sleep(chance.uniform(0.0, 0.6))
            process.kill()
            disk.disk.power_cut()
            server = Server(disk, seed=1)
            found = await server.open()
            assert found or not held
            if found:
                assert check_recovered(found[0]) >= max(held, default=0)

    run(scenario, seed)


@pytest.mark.parametrize("seed", range(40))
def test_with_group_a_power_cut_costs_no_more_than_what_was_not_synced(seed):
    chance = random.Random(seed)
    times: list[float] = []

    async def serve(disk):
        server = Server(disk, seed=seed)
        await server.open()
        log = server.log(GROUP)
        while True:
            index = server.write(log, size=chance.randrange(0, 200))
            await log.holds(index)
            times.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.02)

    async def scenario(disk):
        process = Process("server", 1)
        process.run(serve(disk))
        await asyncio.sleep(chance.uniform(2.0, 6.0))
        process.kill()
        disk.disk.power_cut()
        server, found = await reopened(disk)
        reached = check_recovered(found)
        now = asyncio.get_running_loop().time()
        assert reached >= sum(1 for time in times if now - time > 1.3)
        assert len(server.said) <= 1

    run(scenario, seed)


def test_a_killed_process_loses_nothing_with_group():
    async def scenario(disk):
        process = Process("server", 1)
        server = Server(disk)
        await server.open()

        async def serve():
            log = server.log(GROUP)
            while True:
                await log.holds(server.write(log))

        process.run(serve())
        await asyncio.sleep(0.5)
        process.kill()
        disk.disk.process_died()
        _, found = await reopened(disk)
        assert server.at.index - 1 <= check_recovered(found) <= server.at.index

    run(scenario)


def test_the_disk_holds_two_snapshots_and_twice_the_log_that_is_allowed():
    async def scenario(disk):
        server = await written(disk, GROUP, count=3000, size=60)
        names = files(disk)
        assert sum(name.startswith("snapshot") for name in names) == 2
        snapshot_bytes = len(await disk.read(f"shard-0/{names[-1]}"))
        bound = 2 * GROUP.snapshot_bytes + 3 * snapshot_bytes + 1000
        assert disk.largest_bytes < bound
        assert server.at.index * 100 > 10 * bound
        server, found = await reopened(disk)
        assert check_recovered(found) == 3000

    run(scenario)


def test_a_snapshot_in_the_middle_of_a_round_is_followed_by_what_came_since():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(ALWAYS)
        await log.holds(0)
        server.write(log, count=10)
        log.snapshot(*image(7))
        server.write(log, count=2)
        await log.holds(12)
        await server.store.close()
        _, found = await reopened(disk)
        assert found.order.at.index == 7
        assert check_recovered(found) == 12

    run(scenario)


def test_with_group_short_entries_are_in_the_file_at_once_unless_the_disk_is_at_work():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(msgspec.structs.replace(GROUP, segment_bytes=10**6, snapshot_bytes=10**6))
        await log.holds(server.write(log))
        for _ in range(3):
            assert server.write(log) == log.index
        await asyncio.sleep(GROUP.sync_seconds)
        syncing = asyncio.ensure_future(disk.sync(f"shard-0/{segment_name(1)}"))
        await asyncio.sleep(0.001)
        assert server.write(log) > log.index
        assert server.write(log) > log.index
        await syncing
        await log.holds(server.at.index)
        assert server.write(log) == log.index
        disk.disk.process_died()
        _, found = await reopened(disk)
        assert check_recovered(found) == server.at.index

    run(scenario)


def test_a_segment_is_forced_to_disk_while_the_next_one_is_appended_to():
    async def scenario(disk):
        log = LogFiles(LogFolder(disk, "shard-0"), RUN, 0, LogStart(), segment_bytes=1)
        await log.begin(1, Position(), encode_snapshot(RUN, 1, *image(0)))
        await log.append(entries(1, 2), 1)
        assert not log.behind
        disk.counts.clear()
        await log.append(entries(2, 3), 1)
        assert log.behind
        assert disk.counts == {"append": 1}
        disk.disk.slow_factor = 1000.0
        syncing = asyncio.ensure_future(log.sync())
        await asyncio.sleep(1.0)
        third = asyncio.ensure_future(log.append(entries(3, 4), 1))
        await asyncio.sleep(1.0)
        assert log.behind
        assert files(disk)[:2] == [segment_name(1), segment_name(2)]
        assert segment_name(3) not in files(disk)
        await asyncio.gather(syncing, third)
        assert disk.disk.file_system.file(("shard-0", segment_name(2))).synced > 0
        await log.sync()
        assert not log.behind
        assert not log.unsynced

    run(scenario)


def test_segments_are_on_disk_soon_after_they_are_complete():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(msgspec.structs.replace(GROUP, snapshot_bytes=10**9))
        for _ in range(200):
            await log.holds(server.write(log))
        await asyncio.sleep(1.5)
        disk.disk.power_cut()
        _, found = await reopened(disk)
        assert check_recovered(found) == 200

    for seed in range(5):
        run(scenario, seed)


def test_segments_stay_as_long_as_the_older_snapshot_needs_them():
    async def scenario(disk):
        folder = LogFolder(disk, "shard-0")
        log = LogFiles(folder, RUN, 0, LogStart(), segment_bytes=1)
        await log.begin(1, Position(), encode_snapshot(RUN, 1, *image(0)))
        for first in (1, 4, 8, 10):
            await log.append(entries(first, first + 2), 1)
        for index in (5, 9):
            await log.snapshot(index, encode_snapshot(RUN, 1, *image(index)))
            await log.prune()
        assert files(disk) == [
            *(segment_name(first) for first in (4, 8, 10)),
            *(snapshot_name(index) for index in (5, 9)),
        ]

    run(scenario)


def test_a_segment_that_is_removed_need_not_be_forced_to_disk():
    async def scenario(disk):
        log = LogFiles(LogFolder(disk, "shard-0"), RUN, 0, LogStart(), segment_bytes=1)
        await log.begin(1, Position(), encode_snapshot(RUN, 1, *image(0)))
        for index in (1, 2):
            await log.append(entries(index, index + 1), 1)
            await log.snapshot(index, encode_snapshot(RUN, 1, *image(index)))
        assert log.behind
        await log.prune()
        assert files(disk)[0] == segment_name(2)
        assert not log.behind
        await log.sync()
        assert not log.doubtful

    run(scenario)


@pytest.mark.parametrize("busy", ["append", "snapshot", "base"])
def test_a_new_beginning_while_the_disk_is_at_work_on_the_old_log(busy):
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(ALWAYS)
        if busy != "base":
            await log.holds(server.write(log, count=30))
        server.write(log, count=2)
        if busy == "snapshot":
            order, arrays = image(32)
            log.snapshot(order, {**arrays, "large": np.zeros(20_000_000, np.uint8)})
        await asyncio.sleep(0.001)
        log.begin(*image(20, term=2))
        assert log.index == -1
        log.write(entries(21, 31, term=2))
        await log.holds(30)
        await asyncio.sleep(1.0)
        assert files(disk) == [segment_name(21), snapshot_name(20)]
        _, found = await reopened(disk)
        assert check_recovered(found, term=2) == 30

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_a_disk_slower_than_the_pushes_ends_with_all_of_them(seed, monkeypatch):
    """What does not fit memory is dropped while the disk may be at work on it."""
    monkeypatch.setattr("psedge.server.shard_log.WAITING_LIMIT_BYTES", 2000)
    monkeypatch.setattr("psedge.server.shard_log.SNAPSHOT_RETRY_SECONDS", 0.2)
    chance = random.Random(seed)

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(GROUP)
        for _ in range(300):
            disk.disk.slow_factor = chance.choice([1.0, 1.0, 20.0])
            server.write(log, count=chance.randrange(1, 8))
            await asyncio.sleep(chance.uniform(0.0, 0.02))
        disk.disk.slow_factor = 1.0
        while log.index < server.at.index:
            await asyncio.sleep(1.0)
            server.write(log)
            await asyncio.sleep(1.0)
        await asyncio.sleep(2.0)
        disk.disk.power_cut()
        _, found = await reopened(disk)
        assert check_recovered(found) == server.at.index

    run(scenario, seed)
