"""A server whose disk takes nothing: who looks at the run hears of it, and of its end."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from guardian_rig import GuardedRig
from tiny_cluster import run

FULL = "server 1 cannot write the log of shard 1 to the server's folder: the disk is full"


def test_a_full_disk_is_one_note_and_one_more_when_it_is_over(tmp_path: Path) -> None:
    async def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def story() -> None:
        rig = GuardedRig(tmp_path, sections={"durability": {"log": "group"}})
        book = await rig.book()
        rig.supervise(book)
        for server in (0, 1):
            await rig.open_disk(server, book.identity)
        await rig.training()
        store = rig.services[1].store
        assert store is not None
        await store._trouble.attempt("the log of shard 1", full())
        for _ in range(3):
            await rig.beat(1)
        assert (await rig.status()).notes[-1] == FULL
        store._trouble.over("the log of shard 1")
        for _ in range(3):
            await rig.beat(1)
        assert (await rig.status()).notes[-2:] == (FULL, "server 1 writes its logs again")
        for service in rig.services:
            await service.close()
        await book.close()

    run(story())
