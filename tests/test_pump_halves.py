"""How many entries a message to a backup takes: half of what is under way, so that nobody idles."""

from __future__ import annotations

import asyncio

import pytest
from replication_rig import Rig, alike, run, until

from psedge.protocol.wire import Status
from psedge.server import pump

WORKERS = 8


async def wave(rig: Rig) -> None:
    """Push with all workers while the backup answers nothing, then let it answer."""
    rig.nodes[1].hold()
    pushes = [rig.push(worker) for worker in range(WORKERS)]
    primary = rig.nodes[0].service.hosted[0]
    await until(lambda: len(primary.unacknowledged) == WORKERS)
    rig.nodes[1].go_on()
    replies = await asyncio.gather(*pushes)
    assert {reply.status for reply in replies} == {Status.APPLIED}


def test_after_many_pushes_a_message_waits_for_half_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    async def story(rig: Rig) -> None:
        rig.nodes[1].service.entries_appended = lambda replica, new: sizes.append(len(new))
        await rig.tell(*range(WORKERS))
        await wave(rig)
        monkeypatch.setattr(pump, "GATHER_SECONDS", 1e6)
        sizes.clear()
        pushes = [rig.push(worker) for worker in range(3)]
        primary = rig.nodes[0].service.hosted[0]
        await until(lambda: len(primary.unacknowledged) == 3)
        assert not sizes
        await asyncio.gather(rig.push(3), *pushes)
        assert sizes == [4]
        assert alike(rig, 0, 1)

    run(Rig(), story)


def test_a_single_push_after_many_waits_for_others_in_vain_and_not_for_long() -> None:
    async def story(rig: Rig) -> None:
        await rig.tell(*range(WORKERS))
        await wave(rig)
        await rig.pushes(3)
        assert alike(rig, 0, 1)

    run(Rig(), story)


def test_a_lone_worker_never_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(rig: Rig) -> None:
        await rig.pushes(2)
        monkeypatch.setattr(pump, "GATHER_SECONDS", 1e6)
        await rig.pushes(10)
        assert alike(rig, 0, 1)

    run(Rig(), story)
