"""Two shard servers and their clients, for measurements of what replication and a log cost.

Each server is a process of its own with psedge's service and door, and a folder for its logs; no
supervisor takes part, since nobody dies here. A shard lives on the first server alone or has a
backup on the second one.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import randbits
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from psedge.compression.codec import EncoderState
from psedge.compression.coder import Coder
from psedge.compression.lossless import NoStage
from psedge.compression.table import codec_named
from psedge.loop import run_async
from psedge.memory import keep_freed_memory
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask, ask_bytes
from psedge.protocol.disk import Disk
from psedge.protocol.door import Door
from psedge.protocol.layout import TensorSlice
from psedge.protocol.messages import EXCHANGE, SHARD_ASSIGN, SHARD_MEMBERS
from psedge.protocol.replicas import Peer, Reign
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
    Header,
    Kind,
    decode_header,
    encode_header,
)

CLIENTS = 8
TERM = 1
_LIMIT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Variant:
    """How a shard is kept. replicated: has a backup. sync: of its log on both servers."""

    name: str
    replicated: bool = False
    sync: Literal["off", "group", "always"] = "off"
    acks: Literal["primary", "replica", "all"] = "replica"


@dataclass(frozen=True, slots=True)
class Load:
    """parameters, of which `coded` are weights that the codec codes."""

    parameters: int
    coded: int
    codec: str


@dataclass(frozen=True, slots=True)
class Server:
    """number: as reigns name it. folder: of its logs."""

    number: int
    url: str
    pid: int
    folder: Path


def serve(number: int, folder: Path, pipe: Connection) -> None:
    """The process of one server."""

    async def main() -> None:
        from psedge.server.service import ShardService
        from psedge.server.store import ServerStore

        clock, transport = SystemClock(), AiohttpTransport()
        store = ServerStore(Disk(folder), clock, print, randbits)
        await store.open("benchmark")
        service = ShardService(clock, transport=transport, store=store, notify=print)
        service.server = number
        # Nobody is there, nor asked: no copy comes or goes.
        service.supervisor = Address("http://127.0.0.1:1")
        door = Door(service.routes(), token=None)
        listener = await transport.listen("127.0.0.1", 0, door, body_limit_bytes=_LIMIT_BYTES)
        pipe.send(listener.port)
        await asyncio.Event().wait()

    keep_freed_memory()
    run_async(main())


@contextmanager
def two_servers(folder: Path) -> Iterator[list[Server]]:
    """The primary and the backup; both are gone afterwards."""
    context = multiprocessing.get_context("spawn")
    started = []
    try:
        servers = []
        for number in range(2):
            here, there = context.Pipe()
            own = folder / f"server-{number}"
            own.mkdir()
            process = context.Process(target=serve, args=(number, own, there), daemon=True)
            process.start()
            started.append(process)
            assert process.pid is not None
            servers.append(Server(number, f"http://127.0.0.1:{here.recv()}", process.pid, own))
        yield servers
    finally:
        for process in started:
            process.kill()
            process.join()


def assignment(shard: int, load: Load, log: LogSettings) -> Assignment:
    return Assignment(
        shard=shard,
        start=0,
        stop=load.parameters,
        buffers_start=0,
        buffers_stop=0,
        counters_bytes=0,
        segments=(Segment(0, load.parameters, 0),),
        optimizer=OptimizerSettings("sgd", (GroupSettings(lr=1e-6, momentum=0.9),)),
        schedule=ScheduleSettings(),
        sync=SyncSettings("asp"),
        tensors=(TensorSlice(0, load.coded, 9),),
        log=log,
    )


async def hand_out(
    transport: AiohttpTransport,
    servers: Sequence[Server],
    shards: Sequence[tuple[Variant, Load]],
    *,
    segment_bytes: int = LogSettings().segment_bytes,
    snapshot_bytes: int = LogSettings().snapshot_bytes,
) -> None:
    """Give the servers their shards, each by its place in the list, and tell them the members."""
    primary, backup = (Peer(server.number, server.url) for server in servers)
    for number, (variant, load) in enumerate(shards):
        log = LogSettings(
            sync=variant.sync, segment_bytes=segment_bytes, snapshot_bytes=snapshot_bytes
        )
        backups = (backup,) if variant.replicated else ()
        reign = Reign(number, TERM, 0, primary, backups, acks=variant.acks)
        order = ShardOrder(assignment(number, load, log), reign=reign)
        arrays: dict[str, NDArray[Any]] = {
            "parameters": np.zeros(load.parameters, np.float32),
            "buffers": np.zeros(0, np.float32),
            "counters": np.zeros(0, np.uint8),
        }
        for peer in (*backups, primary):
            await ask_bytes(
                transport,
                Address(peer.url),
                SHARD_ASSIGN,
                [pack(order, arrays)],
                limit_bytes=2**16,
                timeout_seconds=60,
            )
    members = Members(1, tuple(Member(worker, 1) for worker in range(CLIENTS)))
    await ask(transport, Address(servers[0].url), SHARD_MEMBERS, members, ServerReport)


class Client:
    """One of the concurrent clients of a shard; keeps its receive buffer, as a worker does."""

    def __init__(self, worker: int, shard: int, load: Load, url: str) -> None:
        self.codec = codec_named(load.codec)
        self.url = url
        self.worker = worker
        self.shard = shard
        self.sequence = 0
        self.version = 0
        self.position = NO_POSITION
        gradient = np.random.default_rng(worker).standard_normal(load.parameters)
        piece = assignment(shard, load, LogSettings()).slice
        coder = Coder(self.codec, NoStage(), piece)
        parts = coder.encode(gradient.astype(np.float32), None, EncoderState()).parts
        self.payload = b"".join(parts)
        self.reply = memoryview(bytearray(HEADER_BYTES + 4 * load.parameters))

    async def exchange(self, transport: AiohttpTransport) -> None:
        self.sequence += 1
        header = Header(
            kind=Kind.EXCHANGE,
            shard=self.shard,
            worker=self.worker,
            incarnation=1,
            sequence=self.sequence,
            version=self.version,
            samples=32,
            codec=self.codec.id,
            reply_codec=self.codec.id,
            position=self.position,
            payload_bytes=len(self.payload),
            term=TERM,
        )
        body = await transport.call(
            self.url,
            EXCHANGE,
            [encode_header(header), self.payload],
            allocate=lambda length: self.reply[:length],
            timeout_seconds=60.0,
        )
        reply = decode_header(body[:HEADER_BYTES])
        self.version, self.position = reply.version, reply.position


async def exchanges_per_second(
    transport: AiohttpTransport, clients: Sequence[Client], seconds: float
) -> float:
    """Of all clients together."""
    done = 0
    end = time.monotonic() + seconds

    async def loop(client: Client) -> None:
        nonlocal done
        while time.monotonic() < end:
            await client.exchange(transport)
            done += 1

    started = time.monotonic()
    await asyncio.gather(*(loop(client) for client in clients))
    return done / (time.monotonic() - started)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def folder_bytes(folder: Path) -> int:
    """Of all files, also while some of them are being removed."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
