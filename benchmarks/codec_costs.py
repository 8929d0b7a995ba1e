"""What codecs, lossless stages and a request cost this machine: the simulator's reference table.

Processor time on one thread, medians of several turns, on a heavy-tailed vector as long as
ResNet-32. One shard server in a process of its own answers tiny exchanges over loopback for the
cost of a request, which is printed too for the worker's side: `exchange_seconds` of the profile
`pc` in psedge/simulation/profiles.toml.

    python benchmarks/codec_costs.py                # writes psedge/simulation/codec_costs.toml
    python benchmarks/codec_costs.py --out costs.toml
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from psedge.compression.codec import Codec, EncoderState, Float32Array
from psedge.compression.identity import Identity
from psedge.compression.lossless import Lossless, NoStage, available, stage_named
from psedge.compression.step import Step
from psedge.compression.table import PULL_CODECS, PUSH_CODECS, codec_named
from psedge.loop import run_async
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask, ask_bytes
from psedge.protocol.coding import CodingSettings
from psedge.protocol.door import Door
from psedge.protocol.layout import Slice, TensorSlice
from psedge.protocol.messages import SHARD_ASSIGN, SHARD_MEMBERS, JoinReply, ShardAddress
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
from psedge.server.service import ShardService
from psedge.toml_text import dumps
from psedge.worker.client import ShardClient

OUT = Path(__file__).parent.parent / "psedge" / "simulation" / "codec_costs.toml"
#: ResNet-32 for CIFAR-10.
ELEMENTS = 464_154
TURNS = 15
#: Of the model with which requests are measured, and how many.
TINY = 64
EXCHANGES = 3000

_PIECE = Slice(0, ELEMENTS, (TensorSlice(0, ELEMENTS, 9),))


def turns(operation: Callable[[int], Any]) -> float:
    """Median nanoseconds of processor time."""
    operation(0)
    found = []
    for turn in range(TURNS):
        started = time.process_time_ns()
        operation(turn)
        found.append(time.process_time_ns() - started)
    return statistics.median(found)


def gradients() -> list[Float32Array]:
    draw = np.random.default_rng(0)
    values = draw.standard_normal(ELEMENTS) * np.exp(draw.standard_normal(ELEMENTS)) * 1e-3
    return [np.roll(values, shift).astype(np.float32) for shift in (0, 1000)]


def of_codec(codec: Codec, values: list[Float32Array]) -> dict[str, Any]:
    """Nanoseconds per element of all that is done with one codec."""
    residual = None if isinstance(codec, Identity) else np.zeros(ELEMENTS, np.float32)
    state = EncoderState()

    def encode(turn: int) -> bytes:
        parts = codec.encode(values[turn % 2], residual, _PIECE, state).parts
        state.payloads += 1
        return b"".join(parts) if turn < 0 else b""

    encode_ns = turns(encode)
    body = encode(-1)
    payload = np.frombuffer(body, np.uint8)
    out = np.zeros(ELEMENTS, np.float32)
    settings = np.array([[0.01, 1e-4, 0.9, 1.0, 0.0]], np.float32)
    stops = np.array([ELEMENTS], np.int64)
    step = Step("sgd", out, (np.zeros(ELEMENTS, np.float32),), stops, settings)
    row: dict[str, Any] = {
        "encode_ns": encode_ns,
        "decode_ns": turns(lambda _: codec.decode_accumulate(payload, _PIECE, 1.0, out)),
        "apply_ns": turns(lambda _: codec.decode_apply([payload], [1.0], _PIECE, step)),
    }
    if codec.name in PULL_CODECS:
        published, target = np.zeros(ELEMENTS, np.float32), np.zeros(ELEMENTS, np.float32)

        def publish(turn: int) -> None:
            codec.encode_delta(target, published, _PIECE, state)

        def moved(turn: int) -> None:
            np.add(target, values[turn % 2], out=target)

        def move_and_publish(turn: int) -> None:
            moved(turn)
            publish(turn)

        row["publish_ns"] = max(turns(move_and_publish) - turns(moved), 0.0)
    row = {key: round(value / ELEMENTS, 3) for key, value in row.items()}
    row["stages"] = {name: of_stage(stage_named(name), body) for name in available()}
    return row


def of_stage(stage: Lossless, body: bytes) -> list[float]:
    """Nanoseconds per element to compress and to decompress one codec's payload."""
    if isinstance(stage, NoStage):
        return [0.0, 0.0]
    packed = memoryview(stage.compress(body))
    compress = turns(lambda _: stage.compress(body))
    decompress = turns(lambda _: stage.decompress(packed, len(body)))
    return [round(each / ELEMENTS, 3) for each in (compress, decompress)]


def serve(pipe: Connection) -> None:
    async def main() -> None:
        door = Door(ShardService(SystemClock()).routes(), token=None)
        listener = await AiohttpTransport().listen("127.0.0.1", 0, door, body_limit_bytes=2**20)
        pipe.send(listener.port)
        await asyncio.Event().wait()

    run_async(main())


async def assign(transport: AiohttpTransport, address: Address) -> None:
    assignment = Assignment(
        shard=0,
        start=0,
        stop=TINY,
        buffers_start=0,
        buffers_stop=0,
        counters_bytes=0,
        segments=(Segment(0, TINY, 0),),
        optimizer=OptimizerSettings("sgd", (GroupSettings(lr=1e-6, momentum=0.9),)),
        schedule=ScheduleSettings(),
        sync=SyncSettings("asp"),
        tensors=(TensorSlice(0, TINY, 8),),
    )
    arrays = {
        "parameters": np.zeros(TINY, np.float32),
        "buffers": np.zeros(0, np.float32),
        "counters": np.zeros(0, np.uint8),
    }
    body = pack(ShardOrder(assignment), arrays)
    await ask_bytes(transport, address, SHARD_ASSIGN, [body], limit_bytes=1024, timeout_seconds=60)
    members = Members(1, (Member(0, 1),))
    await ask(transport, address, SHARD_MEMBERS, members, ServerReport)


class Vectors:
    """Of the tiny model; what a worker's binding holds."""

    def __init__(self) -> None:
        self.parameters = np.zeros(TINY, np.float32)
        self.buffers = np.zeros(0, np.float32)
        self.counters = np.zeros(0, np.uint8)


async def exchanges(port: int, server: int) -> tuple[float, float]:
    """Processor seconds per exchange of the worker and of the server."""
    transport, address = AiohttpTransport(), Address(f"http://127.0.0.1:{port}")
    await assign(transport, address)
    shard = ShardAddress(0, "", 0, TINY, 0, 0, (TensorSlice(0, TINY, 8),))
    join = JoinReply(
        worker=0,
        name="bench",
        shards=(shard,),
        sync=SyncSettings("asp"),
        coding=CodingSettings(push="q4", pull="q4"),
        lossless=("none",),
        lease_seconds=60,
        heartbeat_seconds=20,
    )
    client = ShardClient(transport, SystemClock(), join, address, 1, Vectors(), lambda text: None)
    await client.pull()
    client.take()
    gradient = np.full(TINY, 1e-3, np.float32)
    for count in (EXCHANGES // 10, EXCHANGES):
        own, served = time.process_time(), cpu_seconds(server)
        for _ in range(count):
            await client.exchange(gradient, 32)
            client.take()
    found = (time.process_time() - own) / count, (cpu_seconds(server) - served) / count
    await transport.close()
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, user and system together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def of_requests() -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        return run_async(exchanges(here.recv(), process.pid or 0))
    finally:
        process.terminate()
        process.join()


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    exchange, request = of_requests()
    values = gradients()
    table = {
        "reference": {"machine": processor(), "request_seconds": round(request, 6)},
        "codecs": {name: of_codec(codec_named(name), values) for name in PUSH_CODECS},
    }
    head = (
        "# Nanoseconds of one core per element, written by benchmarks/codec_costs.py.\n"
        "# stages: to compress and to decompress what that codec made.\n\n"
    )
    options.out.write_text(head + dumps(table), encoding="utf-8")
    print(f"{options.out}; exchange_seconds of this machine: {exchange:.6f}")


if __name__ == "__main__":
    main()
