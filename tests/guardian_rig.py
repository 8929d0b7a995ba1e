"""A supervisor with real servers whose processes die, hang and come back, on a made-up network.

The supervisor's clock moves only when a test says so; that of the servers moves in their pauses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from supervisor_rig import Rig
from tiny_cluster import HOME, Network, TestClock

from psedge.protocol import messages
from psedge.protocol.calls import bounded
from psedge.protocol.disk import Disk
from psedge.protocol.errors import PsedgeError, UnreachableError
from psedge.protocol.ports import Allocate, AppendFile, Buffer
from psedge.protocol.replicas import Reign, ReplicaState
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.version import __version__
from psedge.protocol.wire import NO_POSITION, WIRE_VERSION, Flag, Header, Kind, encode_header
from psedge.server.service import ShardService
from psedge.server.store import ServerStore
from psedge.supervisor.book import Book
from psedge.supervisor.sqlite_store import FILE, SqliteStore

T = TypeVar("T")


class Wires(Network):
    """dead: nobody listens there any more. frozen: nobody answers there. late: replies from these
    paths, which come once the event is set."""

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[str] = set()
        self.frozen: set[str] = set()
        self.late: dict[str, asyncio.Event] = {}

    async def call(
        self,
        url: str,
        path: str,
        parts: Sequence[Buffer],
        *,
        allocate: Allocate,
        timeout_seconds: float,
        token: str = "",
    ) -> memoryview:
        if url in self.dead:
            await asyncio.sleep(0)
            raise UnreachableError(f"{url} refused the connection", refused=True)
        if url in self.frozen:
            await asyncio.sleep(0)
            raise UnreachableError(f"{url} did not answer")
        reply = await super().call(
            url,
            path,
            parts,
            allocate=allocate,
            timeout_seconds=timeout_seconds,
            token=token,
        )
        if path in self.late:
            await self.late[path].wait()
        return reply


class CountedFile:
    """An AppendFile of a CountedDisk."""

    def __init__(self, disk: CountedDisk, file: AppendFile) -> None:
        self._disk = disk
        self._file = file

    def append_now(self, parts: Sequence[Buffer]) -> bool:
        return self._file.append_now(parts)

    async def append(self, parts: Sequence[Buffer]) -> None:
        await self._disk.counted(self._file.append(parts))

    async def close(self) -> None:
        await self._disk.counted(self._file.close())


class CountedDisk(Disk):
    """Knows how many operations are under way in its threads, so that a test can wait for them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.under_way = 0

    async def counted(self, operation: Awaitable[T]) -> T:
        self.under_way += 1
        try:
            return await operation
        finally:
            self.under_way -= 1

    async def read(self, path: str) -> bytes:
        return await self.counted(super().read(path))

    async def write_atomic(self, path: str, parts: Sequence[Buffer]) -> None:
        await self.counted(super().write_atomic(path, parts))

    async def append(self, path: str, data: Buffer) -> None:
        await self.counted(super().append(path, data))

    async def open_append(self, path: str) -> CountedFile:
        return CountedFile(self, await self.counted(super().open_append(path)))

    async def sync(self, path: str) -> None:
        await self.counted(super().sync(path))

    async def names(self, folder: str) -> list[str]:
        return await self.counted(super().names(folder))

    async def remove(self, path: str) -> None:
        await self.counted(super().remove(path))


class GuardedRig(Rig):
    """servers: that start; the model is cut for two of them."""

    def __init__(
        self,
        folder: Path,
        *,
        servers: int = 2,
        replicas: int = 2,
        acks: str = "replica",
        **rest: Any,
    ) -> None:
        sections = {"replication": {"replicas": replicas, "acks": acks}, **rest.pop("sections", {})}
        super().__init__(folder, sections=sections, lease_seconds=None, **rest)
        self.wires = Wires()
        self.network = self.wires
        self.server_clock = TestClock()
        self.disks: list[CountedDisk] = []
        self.supervise()
        self.services = [self.service() for _ in range(servers)]
        self.incarnations = list(range(servers))

    def supervise(self, *rest: Any, **keywords: Any) -> None:
        """All servers are equal here: none of them lives in the supervisor's process."""
        super().supervise(*rest, **{"beside": None, **keywords})

    def service(self) -> ShardService:
        service = ShardService(self.server_clock, transport=self.network)
        service.supervisor = HOME
        return service

    @property
    def fleet(self) -> Any:
        return self.supervisor.state.fleet

    def url(self, server: int) -> str:
        return f"http://10.0.0.{server}:7700"

    def reign(self, shard: int) -> Reign:
        reign = self.fleet.table.reign(shard)
        assert reign is not None
        return reign

    def copy(self, server: int, shard: int) -> ReplicaState | None:
        hosted = self.services[server].hosted.get(shard)
        return None if hosted is None else hosted.replica.state(self.server_clock.now())

    async def training(self) -> None:
        """All servers and two workers are there."""
        await self.register(*range(len(self.services)))
        for name, incarnation in (("a", 1), ("b", 2), ("a", 1)):
            try:
                await self.join(name, incarnation)
            except PsedgeError:
                continue
        await self.turns()
        self.supervisor.state.check_invariants()

    async def register(
        self, *servers: int, incarnation: int | None = None, port: int = 7700, **fields: Any
    ) -> None:
        """incarnation: as its number in the rig, where it is the first process there."""
        for server in servers:
            service, host = self.services[server], f"10.0.0.{server}"
            service.incarnation = server if incarnation is None else incarnation
            self.wires.routes[f"http://{host}:{port}"] = service.routes()
            message = messages.Register(
                __version__,
                WIRE_VERSION,
                host,
                port,
                service.incarnation,
                ("none",),
                replicas=service.report().replicas,
                **{"store": "" if service.store is None else service.store.identity, **fields},
            )
            reply = await self.ask(messages.REGISTER, message)
            service.server = reply.server
            service.renew(self.server_clock.now() + reply.lease_seconds)

    async def restart_with_disk(
        self, server: int, incarnation: int, run: str, folder: str = "server"
    ) -> None:
        """A new process with what the one before it left on its disk."""
        self.services[server] = self.service()
        await self.open_disk(server, run, folder)
        self.wires.dead.discard(self.url(server))
        await self.register(server, incarnation=incarnation, run=run)

    async def open_disk(self, server: int, run: str, folder: str = "server") -> None:
        """Give a server a folder of its own, or the one that it had."""
        service = self.services[server]
        disk = CountedDisk(self.folder / f"{folder}-{server}")
        self.disks.append(disk)
        bits = random.Random(f"{folder}-{server}").getrandbits
        service.store = ServerStore(disk, SystemClock(), self.notes.append, bits)
        service.recover(await service.store.open(run))

    async def push(self, samples: int, server: int = 0) -> None:
        """The first push of worker 0 to shard 0; its gradient is not finite, so there is none."""
        header = Header(
            Kind.EXCHANGE,
            shard=0,
            worker=0,
            incarnation=1,
            flags=Flag.NONFINITE,
            term=self.reign(0).term,
            sequence=1,
            samples=samples,
            position=NO_POSITION,
        )
        frame, url = [encode_header(header)], self.url(server)
        reply = bounded(2**16)
        await self.network.call(url, messages.EXCHANGE, frame, allocate=reply, timeout_seconds=5)

    def kill(self, server: int) -> None:
        """As kill -9: whoever connects is told at once that nobody is there."""
        self.wires.dead.add(self.url(server))

    def freeze(self, server: int) -> None:
        """As SIGSTOP: connections are made and nothing comes back."""
        self.wires.frozen.add(self.url(server))

    def thaw(self, server: int) -> None:
        self.wires.frozen.discard(self.url(server))

    async def restart(self, server: int, incarnation: int) -> None:
        """A new process takes the place of a dead one, with nothing in its memory."""
        self.services[server] = self.service()
        self.wires.dead.discard(self.url(server))
        await self.register(server, incarnation=incarnation)

    async def beat(self, server: int) -> None:
        """One heartbeat, and what follows from its answer."""
        service = self.services[server]
        if {self.url(server)} & (self.wires.dead | self.wires.frozen):
            return
        report, heard = await service.news()
        sent_at = self.server_clock.now()
        reply = await self.ask(messages.SERVER_HEARTBEAT, report)
        if reply.command == "register":
            service.forgotten()
            await self.register(server, incarnation=service.incarnation)
            return
        heard()
        service.renew(sent_at + reply.lease_seconds)
        for reign in reply.reigns:
            service.heard(reign)
        service.obey(reply.drop, report)

    async def turns(self, count: int = 300) -> None:
        """Let everybody do what is to be done at this moment."""
        guardian = self.supervisor._guardian
        for _ in range(count):
            guardian.look(self.clock.now())
            await asyncio.sleep(0)
            while self._threads_write():  # noqa: ASYNC110
                await asyncio.sleep(0.0005)
        self.supervisor.state.check_invariants()

    def _threads_write(self) -> bool:
        """Whether the book or a disk is at work, in a thread that has a time of its own."""
        guardian, decrees = self.supervisor._guardian, self.fleet.decrees
        disks = any(disk.under_way for disk in self.disks)
        return bool(guardian._busy or decrees._under_way or disks)

    async def pass_time(self, seconds: float, *beating: int) -> None:
        """Second by second; those servers and both workers are heard in each."""
        for _ in range(round(seconds)):
            self.clock.seconds += 1.0
            for server in beating:
                await self.beat(server)
            for worker in (0, 1):
                beat = messages.Heartbeat(worker, 1 + worker)
                await self.ask(messages.HEARTBEAT, beat)
            await self.turns(40)

    async def attached(self, *beating: int) -> None:
        """A supervisor that was started anew has everything back."""
        for _ in range(30):
            await self.pass_time(1, *beating)
            await self.supervisor._tick()
            if not self.supervisor.state.attaching:
                return
        raise AssertionError(f"it is still attaching: {self.notes}")

    async def until(self, condition: Callable[[], bool], *beating: int, seconds: int = 90) -> float:
        """Seconds until something has come about."""
        began = self.clock.now()
        for _ in range(seconds):
            if condition():
                return self.clock.now() - began
            await self.pass_time(1, *beating)
        raise AssertionError(f"it has not come about within {seconds} s: {self.notes}")

    async def book(self) -> Book:
        """Of this run, opened anew."""
        store = await SqliteStore.open(self.folder / FILE, self.notes.append)
        return await Book.open(store, self.clock, self.notes.append, lambda bits: 7 ** (bits // 3))

    async def shards(self, revision: int, *suspects: int) -> messages.ShardsReply:
        """As worker 0 asks where the primaries are."""
        query = messages.ShardsQuery(0, 1, revision, suspects)
        asking = asyncio.ensure_future(self.ask(messages.SHARDS, query))
        await self.turns()
        reply = await asyncio.wait_for(asking, 5)
        assert isinstance(reply, messages.ShardsReply)
        return reply


async def logged(folder: Path) -> tuple[GuardedRig, str]:
    """Training with a log and one copy of each shard, whose second server has been killed.

    Returns the rig and the identity of its run.
    """
    rig = GuardedRig(folder, replicas=1, sections={"durability": {"log": "group"}})
    book = await rig.book()
    rig.supervise(book)
    for server in (0, 1):
        await rig.open_disk(server, book.identity)
    await rig.training()
    rig.kill(1)
    await rig.services[1].close()
    await rig.pass_time(5, 0)
    return rig, book.identity
