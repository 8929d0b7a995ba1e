"""Exchanges per second of one shard server against a bare aiohttp server, and its memory.

The bare server only receives a body and returns one of the same size. Both are driven by the same
8 concurrent clients in a process of their own, in turns, over loopback; each exchange pushes a
464,154-parameter gradient and pulls fresh parameters, with the same codec both ways: whole ones
with identity, differences to what the client has with the others. The server runs momentum SGD.

    python benchmarks/server_exchange.py                     # ratios, some 50 s
    python benchmarks/server_exchange.py --memory 100000     # resident memory over many exchanges
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from psedge.compression.codec import EncoderState
from psedge.compression.coder import Coder
from psedge.compression.lossless import NoStage
from psedge.compression.table import codec_named
from psedge.loop import run_async
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask, ask_bytes
from psedge.protocol.layout import TensorSlice
from psedge.protocol.messages import EXCHANGE, SHARD_ASSIGN, SHARD_MEMBERS
from psedge.protocol.shards import (
    Assignment,
    GroupSettings,
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
from psedge.server.service import ShardService

#: ResNet-32 for CIFAR-10: so many parameters, of which so many are weights of convolutions and of
#: the last layer.
PARAMETERS = 464_154
CODED = 461_872
#: Each on a shard of its own of the same server.
CODECS = ("identity", "float16", "q4")
CLIENTS = 8
LIMIT_BYTES = 64 * 2**20


def serve_bare(pipe: Connection) -> None:
    async def main() -> None:
        async def handle(request: web.Request) -> web.Response:
            return web.Response(body=await request.read())

        application = web.Application(client_max_size=LIMIT_BYTES)
        application.router.add_post(EXCHANGE, handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    run_async(main())


def serve_shard(pipe: Connection) -> None:
    async def main() -> None:
        from psedge.protocol.door import Door

        door = Door(ShardService(SystemClock()).routes(), token=None)
        listener = await AiohttpTransport().listen(
            "127.0.0.1", 0, door, body_limit_bytes=LIMIT_BYTES
        )
        pipe.send(listener.port)
        await asyncio.Event().wait()

    run_async(main())


def assignment(codec: str) -> Assignment:
    return Assignment(
        shard=CODECS.index(codec),
        start=0,
        stop=PARAMETERS,
        buffers_start=0,
        buffers_stop=0,
        counters_bytes=0,
        segments=(Segment(0, PARAMETERS, 0),),
        optimizer=OptimizerSettings("sgd", (GroupSettings(lr=1e-6, momentum=0.9),)),
        schedule=ScheduleSettings(),
        sync=SyncSettings("asp"),
        tensors=(TensorSlice(0, CODED, 9),),
    )


async def assign(transport: AiohttpTransport, address: Address) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "parameters": np.zeros(PARAMETERS, np.float32),
        "buffers": np.zeros(0, np.float32),
        "counters": np.zeros(0, np.uint8),
    }
    for codec in CODECS:
        body = pack(ShardOrder(assignment(codec)), arrays)
        await ask_bytes(
            transport, address, SHARD_ASSIGN, [body], limit_bytes=1024, timeout_seconds=60
        )
    members = Members(1, tuple(Member(worker, 1) for worker in range(CLIENTS)))
    await ask(transport, address, SHARD_MEMBERS, members, ServerReport)


class Client:
    """One of the concurrent clients; keeps its receive buffer, as a worker does."""

    def __init__(self, worker: int, codec_name: str, address: Address) -> None:
        self.codec = codec_named(codec_name)
        self.address = address
        self.worker = worker
        self.shard = CODECS.index(codec_name)
        self.sequence = 0
        self.version = 0
        self.position = NO_POSITION
        gradient = np.random.default_rng(worker).standard_normal(PARAMETERS).astype(np.float32)
        coder = Coder(self.codec, NoStage(), assignment(codec_name).slice)
        self.payload = b"".join(coder.encode(gradient, None, EncoderState()).parts)
        self.reply = memoryview(bytearray(HEADER_BYTES + 4 * PARAMETERS))

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
        )
        body = await transport.call(
            self.address.url,
            EXCHANGE,
            [encode_header(header), self.payload],
            allocate=lambda length: self.reply[:length],
            timeout_seconds=60.0,
        )
        reply = decode_header(body[:HEADER_BYTES])
        self.version, self.position = reply.version, reply.position


async def rate(transport: AiohttpTransport, clients: list[Client], seconds: float) -> float:
    """Exchanges per second of all clients together."""
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


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, user and system together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measured(
    transport: AiohttpTransport, clients: list[Client], seconds: float, pid: int
) -> tuple[float, float]:
    """Exchanges per second, and the server's processor seconds per exchange."""
    before = cpu_seconds(pid)
    done = sum(client.sequence for client in clients)
    found = await rate(transport, clients, seconds)
    return found, (cpu_seconds(pid) - before) / (sum(client.sequence for client in clients) - done)


async def compare(
    ports: dict[str, int], pids: dict[str, int], rounds: int, seconds: float
) -> dict[str, Any]:
    transport = AiohttpTransport()
    addresses = {name: Address(f"http://127.0.0.1:{port}") for name, port in ports.items()}
    await assign(transport, addresses["shard"])
    clients = {
        (codec, name): [Client(worker, codec, address) for worker in range(CLIENTS)]
        for codec in CODECS
        for name, address in addresses.items()
    }
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in clients}
    for each in clients.values():
        await rate(transport, each, seconds / 2)
    for _ in range(rounds):
        for (codec, name), each in clients.items():
            row = await measured(transport, each, seconds, pids[name])
            rows[codec, name].append(row)
    await transport.close()
    result = {codec: summary(rows[codec, "shard"], rows[codec, "bare"]) for codec in CODECS}
    result["q4"]["ratio_to_float16"] = statistics.median(
        fast[0] / slow[0]
        for fast, slow in zip(rows["q4", "shard"], rows["float16", "shard"], strict=True)
    )
    return result


def summary(shard: list[tuple[float, float]], bare: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = [one[0] / other[0] for one, other in zip(shard, bare, strict=True)]
    return {
        "shard_per_second": statistics.median(row[0] for row in shard),
        "bare_per_second": statistics.median(row[0] for row in bare),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "shard_cpu_milliseconds": 1e3 * statistics.median(row[1] for row in shard),
        "bare_cpu_milliseconds": 1e3 * statistics.median(row[1] for row in bare),
    }


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


async def memory(port: int, pid: int, exchanges: int) -> list[dict[str, float]]:
    transport = AiohttpTransport()
    address = Address(f"http://127.0.0.1:{port}")
    await assign(transport, address)
    clients = [Client(worker, "q4", address) for worker in range(CLIENTS)]
    rows = []
    for step in range(21):
        rows.append(
            {"exchanges": step * exchanges // 20, "resident_megabytes": resident_bytes(pid) / 1e6}
        )
        print(rows[-1], flush=True)
        if step == 20:
            break

        async def loop(client: Client) -> None:
            for _ in range(exchanges // 20 // CLIENTS):
                await client.exchange(transport)

        await asyncio.gather(*(loop(client) for client in clients))
    await transport.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--memory", type=int, default=0, metavar="EXCHANGES")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    processes, ports, pids = [], {}, {}
    try:
        for name, target in (("shard", serve_shard), ("bare", serve_bare)):
            here, there = context.Pipe()
            process = context.Process(target=target, args=(there,), daemon=True)
            process.start()
            processes.append(process)
            ports[name] = here.recv()
            assert process.pid is not None
            pids[name] = process.pid
        if options.memory:
            run_async(memory(ports["shard"], pids["shard"], options.memory))
        else:
            result = run_async(compare(ports, pids, options.rounds, options.seconds))
            print(json.dumps(result, indent=1))
    finally:
        for process in processes:
            process.terminate()


if __name__ == "__main__":
    main()
