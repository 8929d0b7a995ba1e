"""Logs on disks that are full, too slow or broken: nothing is lost in silence."""

from __future__ import annotations

import asyncio
import errno
import os
import random

import msgspec
import pytest
from log_rig import (
    ALWAYS,
    GROUP,
    Server,
    check_recovered,
    entries,
    files,
    image,
    reopened,
    run,
)

from psedge.protocol.errors import RefusedError
from psedge.protocol.replicas import Position
from psedge.server import shard_log
from psedge.server.log_folder import LogFolder


def test_a_full_disk_is_told_once_and_nothing_is_lost():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        logs = [server.store.log(0, ALWAYS), server.store.log(1, GROUP)]
        for shard, log in enumerate(logs):
            log.begin(*image(0, shard=shard))
            await log.holds(0)
        disk.disk.full = True
        for index in range(1, 40):
            for shard, log in enumerate(logs):
                log.write(entries(index, index + 1))
                if log.wants_snapshot:
                    log.snapshot(*image(index, shard=shard))
            await asyncio.sleep(1.0)
        assert [log.index for log in logs] == [0, 0]
        assert len(server.said) == 1
        assert server.said[0].startswith("cannot write the log of shard 0 to the folder: the disk ")
        disk.disk.full = False
        await asyncio.gather(*(log.holds(39) for log in logs))
        assert server.said[1:] == ["logs are written to the folder again"]
        await server.store.close()
        server = Server(disk)
        found = await server.open()
        assert [check_recovered(each) for each in found] == [39, 39]
        assert server.said == []

    run(scenario)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("settings", [ALWAYS, GROUP], ids=["always", "group"])
def test_a_disk_that_fills_up_and_is_freed_again_loses_nothing(seed, settings):
    chance = random.Random(seed)

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(settings)
        for _ in range(60):
            disk.disk.file_system._capacity_bytes = chance.choice(
                [float("inf"), disk.disk.file_system.used_bytes + chance.randrange(500)]
            )
            server.write(log, size=chance.randrange(300))
            await asyncio.sleep(chance.uniform(0.0, 3.0))
        disk.disk.file_system._capacity_bytes = float("inf")
        await log.holds(server.at.index)
        await asyncio.sleep(2 * GROUP.sync_seconds)
        disk.disk.power_cut()
        _, found = await reopened(disk)
        assert check_recovered(found) == server.at.index

    run(scenario, seed)


def test_what_is_too_much_for_memory_is_made_up_for_by_a_snapshot(monkeypatch):
    monkeypatch.setattr(shard_log, "WAITING_LIMIT_BYTES", 3000)
    monkeypatch.setattr(shard_log, "BATCH_BYTES", 500)

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(msgspec.structs.replace(GROUP, snapshot_bytes=10**6))
        await log.holds(0)
        disk.disk.full = True
        for _ in range(200):
            server.write(log)
            await asyncio.sleep(1.0)
        assert log._waiting_bytes <= 3000
        waiting = asyncio.ensure_future(log.holds(150))
        disk.disk.full = False
        for _ in range(40):
            server.write(log)
            await asyncio.sleep(1.0)
        assert waiting.done()
        await log.holds(server.at.index)
        assert len(server.said) == 3
        assert server.said[1].startswith("the disk does not keep up with the log of shard 0: ")
        await asyncio.sleep(2.0)
        disk.disk.power_cut()
        server, found = await reopened(disk)
        assert check_recovered(found) == 240
        assert server.said == []

    run(scenario)


@pytest.mark.parametrize("told", [True, False], ids=["image", "no image"])
def test_a_log_that_lacks_entries_is_made_whole_when_it_is_closed(monkeypatch, told):
    monkeypatch.setattr(shard_log, "WAITING_LIMIT_BYTES", 3000)

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(msgspec.structs.replace(GROUP, snapshot_bytes=10**6))
        await log.holds(0)
        if told:
            log.image = lambda: image(server.at.index)
        disk.disk.full = True
        log.write(entries(1, 101))
        await asyncio.sleep(1.0)
        server.at = Position(1, 100)
        disk.disk.full = False
        await server.store.close()
        assert ("could not be written" in server.said[-1]) != told
        _, found = await reopened(disk)
        assert check_recovered(found) == (100 if told else 0)

    run(scenario)


def test_with_always_nobody_who_waits_is_forgotten_however_much_it_is(monkeypatch):
    monkeypatch.setattr(shard_log, "WAITING_LIMIT_BYTES", 3000)

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(ALWAYS)
        await log.holds(0)
        disk.disk.full = True
        log.write(entries(1, 201))
        await asyncio.sleep(60.0)
        assert log.index == 0
        disk.disk.full = False
        await log.holds(200)
        disk.disk.power_cut()
        _, found = await reopened(disk)
        assert check_recovered(found) == 200

    run(scenario)


def test_after_a_sync_that_failed_the_log_begins_anew():
    """What the kernel dropped then is not found out by trying again."""

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(GROUP)
        for _ in range(3):
            server.write(log)
        disk.fail["sync"] = OSError(errno.EIO, os.strerror(errno.EIO))
        await asyncio.sleep(1.5)
        del disk.fail["sync"]
        assert log.wants_snapshot
        server.write(log)
        await asyncio.sleep(2.0)
        assert log.index == 4
        assert len(server.said) == 2
        await server.store.close()
        assert sum(name.startswith("snapshot") for name in files(disk)) == 1
        server, found = await reopened(disk)
        assert found.order.at.index == check_recovered(found) == 4

    run(scenario)


def test_those_who_wait_are_told_that_it_is_in_vain():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        for what, code in (("begin", "not-primary"), ("drop", "not-primary"), ("stop", "stopped")):
            log = server.store.log(0, ALWAYS)
            log.begin(*image(0))
            disk.disk.full = True
            log.write(entries(1, 3))
            waiting = asyncio.ensure_future(log.holds(2))
            await asyncio.sleep(0.5)
            if what == "begin":
                log.begin(*image(0))
            elif what == "drop":
                await server.store.drop(0)
            else:
                await server.store.close()
                assert "could not be written: it is lost" in server.said[-1]
            with pytest.raises(RefusedError) as caught:
                await waiting
            assert caught.value.code == code
            disk.disk.full = False
            await asyncio.sleep(5.0)

    run(scenario)


def test_a_mistake_of_psedge_itself_is_not_swallowed(monkeypatch):
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(ALWAYS)
        await log.holds(0)

        async def broken(self, first):
            raise KeyError("a mistake")

        monkeypatch.setattr(LogFolder, "open_segment", broken)
        server.write(log)
        with pytest.raises(Exception, match="a mistake"):
            await log.holds(1)
        with pytest.raises(KeyError):
            server.write(log)
        await server.store.close()

    run(scenario)


@pytest.mark.parametrize("trouble", ["too much", "sync failed"])
def test_a_log_in_trouble_mends_itself_though_nobody_pushes(monkeypatch, trouble):
    monkeypatch.setattr(shard_log, "WAITING_LIMIT_BYTES", 3000)

    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(msgspec.structs.replace(GROUP, snapshot_bytes=10**6))
        await log.holds(0)
        log.image = lambda: image(100)
        if trouble == "too much":
            disk.disk.full = True
            log.write(entries(1, 101))
        else:
            disk.fail["sync"] = OSError(errno.EIO, os.strerror(errno.EIO))
            log.write(entries(1, 101, size=0)[:50])
            log.write(entries(51, 101, size=0))
        await asyncio.sleep(10.0)
        disk.disk.full = False
        disk.fail.clear()
        await asyncio.sleep(40.0)
        disk.disk.power_cut()
        _, found = await reopened(disk)
        assert check_recovered(found) == 100

    run(scenario)


def test_a_sync_of_what_was_written_before_does_not_mean_that_the_disk_has_room():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(GROUP)
        await log.holds(0)
        server.write(log)
        await log.holds(1)
        disk.disk.full = True
        for _ in range(100):
            server.write(log)
            await asyncio.sleep(1.0)
        assert log.index == 1
        assert len(server.said) == 1
        disk.disk.full = False
        await log.holds(server.at.index)
        assert server.said[1:] == ["logs are written to the folder again"]
        await server.store.close()
        assert len(server.said) == 2

    run(scenario)


@pytest.mark.parametrize("settings", [ALWAYS, GROUP], ids=["always", "group"])
def test_a_sync_that_failed_is_over_once_the_log_has_begun_anew(settings):
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(settings)
        await log.holds(0)
        disk.fail["sync"] = OSError(errno.EIO, os.strerror(errno.EIO))
        for _ in range(5):
            server.write(log)
            await asyncio.sleep(2.0)
        disk.fail.clear()
        for _ in range(20):
            server.write(log)
            await asyncio.sleep(2.0)
        assert server.said[1:] == ["logs are written to the folder again"]
        await server.store.close()
        assert len(server.said) == 2

    run(scenario)
