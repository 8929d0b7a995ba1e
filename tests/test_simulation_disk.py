"""The virtual disk: the conformance suite, and what faults leave on it."""

from __future__ import annotations

import asyncio
import errno
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_conformance import StorageConformance

from psedge.simulation.disk import VirtualDisk
from psedge.simulation.file_system import FileSystem
from psedge.simulation.loop import run_virtual
from psedge.simulation.process import Process

MB = 1_000_000


def run(scenario, seed=0, **settings):
    """Run `scenario(disk, now)` on a fresh disk in virtual time; returns the disk."""

    async def main():
        disk = VirtualDisk(asyncio.sleep, seed, **settings)
        await scenario(disk, asyncio.get_running_loop().time)
        disk.file_system.check_invariants()
        return disk

    return run_virtual(main())


def drafts(disk):
    return [parts for parts, _ in disk.file_system.walk() if parts[-1].endswith(".psedge-draft")]


class TestVirtualDisk(StorageConformance):
    def run(self, scenario):
        run(lambda disk, now: scenario(disk))


def test_operations_take_the_time_of_their_bytes_and_syncs():
    async def scenario(disk, now):
        await disk.write_atomic("f", (bytes(10 * MB),))
        assert now() == pytest.approx(10 / 80 + 2 * 0.005)
        await disk.read("f")
        assert now() == pytest.approx(20 / 80 + 2 * 0.005)
        await disk.append("log", bytes(8 * MB))
        assert now() == pytest.approx(28 / 80 + 2 * 0.005)
        await disk.names("")
        assert now() == pytest.approx(28 / 80 + 2 * 0.005)

    run(scenario)


def test_a_slow_disk_is_slow_for_those_who_wait_for_it():
    async def scenario(disk, now):
        disk.slow_factor = 10.0
        await disk.write_atomic("f", (bytes(MB),))
        assert now() == pytest.approx(10 * (1 / 80 + 0.01))

    run(scenario)


def test_operations_share_one_disk_and_a_small_one_need_not_wait_for_a_large_one():
    async def scenario(disk, now):
        large = asyncio.ensure_future(disk.write_atomic("large", (bytes(80 * MB),)))
        await asyncio.sleep(0.001)
        await disk.write_atomic("small", (b"x",))
        assert now() < 0.1
        await large
        assert now() == pytest.approx(1.0 + 4 * 0.005)

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_a_write_that_returned_survives_a_power_cut_whole(seed):
    async def scenario(disk, now):
        await disk.write_atomic("a/b/f", (b"old",))
        await disk.write_atomic("a/b/f", (b"new" * MB,))
        await disk.append("a/b/log", b"line\n")
        disk.power_cut()
        assert await disk.read("a/b/f") == b"new" * MB
        assert not drafts(disk)

    run(scenario, seed)


def test_a_power_cut_tears_appended_tails_at_any_byte():
    left = set()

    async def scenario(disk, now):
        await disk.append("log", b"kept\n")
        await asyncio.sleep(60.0)
        await disk.append("log", b"tail")
        disk.power_cut()
        left.add(await disk.read("log"))

    for seed in range(100):
        run(scenario, seed)
    assert left == {b"kept\n" + b"tail"[:length] for length in range(5)}


@pytest.mark.parametrize("seed", range(20))
def test_what_was_forced_to_disk_survives_a_power_cut(seed):
    async def scenario(disk, now):
        await disk.append("a/log", b"kept")
        await disk.sync("a/log")
        await disk.append("a/log", b"tail")
        disk.power_cut()
        content = await disk.read("a/log")
        assert content.startswith(b"kept")
        await disk.sync("a/log")
        disk.power_cut()
        assert await disk.read("a/log") == content

    run(scenario, seed)


def test_what_is_appended_during_a_sync_is_not_forced_to_disk_by_it():
    left = set()

    async def scenario(disk, now):
        await disk.append("log", b"1")
        syncing = asyncio.ensure_future(disk.sync("log"))
        await asyncio.sleep(0)
        appending = asyncio.ensure_future(disk.append("log", b"2"))
        await asyncio.gather(syncing, appending)
        assert await disk.read("log") == b"12"
        disk.power_cut()
        left.add(await disk.read("log"))

    for seed in range(30):
        run(scenario, seed)
    assert left == {b"1", b"12"}


def test_a_sync_costs_one_for_the_file_and_one_for_a_new_name():
    async def scenario(disk, now):
        await disk.append("log", b"")
        began = now()
        await disk.sync("log")
        assert now() - began == pytest.approx(2 * 0.005)
        await disk.sync("log")
        assert now() - began == pytest.approx(3 * 0.005)
        disk.process_died()
        await disk.sync("log")
        assert now() - began == pytest.approx(5 * 0.005)
        await disk.remove("log")
        await disk.append("log", b"")
        began = now()
        await disk.sync("log")
        assert now() - began == pytest.approx(2 * 0.005)

    run(scenario)


def test_a_new_file_that_was_only_appended_to_may_be_gone():
    left = set()

    async def scenario(disk, now):
        await disk.append("log", b"x")
        disk.power_cut()
        left.add(tuple(disk.files().items()))

    for seed in range(50):
        run(scenario, seed)
    assert left == {(), (("log", b""),), (("log", b"x"),)}


def test_a_write_interrupted_by_a_power_cut_is_the_old_or_the_new_content():
    left = set()

    async def scenario(disk, now, cut_at):
        await disk.write_atomic("f", (b"old",))
        started = now()
        writing = asyncio.ensure_future(disk.write_atomic("f", (b"new" * MB,)))
        await asyncio.sleep(cut_at)
        assert writing.done() == (now() - started > 3 / 80 + 0.01)
        disk.power_cut()
        content = await disk.read("f")
        left.add((round(cut_at, 4), content[:3]))
        assert content in (b"old", b"new" * MB)
        assert await disk.names("") == ["f"]

    middle, renamed, after = 2 / 80, 3 / 80 + 0.007, 3 / 80 + 0.012
    for cut_at in (0.0, middle, renamed, after):
        for seed in range(20):
            run(partial(scenario, cut_at=cut_at), seed)
    assert left == {
        (0.0, b"old"),
        (middle, b"old"),
        (round(renamed, 4), b"old"),
        (round(renamed, 4), b"new"),
        (round(after, 4), b"new"),
    }


def test_removed_files_may_come_back_after_a_power_cut():
    left = set()

    async def scenario(disk, now):
        await disk.write_atomic("folder/a", (b"a",))
        await disk.write_atomic("folder/b", (b"b",))
        await disk.remove("folder")
        assert disk.files() == {}
        disk.power_cut()
        left.add(tuple(disk.files()))

    for seed in range(200):
        run(scenario, seed)
    assert left == {(), ("folder/a",), ("folder/b",), ("folder/a", "folder/b")}


def test_a_killed_process_leaves_a_draft_and_what_it_appended():
    async def scenario(disk, now):
        await disk.write_atomic("f", (b"old",))
        await disk.append("log", b"line\n")
        writing = asyncio.ensure_future(disk.write_atomic("f", (bytes(8 * MB),)))
        await asyncio.sleep(4 / 80)
        disk.process_died()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert disk.files() == {"f": b"old", "log": b"line\n"}
        assert await disk.names("") == ["f", "log"]
        assert len(drafts(disk)) == 1
        assert 3 * MB < disk.file_system.used_bytes < 5 * MB
        await disk.write_atomic("f", (b"new",))
        assert await disk.read("f") == b"new"

    run(scenario)


def test_a_process_killed_while_it_writes_holds_up_neither_the_next_nor_the_kernel():
    async def scenario(disk, now):
        process = Process("host", 1)
        process.run(disk.append("log", b"line"))
        writing = process.run(disk.write_atomic("a/f", (bytes(8 * MB),)))
        await asyncio.sleep(0.05)
        process.kill()
        disk.process_died()
        await disk.write_atomic("a/f", (b"next",))
        await asyncio.sleep(40.0)
        assert not writing.done()
        disk.power_cut()
        assert disk.files() == {"a/f": b"next", "log": b"line"}

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_a_folder_made_by_a_process_that_was_killed_is_kept_once_it_is_used(seed):
    async def scenario(disk, now):
        making = asyncio.ensure_future(disk.write_atomic("a/b/f", (b"1",)))
        await asyncio.sleep(0.002)
        disk.process_died()
        await asyncio.gather(making, return_exceptions=True)
        await disk.write_atomic("a/b/f", (b"2",))
        disk.power_cut()
        assert disk.files() == {"a/b/f": b"2"}

    run(scenario, seed)


def test_a_full_disk_refuses_new_content_and_keeps_the_old():
    async def scenario(disk, now):
        await disk.write_atomic("f", (b"old",))
        disk.full = True
        for writing in (
            disk.write_atomic("f", (b"new",)),
            disk.append("f", b"more"),
            disk.write_atomic("folder/f", (b"x",)),
        ):
            with pytest.raises(OSError, match="No space left") as caught:
                await writing
            assert caught.value.errno == errno.ENOSPC
        assert disk.files() == {"f": b"old"}
        assert not drafts(disk)
        disk.full = False
        await disk.append("f", b"er")
        assert await disk.read("f") == b"older"

    run(scenario)


def test_capacity_is_shared_by_all_files_and_drafts():
    async def scenario(disk, now):
        await disk.write_atomic("f", (bytes(600),))
        with pytest.raises(OSError, match="No space left"):
            await disk.write_atomic("f", (bytes(600),))
        assert not drafts(disk)
        await disk.write_atomic("f", (bytes(400),))
        await disk.write_atomic("g", (bytes(600),))
        with pytest.raises(OSError, match="No space left"):
            await disk.append("log", b"x")
        await disk.remove("g")
        with pytest.raises(OSError, match="No space left"):
            await disk.append("log", bytes(601))
        # What fits of an appended text is written, as on a real disk.
        assert disk.file_system.used_bytes == 1000

    run(scenario, capacity_bytes=1000)


def test_rot_flips_one_bit_of_a_file_that_is_named():
    async def scenario(disk, now):
        assert disk.rot() is None
        await disk.write_atomic("checkpoints/1/model", (bytes(100),))
        await disk.write_atomic("other", (bytes(100),))
        assert disk.rot("missing") is None
        assert disk.rot("model") == "checkpoints/1/model"
        assert sum(byte.bit_count() for byte in await disk.read("checkpoints/1/model")) == 1
        assert await disk.read("other") == bytes(100)
        disk.power_cut()
        assert sum(byte.bit_count() for byte in await disk.read("checkpoints/1/model")) == 1

    run(scenario)


def test_a_seed_decides_what_is_left():
    async def scenario(disk, now):
        for index in range(20):
            await disk.append(f"log-{index}", bytes(1000))
        await disk.write_atomic("f", (bytes(1000),))
        await disk.remove("log-3")
        disk.rot()
        disk.power_cut()

    assert run(scenario, 1).files() == run(scenario, 1).files()
    assert run(scenario, 1).files() != run(scenario, 2).files()


@given(st.lists(st.tuples(st.sampled_from("amru"), st.sampled_from("xyz")), max_size=30), st.data())
@settings(max_examples=200, deadline=None)
def test_a_power_cut_leaves_a_state_that_a_folder_once_had(steps, data):
    """Against a plain list of all states since the last sync."""
    system = FileSystem()
    states = [set()]
    for what, name in steps:
        entries = system.folder(()).entries
        if what == "a":
            system.extend(system.open_file((name,)), memoryview(b"1"), (name,))
        elif what == "m" and name in entries:
            system.rename((name,), "renamed")
        elif what == "r" and name in entries:
            system.unlink((name,))
        elif what == "u":
            system.sync_folder(())
            states = [set(entries)]
        states.append(set(entries))
    system.power_cut(lambda choices: data.draw(st.integers(0, choices - 1)))
    system.check_invariants()
    assert set(system.folder(()).entries) in states


def test_folders_that_are_not_empty_are_not_unlinked():
    system = FileSystem()
    system.make_folder(("a",))
    system.make_folder(("a", "b"))
    assert not system.make_folder(("a",))
    with pytest.raises(OSError, match="not empty"):
        system.unlink(("a",))
    system.unlink(("a", "b"))
    system.unlink(("a",))
    with pytest.raises(FileNotFoundError):
        system.unlink(("a",))
