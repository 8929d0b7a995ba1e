"""Copies with a log on disk: what a push waits for, and what comes back after all are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from replication_rig import Node, Rig, first_arrays, refused, run, until

from psedge.protocol.disk import Disk
from psedge.protocol.ports import AppendFile, Buffer
from psedge.protocol.shards import LogSettings, ShardOrder
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.wire import Status
from psedge.server import hosted_shard
from psedge.server.store import ServerStore

ALWAYS = LogSettings("always")


class HeldFile:
    """An AppendFile of a HeldDisk."""

    def __init__(self, file: AppendFile, running: asyncio.Event) -> None:
        self._file = file
        self._running = running

    def append_now(self, parts: Sequence[Buffer]) -> bool:
        return self._running.is_set() and self._file.append_now(parts)

    async def append(self, parts: Sequence[Buffer]) -> None:
        await self._running.wait()
        await self._file.append(parts)

    async def close(self) -> None:
        await self._file.close()


class HeldDisk(Disk):
    """A disk whose writes wait for `running`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.running = asyncio.Event()
        self.running.set()

    async def open_append(self, path: str) -> AppendFile:
        return HeldFile(await super().open_append(path), self.running)

    async def remove(self, path: str) -> None:
        await self.running.wait()
        await super().remove(path)


def store(folder: Path, kind: type[Disk] = Disk) -> tuple[ServerStore, Any]:
    folder.mkdir(exist_ok=True)
    disk = kind(folder)
    made = ServerStore(disk, SystemClock(), print, lambda bits: 5)
    return made, disk


async def restarted(rig: Rig, number: int, folder: Path) -> Node:
    """A new process on the folder of one that is gone."""
    node = Node(number, rig.clock, store(folder)[0])
    rig.nodes.append(node)
    await rig.enter(node)
    return node


@pytest.mark.parametrize("sync", ["group", "always"])
@pytest.mark.parametrize("mode", ["asp", "bsp"])
@pytest.mark.parametrize("snapshot_bytes", [10**9, 4000])
def test_what_was_acknowledged_comes_back(
    tmp_path: Path, sync: Any, mode: str, snapshot_bytes: int
) -> None:
    async def story(rig: Rig) -> None:
        for _ in range(9):
            await asyncio.gather(rig.push(0), rig.push(1))
        before = rig.nodes[0].bits()
        await rig.nodes[0].kill()
        node = await restarted(rig, 7, tmp_path / "a")
        assert node.replica.role == "recovered"
        assert node.bits() == before
        assert await refused(rig.push(0, node=1, retry=True)) == "not-primary"
        reign = msgspec.structs.replace(rig.reign, term=2, revision=1, primary=node.peer)
        await rig.announce(reign, 1)
        retries = [rig.push(worker, node=1, retry=True) for worker in (0, 1)]
        assert {reply.status for reply in await asyncio.gather(*retries)} == {Status.DUPLICATE}
        await asyncio.gather(rig.push(0, node=1), rig.push(1, node=1))
        assert node.bits() != before

    log = LogSettings(sync, snapshot_bytes=snapshot_bytes, segment_bytes=2000, digest_every=5)
    rig = Rig(mode, servers=1, stores=[store(tmp_path / "a")[0]], log=log)
    run(rig, story, backups=0)


def test_a_push_waits_for_the_disk_of_the_primary(tmp_path: Path) -> None:
    kept, disk = store(tmp_path / "a", HeldDisk)

    async def story(rig: Rig) -> None:
        await rig.push()
        disk.running.clear()
        push = rig.push()
        await until(lambda: len(rig.nodes[0].service.hosted[0].unacknowledged) == 1)
        assert not push.done()
        disk.running.set()
        assert (await push).status is Status.APPLIED

    run(Rig(servers=1, stores=[kept], log=ALWAYS), story, backups=0)


def test_a_disk_that_takes_nothing_stops_no_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted_shard, "DISK_SECONDS", 60.0)
    kept, disk = store(tmp_path / "a", HeldDisk)

    async def story(rig: Rig) -> None:
        await rig.pushes(3)
        hosted = rig.nodes[0].service.hosted[0]
        assert hosted.log is not None
        assert hosted.log.index == hosted.replica.at.index
        disk.running.clear()
        monkeypatch.setattr(hosted_shard, "DISK_SECONDS", 0.05)
        await rig.pushes(3)
        assert hosted.log.index < hosted.replica.at.index
        monkeypatch.setattr(hosted_shard, "DISK_SECONDS", 60.0)
        disk.running.set()
        await until(lambda: hosted.log is not None and hosted.log.index == hosted.replica.at.index)
        await rig.pushes(3)
        assert hosted.log.index == hosted.replica.at.index

    run(Rig(servers=1, stores=[kept], log=LogSettings("group")), story, backups=0)


def test_a_new_copy_waits_until_the_old_ones_files_are_gone(tmp_path: Path) -> None:
    """However often it is handed out: the files of the new one must not be removed with them."""
    kept, disk = store(tmp_path / "a", HeldDisk)

    async def story(rig: Rig) -> None:
        node = rig.nodes[0]
        await rig.pushes(2)
        disk.running.clear()
        node.service.drop(0)
        reign = msgspec.structs.replace(rig.reign, term=2, revision=5, backups=())
        order = ShardOrder(rig.placed, reign=reign)
        given_up = asyncio.ensure_future(node.service.take(order, first_arrays()))
        for _ in range(5):
            await asyncio.sleep(0)
        given_up.cancel()
        again = asyncio.ensure_future(node.service.take(order, first_arrays()))
        for _ in range(50):
            await asyncio.sleep(0)
        assert 0 not in node.service.hosted
        disk.running.set()
        await again
        assert given_up.cancelled()
        rig.reign = reign
        rig.sequences.clear()
        await rig.tell(0, 1)
        await rig.pushes(3)
        before = node.bits()
        await node.kill()
        assert (await restarted(rig, 7, tmp_path / "a")).bits() == before

    run(Rig(servers=1, stores=[kept], log=ALWAYS), story, backups=0)


def test_a_backup_answers_when_its_disk_has_it(tmp_path: Path) -> None:
    kept, disk = store(tmp_path / "b", HeldDisk)

    async def story(rig: Rig) -> None:
        await rig.push()
        disk.running.clear()
        rig.grants = None
        push = rig.push()
        await until(lambda: rig.nodes[1].replica.at == rig.nodes[0].replica.at)
        assert not push.done()
        disk.running.set()
        assert (await push).status is Status.APPLIED

    run(Rig(stores=[store(tmp_path / "a")[0], kept], log=ALWAYS), story)


def test_an_image_is_a_new_beginning_on_disk(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(5)
        learner = msgspec.structs.replace(rig.reign, revision=1, learners=(rig.nodes[1].peer,))
        await rig.announce(learner, 0)
        await until(lambda: rig.reign.role_of(1) == "backup")
        await rig.pushes(3)
        before = rig.nodes[0].bits()
        await rig.nodes[1].kill()
        node = await restarted(rig, 7, tmp_path / "b")
        assert node.bits() == before

    stores = [store(tmp_path / name)[0] for name in ("a", "b")]
    run(Rig(stores=stores, log=ALWAYS), story, backups=0)


def test_a_copy_that_is_given_up_leaves_the_disk_too(tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(2)
        rig.nodes[0].service.drop(0)
        await rig.nodes[0].service.close()
        node = await restarted(rig, 7, tmp_path / "a")
        assert not node.service.hosted

    run(Rig(servers=1, stores=[store(tmp_path / "a")[0]], log=ALWAYS), story, backups=0)


def test_who_was_let_through_the_gate_of_a_copy_that_is_sealed_then_waits_for_nothing(
    tmp_path: Path,
) -> None:
    async def story(rig: Rig) -> None:
        service = rig.nodes[0].service
        hosted = service.hosted[0]
        first = rig.push(0)
        await until(lambda: len(hosted.waiting) == 1)
        open_gate = hosted.open_gate

        def open_and_seal() -> None:
            open_gate()
            service.seal(hosted, 2)

        hosted.open_gate = open_and_seal  # type: ignore[method-assign]
        codes = asyncio.gather(refused(first), refused(rig.push(1)))
        assert await asyncio.wait_for(codes, 5) == ["not-primary", "not-primary"]

    rig = Rig("bsp", stores=[store(tmp_path / "a")[0]], log=LogSettings("group"))
    run(rig, story)
