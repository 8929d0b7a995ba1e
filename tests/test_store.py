"""A server's folder: what is found in it again, and what is refused or passed over."""

from __future__ import annotations

import asyncio
import errno
import os

import msgspec
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

from psedge.protocol.errors import ConfigError
from psedge.simulation.process import Process


@pytest.mark.parametrize("settings", [ALWAYS, GROUP], ids=["always", "group"])
def test_what_was_written_is_recovered_and_continued(settings):
    async def scenario(disk):
        await written(disk, settings, count=30)
        server, found = await reopened(disk)
        assert check_recovered(found) == 30
        assert server.said == []
        log = server.log(settings, begin=False)
        assert log.index == 30
        server.write(log, count=5, term=2)
        await log.holds(35)
        await server.store.close()
        server, found = await reopened(disk)
        assert check_recovered(found, term=None) == 35
        assert [each.term for each in found.entries[-6:]] == [1, 2, 2, 2, 2, 2]
        assert server.said == []

    run(scenario)


def test_a_snapshot_that_was_edited_is_told_and_the_one_before_it_is_taken():
    async def scenario(disk):
        await written(disk, count=100)
        older, newer = sorted(name for name in files(disk) if name.startswith("snapshot"))
        content = await disk.read(f"shard-0/{newer}")
        await disk.write_atomic(f"shard-0/{newer}", [content.replace(b"dampening", b"damqening")])
        server, found = await reopened(disk)
        assert found.order.at.index == int(older[9:29])
        assert check_recovered(found) == 100
        (said,) = server.said
        assert said == (
            f"the snapshot shard-0/{newer} is not used (it has changed since it was written); "
            f"shard 0 goes on from the one of entry {int(older[9:29])}"
        )

    run(scenario)


def test_an_older_snapshot_whose_log_ends_too_early_is_told():
    async def scenario(disk):
        await written(disk, count=100)
        names = files(disk)
        older, newer = sorted(name for name in names if name.startswith("snapshot"))
        await disk.write_atomic(f"shard-0/{newer}", [b"not a snapshot"])
        segments = sorted(name for name in names if name.startswith("segment"))
        for name in segments[1:]:
            await disk.remove(f"shard-0/{name}")
        server, found = await reopened(disk)
        reached = check_recovered(found)
        assert int(older[9:29]) < reached < int(newer[9:29])
        (said,) = server.said
        assert f"the log reaches only to entry {reached}: entries {reached + 1} to" in said
        log = server.log(begin=False)
        server.write(log, count=3)
        await server.store.close()
        assert newer not in files(disk)
        _, found = await reopened(disk)
        assert check_recovered(found) == reached + 3

    run(scenario)


def test_no_usable_snapshot_is_told_and_a_new_beginning_outlives_what_is_left():
    async def scenario(disk):
        await written(disk, count=100)
        for name in files(disk):
            if name.startswith("snapshot"):
                await disk.write_atomic(f"shard-0/{name}", [b"PK"])
        server = Server(disk)
        assert await server.open() == []
        (said,) = server.said
        assert said.startswith("shard 0 cannot be recovered from shard-0: it holds no snapshot")
        log = server.log()
        server.write(log, count=2)
        await server.store.close()
        server, found = await reopened(disk)
        assert check_recovered(found) == 2
        assert len(files(disk)) == 2

    run(scenario)


def test_a_new_beginning_is_never_combined_with_what_was_before():
    """At no moment: the disk is looked at after each operation of the new beginning."""
    seen = set()

    async def serve(disk):
        server = Server(disk)
        await server.open()
        log = server.log(ALWAYS, begin=False)
        log.begin(*image(20, term=2))
        log.write(entries(21, 31, term=2))
        await log.holds(30)

    async def scenario(disk, cut_at):
        await written(disk, count=50)
        process = Process("server", 1)
        process.run(serve(disk))
        await asyncio.sleep(cut_at)
        process.kill()
        disk.disk.power_cut()
        server, found = await reopened(disk)
        reached = check_recovered(found, term=None)
        terms = {each.term for each in found.entries} | {found.order.at.term} - {0}
        assert terms == ({1} if reached == 50 else {2}), (reached, terms)
        assert reached == 50 or 20 <= reached <= 30
        log = server.log(ALWAYS, begin=False)
        server.write(log, count=3, term=3)
        await server.store.close()
        _, found = await reopened(disk)
        assert check_recovered(found, term=None) == reached + 3
        seen.add(reached)

    for step in range(60):
        for seed in range(3):
            run(lambda disk, cut_at=0.002 * step: scenario(disk, cut_at), seed)
    assert {20, 30, 50} <= seen


def test_the_log_of_a_lower_lineage_is_not_taken_for_a_newer_one_that_is_damaged():
    async def scenario(disk):
        await written(disk, count=20)
        old = {path: content for path, content in disk.disk.files().items() if "shard" in path}
        server = Server(disk)
        await server.open()
        log = server.log(begin=False)
        log.begin(*image(5, term=2))
        log.write(entries(6, 8, term=2))
        await server.store.close()
        for path, content in old.items():
            if path not in disk.disk.files():
                await disk.write_atomic(path, [content])
        (newer,) = (name for name in files(disk) if name.startswith("snapshot-" + "0" * 19 + "5"))
        await disk.write_atomic(f"shard-0/{newer}", [b"?"])
        server = Server(disk)
        assert await server.open() == []
        (said,) = server.said
        assert "is of a log that replaced it" in said

    run(scenario)


def test_a_dropped_shard_is_gone_and_may_come_again():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        log = server.log(ALWAYS)
        server.write(log, count=20)
        await server.store.drop(0)
        assert files(disk) == []
        disk.disk.power_cut()
        server = Server(disk)
        await server.open()
        log = server.log(ALWAYS)
        log.begin(*image(5, term=2))
        log.write(entries(6, 8, term=2))
        await server.store.close()
        _, found = await reopened(disk)
        assert check_recovered(found, term=2) == 7

    run(scenario)


def test_entries_that_do_not_follow_are_a_mistake():
    async def scenario(disk):
        server = Server(disk)
        await server.open()
        with pytest.raises(ValueError, match="needs a run"):
            server.store.log(0, msgspec.structs.replace(ALWAYS, sync="off"))
        log = server.store.log(0, ALWAYS)
        with pytest.raises(ValueError, match="does not follow"):
            log.write(entries(1, 2))
        log.begin(*image(0))
        with pytest.raises(ValueError, match="does not follow"):
            log.write(entries(2, 3))

    run(scenario)


def test_a_folder_of_another_run_is_refused_by_both_names():
    async def scenario(disk):
        server = await written(disk)
        identity = server.store.identity
        assert len(identity) == 16
        with pytest.raises(ConfigError) as caught:
            await Server(disk).open("run-two")
        assert str(caught.value) == (
            "the folder holds the logs of run run-one, and this is run run-two: "
            "name another folder with --store, or empty this one if that run is over"
        )
        server = Server(disk, seed=5)
        await server.open("")
        assert (server.store.identity, server.store.run) == (identity, RUN)
        with pytest.raises(ConfigError, match="run-two"):
            await server.store.bind("run-two")

    run(scenario)


def test_a_folder_is_fit_for_a_new_run_or_refused_before_there_is_one():
    async def scenario(disk):
        await Server(disk).store.require_new()
        await Server(disk, seed=1).store.require_new()
        await written(disk)
        with pytest.raises(ConfigError, match="holds the logs of run run-one, and this is a new "):
            await Server(disk).store.require_new()
        await disk.remove("store.json")
        with pytest.raises(ConfigError, match=r"no store\.json"):
            await Server(disk).store.require_new()

    run(scenario)


def test_a_new_folder_takes_its_run_when_that_is_known():
    async def scenario(disk):
        server = Server(disk)
        assert await server.open("") == []
        identity = server.store.identity
        await server.store.bind(RUN)
        server = Server(disk, seed=7)
        await server.open("")
        assert (server.store.identity, server.store.run) == (identity, RUN)

    run(scenario)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"log_version": 9, "store": "a", "run": "b"}', "logs of version 9"),
        (b'{"log_version": 1, "store": "a", "run": "b"}', "has changed since"),
        (None, "no store.json"),
    ],
)
def test_a_folder_that_is_no_folder_of_a_server(content, message):
    async def scenario(disk):
        await written(disk)
        if content is None:
            await disk.remove("store.json")
        else:
            await disk.write_atomic("store.json", [content])
        with pytest.raises(ConfigError, match=message) as caught:
            await Server(disk).open()
        assert ("put the right file back, or " in str(caught.value)) == (message[:4] != "logs")

    run(scenario)


def test_a_folder_that_cannot_be_written_to_is_said_at_once():
    async def scenario(disk):
        disk.fail["write_atomic"] = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with pytest.raises(ConfigError) as caught:
            await Server(disk).open()
        assert str(caught.value) == (
            "the folder cannot be written to (permission denied): name another folder with --store"
        )

    run(scenario)
