"""The shell of a parameter server, on requests made of data."""

from __future__ import annotations

import asyncio

import numpy as np
from tiny_cluster import HOME, Network

from psedge.protocol.bundle import pack
from psedge.protocol.calls import ask, ask_bytes, bounded
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
from psedge.protocol.wire import HEADER_BYTES, Flag, Header, Kind, decode_header, encode_header
from psedge.server.service import ShardService

ASSIGNMENT = Assignment(
    0, 0, 4, 0, 0, 0, (Segment(0, 4, 0),), OptimizerSettings("sgd", (GroupSettings(lr=0.1),)),
    ScheduleSettings(), SyncSettings("bsp"),
)  # fmt: skip


async def served() -> Network:
    """A shard of four parameters with two workers, in lockstep."""
    network = Network()
    network.routes[HOME.url] = ShardService().routes()
    arrays = {
        "parameters": np.zeros(4, np.float32),
        "buffers": np.zeros(0, np.float32),
        "counters": np.zeros(0, np.uint8),
    }
    body = pack(ShardOrder(ASSIGNMENT), arrays)
    await ask_bytes(network, HOME, SHARD_ASSIGN, [body], limit_bytes=100, timeout_seconds=1.0)
    members = Members(1, (Member(0, 1), Member(1, 1)))
    await ask(network, HOME, SHARD_MEMBERS, members, ServerReport)
    return network


async def send(network: Network, kind: Kind, worker: int) -> Header:
    gradient = np.ones(4, np.float32).tobytes() if kind == Kind.EXCHANGE else b""
    header = Header(
        kind, 0, worker, 1, flags=Flag.GATED, sequence=1, samples=1, payload_bytes=len(gradient)
    )
    parts = [encode_header(header), gradient]
    body = await network.call(
        HOME.url, EXCHANGE, parts, allocate=bounded(1000), timeout_seconds=1.0
    )
    return decode_header(body[:HEADER_BYTES])


def test_a_request_whose_place_was_taken_does_not_pass_the_gate() -> None:
    async def story() -> None:
        network = await served()
        first = asyncio.ensure_future(send(network, Kind.EXCHANGE, 0))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not first.done()
        second = asyncio.ensure_future(send(network, Kind.PULL, 0))
        assert (await first).payload_bytes == 0
        assert not second.done()
        await send(network, Kind.EXCHANGE, 1)
        reply = await second
        assert (reply.payload_bytes, reply.version) == (16, 1)

    asyncio.run(asyncio.wait_for(story(), 30))
