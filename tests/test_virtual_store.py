"""The supervisor's memory in the virtual world: the conformance suite, and power cuts."""

from __future__ import annotations

import asyncio

import pytest
from store_conformance import StoreConformance

from psedge.simulation.disk import VirtualDisk
from psedge.simulation.loop import run_virtual
from psedge.simulation.virtual_store import VirtualStore
from psedge.supervisor.store import StoreError


def run(scenario, **settings):
    async def main():
        disk = VirtualDisk(asyncio.sleep, settings.pop("seed", 0), **settings)
        await scenario(disk)

    run_virtual(main())


class TestVirtualStore(StoreConformance):
    def run(self, scenario):
        run(lambda disk: scenario(lambda: VirtualStore.open(disk)))


def test_a_commit_takes_one_sync(tmp_path):
    async def scenario(disk):
        store = await VirtualStore.open(disk)
        clock = asyncio.get_running_loop().time
        started = clock()
        await store.commit({"a": b"1"})
        assert clock() - started == pytest.approx(0.005, rel=0.01)

    run(scenario)


@pytest.mark.parametrize("seed", range(20))
def test_a_power_cut_takes_nothing_that_was_committed_and_no_half(seed):
    async def scenario(disk):
        store = await VirtualStore.open(disk)
        for number in range(20):
            await store.commit({"a": b"%d" % number, "b": b"%d" % number * 5000})
        late = asyncio.ensure_future(store.commit({"a": b"20", "b": b"20" * 5000}))
        await asyncio.sleep(0.0001 * seed)
        disk.power_cut()
        late.cancel()
        rows = await (await VirtualStore.open(disk)).read()
        assert rows["a"] in (b"19", b"20")
        assert rows["b"] == rows["a"] * 5000

    run(scenario, seed=seed)


def test_a_full_disk_changes_nothing_until_there_is_room():
    async def scenario(disk):
        store = await VirtualStore.open(disk)
        await store.commit({"a": b"1"})
        disk.full = True
        for value in (b"2", b"3"):
            with pytest.raises(StoreError, match="No space left"):
                await store.commit({"a": value})
        assert await store.read() == {"a": b"1"}
        disk.full = False
        await store.commit({"b": b"4"})
        assert await (await VirtualStore.open(disk)).read() == {"a": b"1", "b": b"4"}

    run(scenario)
