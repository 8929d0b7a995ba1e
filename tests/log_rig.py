"""Logs on a virtual disk: entries that say which they are, and a disk that counts what it does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from shard_cluster import assignment

from psedge.protocol.log_entry import Entry, EntryKind
from psedge.protocol.ports import AppendFile, Buffer, Storage
from psedge.protocol.replicas import Position
from psedge.protocol.shards import LogSettings, ShardOrder, ShardState, SyncSettings
from psedge.server.shard_log import ShardLog
from psedge.server.store import Recovered, ServerStore
from psedge.simulation.clock import VirtualClock
from psedge.simulation.disk import VirtualDisk
from psedge.simulation.loop import run_virtual

RUN = "run-one"
ALWAYS = LogSettings(sync="always", segment_bytes=2000, snapshot_bytes=6000)
GROUP = msgspec.structs.replace(ALWAYS, sync="group")


def entry(index: int, term: int = 1, size: int = 0) -> Entry:
    """An entry whose body follows from its index."""
    body = f"entry {index} of term {term} ".encode()
    return Entry(index, term, EntryKind.MEMBERS, body + bytes([index % 251]) * size)


def entries(first: int, stop: int, term: int = 1, size: int = 40) -> list[Entry]:
    return [entry(index, term, size) for index in range(first, stop)]


def image(index: int, term: int = 1, shard: int = 0) -> tuple[ShardOrder, dict[str, Any]]:
    """A state that says after which entry it is."""
    plan = msgspec.structs.replace(assignment(SyncSettings("asp")), shard=shard)
    at = Position(term if index else 0, index)
    return ShardOrder(plan, ShardState(version=index), at=at), {
        "parameters": np.array([index, -index], np.float32),
        "counters": np.zeros(1, np.uint8),
    }


class CountingFile:
    """An AppendFile of a CountingDisk."""

    def __init__(self, disk: CountingDisk, file: AppendFile) -> None:
        self._disk = disk
        self._file = file

    def append_now(self, parts: Sequence[Buffer]) -> bool:
        self._disk.fails("append")
        done = self._file.append_now(parts)
        self._disk.counts["append"] += done
        self._disk.measure()
        return done

    async def append(self, parts: Sequence[Buffer]) -> None:
        await self._disk.counted("append", self._file.append(parts))

    async def close(self) -> None:
        await self._file.close()


class CountingDisk:
    """A Storage over another one. counts: of its operations. largest_bytes: most ever held."""

    def __init__(self, disk: VirtualDisk) -> None:
        self.disk = disk
        self.counts: Counter[str] = Counter()
        self.largest_bytes = 0
        # Operations that fail, by name, with how often they still do.
        self.fail: dict[str, OSError] = {}

    async def read(self, path: str) -> bytes:
        return await self.disk.read(path)

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        await self.counted("write_atomic", self.disk.write_atomic(path, parts))

    async def append(self, path: str, data: Buffer) -> None:
        await self.counted("append", self.disk.append(path, data))

    async def open_append(self, path: str) -> CountingFile:
        return CountingFile(self, await self.disk.open_append(path))

    async def sync(self, path: str) -> None:
        await self.counted("sync", self.disk.sync(path))

    async def names(self, folder: str) -> list[str]:
        return await self.disk.names(folder)

    async def remove(self, path: str) -> None:
        await self.counted("remove", self.disk.remove(path))

    async def counted(self, what: str, work: Any) -> None:
        self.counts[what] += 1
        if what in self.fail:
            work.close()
        self.fails(what)
        await work
        self.measure()

    def fails(self, what: str) -> None:
        if what in self.fail:
            raise self.fail[what]

    def measure(self) -> None:
        self.largest_bytes = max(self.largest_bytes, self.disk.file_system.used_bytes)


class Server:
    """One start of a server on a disk. said: what people were told."""

    def __init__(self, storage: Storage, seed: int = 0) -> None:
        self.said: list[str] = []
        self.storage = storage
        clock = VirtualClock(asyncio.get_running_loop().time)
        chance = random.Random(seed)
        self.store = ServerStore(storage, clock, self.said.append, chance.getrandbits, "the folder")
        self.at = Position()

    async def open(self, run: str = RUN) -> list[Recovered]:
        found = await self.store.open(run)
        if found:
            last = found[0].entries[-1:]
            self.at = Position(last[0].term, last[0].index) if last else found[0].order.at
        return found

    def log(self, settings: LogSettings = ALWAYS, *, begin: bool = True) -> ShardLog:
        log = self.store.log(0, settings)
        if begin:
            log.begin(*image(0))
        return log

    def write(self, log: ShardLog, count: int = 1, term: int = 1, size: int = 40) -> int:
        """Write the next entries, and a snapshot if one is wanted; the index of the last."""
        log.write(entries(self.at.index + 1, self.at.index + 1 + count, term, size))
        self.at = Position(term, self.at.index + count)
        if log.wants_snapshot:
            log.snapshot(*image(self.at.index, term))
        return self.at.index


def run(scenario: Any, seed: int = 0, **settings: Any) -> CountingDisk:
    """Run `scenario(disk)` in virtual time, on a fresh disk that counts."""

    async def main() -> CountingDisk:
        disk = CountingDisk(VirtualDisk(asyncio.sleep, seed, **settings))
        await scenario(disk)
        disk.disk.file_system.check_invariants()
        return disk

    return run_virtual(main())


def check_recovered(found: Recovered, term: int | None = 1) -> int:
    """What was read is what was written, without gaps; the index that it reaches."""
    index = found.order.at.index
    assert found.order.state is not None
    assert found.order.state.version == index == found.arrays["parameters"][0]
    for each in found.entries:
        index += 1
        assert each.index == index
        if term is not None:
            assert each.term == term
        assert bytes(each.body).startswith(f"entry {index} of term {each.term} ".encode())
    return index


def files(disk: CountingDisk, shard: int = 0) -> list[str]:
    """Names of the files in a shard's folder."""
    prefix = f"shard-{shard}/"
    return [path.removeprefix(prefix) for path in disk.disk.files() if path.startswith(prefix)]


async def written(
    disk: CountingDisk, settings: LogSettings = ALWAYS, count: int = 10, **further: Any
) -> Server:
    """A server that has written so many entries and was closed."""
    server = Server(disk)
    await server.open()
    log = server.log(settings)
    for _ in range(count):
        server.write(log, **further)
        await asyncio.sleep(0.1)
    await server.store.close()
    return server


async def reopened(disk: CountingDisk) -> tuple[Server, Recovered]:
    """The next start of the server, and the one shard that it finds."""
    server = Server(disk, seed=1)
    (found,) = await server.open()
    return server, found
