"""Exchanges per second of one shard server against a bare aiohttp server, and its memory.

The bare server only receives a body and returns one of the same size. Both are driven by the same
8 concurrent clients in a process of their own, in turns, over loopback; each exchange pushes a
464,154-parameter gradient and pulls fresh parameters. The servers run momentum SGD.

    python benchmarks/server_exchange.py                     # ratios, some 30 s
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

from psedge.compression.table import codec_named
from psedge.loop import run_async
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask, ask_bytes
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
from psedge.protocol.wire import HEADER_BYTES, Header, Kind, decode_header, encode_header
from psedge.server.service import ShardService

PARAMETERS = 464_154
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

        door = Door(ShardService().routes(), token=None)
        listener = await AiohttpTransport().listen(
            "127.0.0.1", 0, door, body_limit_bytes=LIMIT_BYTES
        )
        pipe.send(listener.port)
        await asyncio.Event().wait()

    run_async(main())


async def assign(transport: AiohttpTransport, address: Address) -> None:
    assignment = Assignment(
        shard=0,
        start=0,
        stop=PARAMETERS,
        buffers_start=0,
        buffers_stop=0,
        counters_bytes=0,
        segments=(Segment(0, PARAMETERS, 0),),
        optimizer=OptimizerSettings("sgd", (GroupSettings(lr=1e-6, momentum=0.9),)),
        schedule=ScheduleSettings(),
        sync=SyncSettings("asp"),
    )
    arrays = {
        "parameters": np.zeros(PARAMETERS, np.float32),
        "buffers": np.zeros(0, np.float32),
        "counters": np.zeros(0, np.uint8),
    }
    body = pack(ShardOrder(assignment), arrays)
    await ask_bytes(transport, address, SHARD_ASSIGN, [body], limit_bytes=1024, timeout_seconds=60)
    members = Members(1, tuple(Member(worker, 1) for worker in range(CLIENTS)))
    await ask(transport, address, SHARD_MEMBERS, members, ServerReport)


class Client:
    """One of the concurrent clients; keeps its receive buffer, as a worker does."""

    def __init__(self, worker: int, codec_name: str, address: Address) -> None:
        self.codec = codec_named(codec_name)
        self.address = address
        self.worker = worker
        self.sequence = 0
        self.version = 0
        gradient = np.random.default_rng(worker).standard_normal(PARAMETERS).astype(np.float32)
        self.payload = bytes(self.codec.encode(gradient, None))
        self.reply = memoryview(bytearray(HEADER_BYTES + len(self.payload)))

    async def exchange(self, transport: AiohttpTransport) -> None:
        self.sequence += 1
        header = Header(
            kind=Kind.EXCHANGE,
            shard=0,
            worker=self.worker,
            incarnation=1,
            sequence=self.sequence,
            version=self.version,
            samples=32,
            codec=self.codec.id,
            reply_codec=self.codec.id,
            payload_bytes=len(self.payload),
        )
        body = await transport.call(
            self.address.url,
            EXCHANGE,
            [encode_header(header), self.payload],
            allocate=lambda length: self.reply[:length],
            timeout_seconds=60.0,
        )
        self.version = decode_header(body[:HEADER_BYTES]).version


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


async def compare(
    ports: dict[str, int], pids: dict[str, int], rounds: int, seconds: float
) -> dict[str, Any]:
    transport = AiohttpTransport()
    addresses = {name: Address(f"http://127.0.0.1:{port}") for name, port in ports.items()}
    result: dict[str, Any] = {}
    for codec in ("identity", "float16"):
        await assign(transport, addresses["shard"])
        clients = {
            name: [Client(worker, codec, address) for worker in range(CLIENTS)]
            for name, address in addresses.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in addresses}
        work: dict[str, list[float]] = {name: [] for name in addresses}
        for name in addresses:
            await rate(transport, clients[name], seconds / 2)
        for _ in range(rounds):
            for name in addresses:
                before = cpu_seconds(pids[name])
                done = sum(client.sequence for client in clients[name])
                rates[name].append(await rate(transport, clients[name], seconds))
                exchanges = sum(client.sequence for client in clients[name]) - done
                work[name].append((cpu_seconds(pids[name]) - before) / exchanges)
        ratios = [a / b for a, b in zip(rates["shard"], rates["bare"], strict=True)]
        result[codec] = {
            "shard_per_second": statistics.median(rates["shard"]),
            "bare_per_second": statistics.median(rates["bare"]),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "shard_cpu_milliseconds": 1e3 * statistics.median(work["shard"]),
            "bare_cpu_milliseconds": 1e3 * statistics.median(work["bare"]),
        }
    await transport.close()
    return result


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


async def memory(port: int, pid: int, exchanges: int) -> list[dict[str, float]]:
    transport = AiohttpTransport()
    address = Address(f"http://127.0.0.1:{port}")
    await assign(transport, address)
    clients = [Client(worker, "float16", address) for worker in range(CLIENTS)]
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
