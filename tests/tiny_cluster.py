"""Shards, a small supervisor and a network in one process, for tests of workers.

The shards, their service, the membership and the data plan are the real ones; only the network
is not there, and it can lose requests or replies when a test asks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from psedge.compression.lossless import available
from psedge.protocol import messages, shards
from psedge.protocol.address import Address
from psedge.protocol.bundle import pack
from psedge.protocol.calls import answer, ask_bytes, read_message
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import FrameError, PsedgeError, RefusedError, UnreachableError
from psedge.protocol.layout import Layout
from psedge.protocol.ports import Allocate, Buffer, Handler, Incoming, Reply
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.server.service import ShardService
from psedge.supervisor.data_plan import DataPlan
from psedge.supervisor.membership import Membership
from psedge.supervisor.shard_map import cut_arrays, plan_shards

T = TypeVar("T")
HOME = Address("http://supervisor:7700")


class TestClock:
    """Time that only passes in sleeps, each of which gives everyone else a hundred turns."""

    __test__ = False

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def timestamp(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        until = self.seconds + seconds
        for _ in range(100):
            await asyncio.sleep(0)
        self.seconds = max(self.seconds, until)


class _Incoming:
    def __init__(self, path: str, body: bytes) -> None:
        self.path = path
        self.peer = "127.0.0.1"
        self.token = ""
        self.length = len(body)
        self._body = body
        self._at = 0

    async def read_into(self, buffer: memoryview) -> None:
        piece = self._body[self._at : self._at + len(buffer)]
        if len(piece) < len(buffer):
            raise FrameError("the body ended")
        buffer[:] = piece
        self._at += len(buffer)


class Network:
    """A Transport whose peers are handlers. `lose_request` and `lose_reply` count down."""

    def __init__(self) -> None:
        self.routes: dict[str, dict[str, Handler]] = {}
        self.lose_request: dict[str, int] = {}
        self.lose_reply: dict[str, int] = {}
        self.calls: list[str] = []

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
        self.calls.append(path)
        await asyncio.sleep(0)
        if url not in self.routes or self._loses(self.lose_request, path):
            raise UnreachableError(f"{url} is not there")
        incoming = _Incoming(path, b"".join(bytes(part) for part in parts))
        try:
            reply = await self.routes[url][path](incoming)
        except RefusedError:
            raise
        except PsedgeError as error:
            raise RefusedError("bad-request", str(error)) from error
        if self._loses(self.lose_reply, path):
            raise UnreachableError("the reply was lost")
        body = b"".join(bytes(part) for part in reply.parts)
        buffer = allocate(len(body))
        buffer[:] = body
        return buffer

    async def listen(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("nobody listens in this network")

    async def close(self) -> None:
        return

    def _loses(self, counts: dict[str, int], path: str) -> bool:
        if counts.get(path, 0) <= 0:
            return False
        counts[path] -= 1
        return True


class TinyCluster:
    """One supervisor and `servers` servers with one shard each.

    codec: of pushes and pulls, where `coding` does not say more.
    """

    def __init__(
        self,
        layout: Layout,
        vectors: dict[str, Any],
        clock: TestClock,
        *,
        optimizer: shards.OptimizerSettings,
        sync: shards.SyncSettings,
        servers: int = 1,
        codec: str = "identity",
        coding: CodingSettings | None = None,
        plan: DataPlan | None = None,
        local_optimizer: shards.LocalOptimizer | None = None,
        range_samples: int = 64,
    ) -> None:
        self.network = Network()
        self.membership = Membership(lease_seconds=1e9, recent_seconds=0.0)
        self.plan = plan
        self.layout = layout
        self.coding = coding or CodingSettings(push=codec, pull=codec)
        self.sync = sync
        self.local_optimizer = local_optimizer
        self.range_samples = range_samples
        self.vectors = vectors
        self.left: list[messages.Leave] = []
        self.heartbeats: list[messages.Heartbeat] = []
        self.command: str = "continue"
        #: Of each worker's incarnation: number of its latest claim that got a range, and which.
        self.claimed: dict[tuple[int, int], tuple[int, messages.ClaimReply]] = {}
        #: Queries for the map, which is of this revision.
        self.queries: list[messages.ShardsQuery] = []
        self.map_revision = 0
        self._clock = clock
        groups = tuple(0 for _ in layout.of_role("parameter"))
        schedule = shards.ScheduleSettings()
        self.assignments = plan_shards(
            layout, optimizer, groups, schedule, sync, self.coding, servers
        )
        self.services = [ShardService(clock) for _ in range(servers)]
        self.urls = [HOME.url, *(f"http://server{i}:7700" for i in range(1, servers))]
        for url, service in zip(self.urls, self.services, strict=True):
            self.network.routes[url] = dict(service.routes())
        self.network.routes[HOME.url] |= self._routes()

    async def start(self) -> None:
        for url, assignment in zip(self.urls, self.assignments, strict=True):
            arrays = {
                name: np.ascontiguousarray(array)
                for name, array in cut_arrays(assignment, self.vectors).items()
            }
            body = pack(shards.ShardOrder(assignment), arrays)
            await self._tell(url, messages.SHARD_ASSIGN, body)

    def parameters(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The servers' whole parameter vector."""
        return np.concatenate([shard.parameters for shard in self.shards()])

    def shards(self) -> list[Any]:
        return [hosted.shard for service in self.services for hosted in service._hosted.values()]

    async def expel(self, worker: int) -> None:
        """Take a worker for dead."""
        entry = next(e for e in self.membership.live() if e.worker == worker)
        self.membership.leave(entry.worker, entry.incarnation)
        await self.broadcast()
        self._release(entry.worker, entry.incarnation)

    async def broadcast(self) -> None:
        import msgspec

        body = msgspec.json.encode(self.membership.members())
        for url in self.urls:
            await self._tell(url, messages.SHARD_MEMBERS, body)

    async def _tell(self, url: str, path: str, body: bytes) -> None:
        await ask_bytes(
            self.network, Address(url), path, (body,), limit_bytes=2**20, timeout_seconds=1.0
        )

    def _routes(self) -> dict[str, Handler]:
        return {
            messages.HELLO: self._hello,
            messages.EXPERIMENT: self._experiment,
            messages.JOIN: self._join,
            messages.SHARDS: self._shards,
            messages.FROZEN: self._frozen,
            messages.CLAIM: self._claim,
            messages.HEARTBEAT: self._heartbeat,
            messages.LEAVE: self._leave,
        }

    def experiment(self) -> messages.Experiment:
        return messages.Experiment("run", {}, self.layout, "training")

    async def _hello(self, incoming: Incoming) -> Reply:
        return answer(messages.HelloReply(__version__, WIRE_VERSION, True, "run"))

    async def _experiment(self, incoming: Incoming) -> Reply:
        return answer(self.experiment())

    async def _frozen(self, incoming: Incoming) -> Reply:
        return Reply([self.vectors["frozen"].tobytes()])

    async def _join(self, incoming: Incoming) -> Reply:
        join = await read_message(incoming, messages.Join)
        if join.layout_digest != self.layout.digest():
            raise RefusedError("model-differs", "another model")
        entry = self.membership.join(join.name, join.incarnation, self._clock.now())
        if self.plan is not None and join.local_samples is not None:
            self.plan.open_pool(entry.worker, entry.name, join.local_samples)
        await self.broadcast()
        return answer(
            messages.JoinReply(
                worker=entry.worker,
                name=entry.name,
                shards=self._addresses(),
                sync=self.sync,
                coding=self.coding,
                lossless=available(),
                lease_seconds=1e9,
                heartbeat_seconds=1.0,
                local_optimizer=self.local_optimizer,
                map_revision=self.map_revision,
            )
        )

    def _addresses(self) -> tuple[messages.ShardAddress, ...]:
        return tuple(
            messages.ShardAddress(
                a.shard, "" if a.shard == 0 else url, a.start, a.stop,
                a.buffers_start, a.buffers_stop, a.tensors,
            )
            for url, a in zip(self.urls, self.assignments, strict=True)
        )  # fmt: skip

    async def _shards(self, incoming: Incoming) -> Reply:
        self.queries.append(await read_message(incoming, messages.ShardsQuery))
        return answer(messages.ShardsReply(self.map_revision, self._addresses()))

    async def _claim(self, incoming: Incoming) -> Reply:
        claim = await read_message(incoming, messages.Claim)
        assert self.plan is not None
        if self.command == "stop":
            return answer(messages.ClaimReply("stop"))
        entry = self.membership.entry(claim.worker, claim.incarnation)
        if entry is None:
            return answer(messages.ClaimReply("rejoin"))
        key = claim.worker, claim.incarnation
        if claim.claim and self.claimed.get(key, (0, None))[0] == claim.claim:
            return answer(self.claimed[key][1])
        self.count_visited()
        found = self.plan.claim(claim.worker, claim.incarnation, self.range_samples)
        idle = claim.idle and found is None
        if self.membership.set_idle(claim.worker, claim.incarnation, idle):
            await self.broadcast()
        if found is not None:
            reply = messages.ClaimReply("range", found.epoch, found.start, found.stop)
            self.claimed[key] = claim.claim, reply
            return answer(reply)
        return answer(messages.ClaimReply("done" if self.plan.finished else "wait"))

    async def _heartbeat(self, incoming: Incoming) -> Reply:
        beat = await read_message(incoming, messages.Heartbeat)
        if self.membership.entry(beat.worker, beat.incarnation) is None:
            return answer(messages.HeartbeatReply("rejoin"))
        self.heartbeats.append(beat)
        return answer(messages.HeartbeatReply("stop" if self.command == "stop" else "continue"))

    async def _leave(self, incoming: Incoming) -> Reply:
        leave = await read_message(incoming, messages.Leave)
        self.left.append(leave)
        if self.membership.leave(leave.worker, leave.incarnation) is not None:
            await self.broadcast()
            self._release(leave.worker, leave.incarnation)
        return answer(messages.Acknowledged())

    def count_visited(self) -> None:
        if self.plan is not None:
            for progress in self.shards()[0].report().workers:
                self.plan.consumed(progress.worker, progress.samples, progress.incarnation)

    def _release(self, worker: int, incarnation: int) -> None:
        if self.plan is None:
            return
        seen = {p.worker: p for p in self.shards()[0].report().workers}.get(worker)
        samples = seen.samples if seen is not None and seen.incarnation == incarnation else 0
        self.plan.release(worker, samples, incarnation)


async def at_once(function: Callable[[], T]) -> T:
    """A Compute without a thread."""
    await asyncio.sleep(0)
    return function()


async def until(condition: Callable[[], bool]) -> None:
    """Give everyone else turns until something has come about."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.0005)


def run(work: Awaitable[T]) -> T:
    """asyncio.run with an end to everything that hangs."""

    async def bounded() -> T:
        return await asyncio.wait_for(work, 60)

    return asyncio.run(bounded())
