"""Servers with copies of one shard on real loopback connections, and a supervisor that follows a
script."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from psedge.compression.codec import EncoderState
from psedge.compression.coder import Coder
from psedge.compression.lossless import stage_named
from psedge.compression.table import codec_named
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.bundle import pack
from psedge.protocol.calls import answer, ask, ask_bytes, bounded, read_message
from psedge.protocol.coding import CodingSettings
from psedge.protocol.door import Door
from psedge.protocol.errors import RefusedError, UnreachableError
from psedge.protocol.layout import TensorSlice
from psedge.protocol.messages import EXCHANGE, SHARD_ASSIGN, SHARD_MEMBERS
from psedge.protocol.ports import Handler, Incoming, Reply
from psedge.protocol.replicas import (
    REPLICA_REIGN,
    REPLICA_SEAL,
    SET_CHANGE,
    Acks,
    Peer,
    Reign,
    ReplicaState,
    Seal,
    SetChange,
)
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
    LogSettings,
    Member,
    Members,
    OptimizerSettings,
    ScheduleSettings,
    Segment,
    ServerReport,
    ShardOrder,
    SyncSettings,
)
from psedge.protocol.system_clock import SystemClock
from psedge.protocol.wire import (
    HEADER_BYTES,
    NO_POSITION,
    Flag,
    Header,
    Kind,
    decode_header,
    encode_header,
)
from psedge.server.service import ShardService
from psedge.server.store import ServerStore

ELEMENTS = 300
LIMIT_BYTES = 2**24
RUN = "the run"


def assignment(mode: Any = "asp", log: LogSettings = LogSettings(), **further: Any) -> Assignment:  # noqa: B008
    """300 parameters, 280 of them in matrices, two buffers, with momentum."""
    return Assignment(
        0, 0, ELEMENTS, 0, 2, 0, (Segment(0, ELEMENTS, 0),),
        OptimizerSettings("sgd", (GroupSettings(lr=0.1, momentum=0.9),)),
        ScheduleSettings(), SyncSettings(mode), (TensorSlice(0, 280, 28),),
        log=log, **further,
    )  # fmt: skip


class Node:
    """One server. `hold` lets its requests wait, as in a process that is stopped."""

    def __init__(self, number: int, clock: SystemClock, store: ServerStore | None = None) -> None:
        self.number = number
        #: Its requests, and what it listens with: apart, so that both can be closed in good order.
        self.transport, self._ear = AiohttpTransport(), AiohttpTransport()
        self.notes: list[str] = []
        self.service = ShardService(
            clock, transport=self.transport, store=store, notify=self.notes.append
        )
        self.service.server = number
        self.service.incarnation = 1000 + number
        self.running = asyncio.Event()
        self.running.set()
        #: It takes nothing in, as behind a cut.
        self.deaf = False
        self._door = Door(self.service.routes(), token=None)
        self.listener: Any = None

    async def start(self) -> Node:
        self.listener = await self._ear.listen(
            "127.0.0.1", 0, self._answer, body_limit_bytes=LIMIT_BYTES
        )
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    @property
    def peer(self) -> Peer:
        return Peer(self.number, self.url)

    @property
    def replica(self) -> Any:
        return self.service.hosted[0].replica

    @property
    def parameters(self) -> NDArray[np.float32]:
        return self.replica.shard.parameters

    def bits(self) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in self.replica.shard.arrays().items()}

    def hold(self) -> None:
        self.running.clear()

    def go_on(self) -> None:
        self.running.set()

    async def kill(self) -> None:
        """Nobody listens any more, and nothing is flushed."""
        for hosted in self.service.hosted.values():
            hosted.retire()
        await self.transport.close()
        await self.listener.close()

    async def _answer(self, incoming: Incoming) -> Reply:
        await self.running.wait()
        if self.deaf:
            raise RefusedError("not-ready", "nothing gets through")
        return await self._door(incoming)


def first_arrays() -> dict[str, NDArray[Any]]:
    """Of the shard as it is handed out."""
    return {
        "parameters": np.zeros(ELEMENTS, np.float32),
        "buffers": np.zeros(2, np.float32),
        "counters": np.zeros(0, np.uint8),
    }


class Rig:
    """Servers 0, 1, ...; the first is primary, `backups` follow, the rest know nothing yet."""

    def __init__(
        self,
        mode: Any = "asp",
        *,
        servers: int = 2,
        acks: Acks = "replica",
        stores: Sequence[ServerStore | None] = (),
        **further: Any,
    ) -> None:
        """stores: of the first servers; they are opened by `start`."""
        self.clock = SystemClock()
        self.placed = assignment(mode, **further)
        self.acks = acks
        self.nodes = [
            Node(number, self.clock, store)
            for number, store in itertools.zip_longest(range(servers), stores)
        ]
        self.client, self._ear = AiohttpTransport(), AiohttpTransport()
        self.asked: list[SetChange] = []
        #: What the supervisor does about a request for a change; None: it does not answer.
        self.grants: Callable[[Reign, SetChange], Reign] | None = granted
        #: Requests of these kinds are granted without the answer ever arriving.
        self.unheard: set[str] = set()
        self.reign: Reign
        self._desk: Any = None
        self.sequences: dict[int, int] = {}
        self.revision = 0

    async def start(self, backups: int = 1, *, lease_seconds: float = 1e6) -> Rig:
        routes: dict[str, Handler] = {SET_CHANGE: self._set_change}
        self._desk = await self._ear.listen(
            "127.0.0.1", 0, Door(routes, token=None), body_limit_bytes=LIMIT_BYTES
        )
        for node in self.nodes:
            await self.enter(node, lease_seconds)
        peers = [node.peer for node in self.nodes]
        self.reign = Reign(0, 1, 0, peers[0], tuple(peers[1 : 1 + backups]), acks=self.acks)
        body = pack(ShardOrder(self.placed, reign=self.reign), first_arrays())
        for node in self.nodes[: 1 + backups]:
            await self.post(node, SHARD_ASSIGN, body)
        await self.tell(0, 1)
        return self

    async def enter(self, node: Node, lease_seconds: float = 1e6) -> None:
        """A server comes in, with what its folder holds."""
        await node.start()
        node.service.supervisor = Address(f"http://127.0.0.1:{self._desk.port}")
        node.service.renew(self.clock.now() + lease_seconds)
        if node.service.store is not None:
            node.service.recover(await node.service.store.open(RUN))

    async def close(self) -> None:
        for node in self.nodes:
            node.go_on()
            await node.service.close()
            await node.transport.close()
        await self.client.close()
        listeners = [self._desk, *(node.listener for node in self.nodes)]
        await asyncio.gather(*(listener.close() for listener in listeners))

    async def stop_supervisor(self) -> None:
        await self._desk.close()

    async def tell(self, *workers: int, node: int = 0) -> ServerReport:
        self.revision += 1
        members = Members(self.revision, tuple(Member(one, 1) for one in workers))
        return await ask(
            self.client, Address(self.nodes[node].url), SHARD_MEMBERS, members, ServerReport
        )

    async def announce(self, reign: Reign, *nodes: int) -> None:
        """The supervisor's word, to some servers."""
        self.reign = reign
        for number in nodes:
            await ask(
                self.client, Address(self.nodes[number].url), REPLICA_REIGN, reign, ReplicaState
            )

    async def seal(self, node: int, term: int) -> ReplicaState:
        address = Address(self.nodes[node].url)
        return await ask(self.client, address, REPLICA_SEAL, Seal(0, term), ReplicaState)

    async def post(self, node: Node, path: str, body: bytes) -> memoryview:
        return await ask_bytes(
            self.client,
            Address(node.url),
            path,
            [body],
            limit_bytes=LIMIT_BYTES,
            timeout_seconds=20,
        )

    def push(
        self, worker: int = 0, node: int = 0, *, retry: bool = False, **fields: Any
    ) -> asyncio.Task[Header]:
        """The next push of a worker, under way."""
        if not retry:
            self.sequences[worker] = self.sequences.get(worker, 0) + 1
        sequence = self.sequences[worker]
        gradient = np.linspace(-1, sequence, ELEMENTS, dtype=np.float32)
        coder = Coder(
            codec_named(fields.pop("codec", "identity"), CodingSettings()),
            stage_named("none"),
            self.placed.slice,
        )
        payload = b"".join(coder.encode(gradient, None, EncoderState()).parts)
        fields = {"term": self.reign.term, "position": NO_POSITION, **fields}
        header = Header(
            Kind.EXCHANGE, 0, worker, 1, flags=Flag.GATED, sequence=sequence, samples=1,
            codec=coder.codec.id, codec_parameters=coder.codec.parameters(),
            payload_bytes=len(payload), **fields,
        )  # fmt: skip
        return asyncio.ensure_future(self._exchange(node, [encode_header(header), payload]))

    async def pushes(self, count: int, worker: int = 0, **fields: Any) -> None:
        for _ in range(count):
            await self.push(worker, **fields)

    async def _exchange(self, node: int, parts: list[bytes]) -> Header:
        reply = await self.client.call(
            self.nodes[node].url, EXCHANGE, parts, allocate=bounded(LIMIT_BYTES), timeout_seconds=30
        )
        return decode_header(reply[:HEADER_BYTES])

    async def _set_change(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, SetChange)
        self.asked.append(message)
        if self.grants is None:
            raise RefusedError("not-ready", "later")
        if message.revision == self.reign.revision:
            self.reign = self.grants(self.reign, message)
        if message.action in self.unheard:
            await asyncio.Event().wait()
        return answer(self.reign)


def granted(reign: Reign, change: SetChange) -> Reign:
    """What a supervisor makes of a request that it grants; who is dropped becomes a learner."""
    peers = {peer.server: peer for peer in (*reign.backups, *reign.learners)}
    peer = peers[change.server]
    backups = tuple(each for each in reign.backups if each.server != change.server)
    learners = tuple(each for each in reign.learners if each.server != change.server)
    if change.action == "admit":
        backups = (*backups, peer)
    else:
        learners = (*learners, peer)
    return msgspec.structs.replace(
        reign, revision=reign.revision + 1, backups=backups, learners=learners
    )


async def until(condition: Callable[[], bool]) -> None:
    """Give everyone else turns until something has come about."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def refused(work: Awaitable[Any]) -> str:
    """The code with which it is refused."""
    try:
        await work
    except RefusedError as error:
        return error.code
    except UnreachableError:
        return "unreachable"
    return "answered"


def run(rig: Rig, story: Callable[[Rig], Coroutine[Any, Any, None]], **start: Any) -> None:
    """Play a story with a rig that has been started, and check every copy at its end."""

    async def whole() -> None:
        await rig.start(**start)
        try:
            await story(rig)
            for node in rig.nodes:
                for hosted in node.service.hosted.values():
                    hosted.check_invariants()
        finally:
            await rig.close()

    asyncio.run(asyncio.wait_for(whole(), 60))


def alike(rig: Rig, *nodes: int) -> bool:
    """Whether these copies are at the same entry; they are then the same bit for bit."""
    copies = [rig.nodes[node] for node in nodes]
    if len({copy.replica.at for copy in copies}) > 1:
        return False
    assert all(copy.bits() == copies[0].bits() for copy in copies)
    assert len({copy.replica.shard.digest() for copy in copies}) == 1
    return True
