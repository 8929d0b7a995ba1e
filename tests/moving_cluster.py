"""A supervisor and servers on real sockets whose shards move when a test says so.

The worker's side is the real one. Here every answer is scripted: servers share what a replica would
have by its log, so that a new primary knows each worker's progress, and write down every header
that reaches them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from psedge.compression.coder import Coders
from psedge.protocol import messages
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import answer, read_body, read_message
from psedge.protocol.coding import CodingSettings
from psedge.protocol.errors import RefusedError
from psedge.protocol.ports import Handler, Incoming, Listener, Reply
from psedge.protocol.shards import SyncSettings
from psedge.protocol.version import __version__
from psedge.protocol.wire import (
    HEADER_BYTES,
    WIRE_VERSION,
    Content,
    Header,
    Kind,
    Status,
    decode_header,
    encode_header,
)
from psedge.worker.binding import Binding
from psedge.worker.model_layout import layout_of

LIMIT = 2**24
LR = 0.1
#: `gone`: nobody listens. `silent`: takes requests and answers none. `deaf`: carries them out, and
#: then hangs up. The others are refusals.
Mood = Literal["well", "silent", "deaf", "not-primary", "not-ready", "unknown-worker"]


@dataclass
class Replicated:
    """What every copy of a shard has. total: sum of all decoded updates."""

    address: messages.ShardAddress
    parameters: NDArray[np.float32]
    total: NDArray[np.float32]
    sequences: dict[tuple[int, int], int] = field(default_factory=dict)
    version: int = 0
    clock: int = 0

    def push(self, header: Header, payload: memoryview) -> Status:
        key = header.worker, header.incarnation
        if self.sequences.get(key, 0) >= header.sequence:
            return Status.DUPLICATE
        assert header.sequence == self.sequences.get(key, 0) + 1, "a push was left out"
        coders = Coders(self.address.slice)
        coder = coders.of_frame(header.codec, header.codec_parameters, header.lossless)
        update = np.zeros_like(self.parameters)
        coder.open(payload).decode(update)
        self.sequences[key] = header.sequence
        self.total += update
        self.parameters -= LR * update
        self.version += 1
        self.clock += 1
        return Status.APPLIED


class Server:
    """One server process: primary of the shards in `terms`, by number, in those terms."""

    def __init__(self, shards: Sequence[Replicated]) -> None:
        self.shards = {shard.address.shard: shard for shard in shards}
        self.terms: dict[int, int] = {}
        self.mood: Mood = "well"
        self.headers: list[Header] = []
        #: Set whenever a request has come.
        self.asked = asyncio.Event()
        self.url = ""
        self._transport = AiohttpTransport()
        self._listener: Listener | None = None

    async def open(self, port: int = 0) -> Server:
        self._listener = await self._transport.listen(
            "127.0.0.1", port, self._exchange, body_limit_bytes=LIMIT
        )
        self.url = f"http://127.0.0.1:{self._listener.port}"
        return self

    async def go(self) -> None:
        """As a killed process: what is under way breaks, and nobody listens any more."""
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

    async def come_back(self) -> None:
        await self.open(int(self.url.rpartition(":")[2]))

    async def close(self) -> None:
        await self.go()
        await self._transport.close()

    async def _exchange(self, incoming: Incoming) -> Reply:
        body = await read_body(incoming, LIMIT)
        header = decode_header(body[:HEADER_BYTES])
        self.headers.append(header)
        self.asked.set()
        if self.mood == "silent":
            await asyncio.Event().wait()
        if self.mood not in ("well", "deaf"):
            raise RefusedError(self.mood, f"shard {header.shard} is not here")
        if self.terms.get(header.shard) != header.term:
            raise RefusedError("not-primary", f"not the primary of shard {header.shard}")
        shard, status = self.shards[header.shard], Status.NONE
        if header.kind is Kind.EXCHANGE:
            payload = body[HEADER_BYTES : HEADER_BYTES + header.payload_bytes]
            status = shard.push(header, payload)
        if self.mood == "deaf":
            # Closing waits for the handler's end, so somebody else has to do it.
            closing = asyncio.ensure_future(self.go())
            await asyncio.wait((closing,))
        parameters = shard.parameters.tobytes()
        reply = Header(
            kind=Kind.REPLY, shard=header.shard, worker=header.worker,
            incarnation=header.incarnation, sequence=header.sequence, version=shard.version,
            clock=shard.clock, status=status, content=Content.WHOLE, buffers_version=1,
            position=(header.term << 32) + len(self.headers), payload_bytes=len(parameters),
        )  # fmt: skip
        return Reply((encode_header(reply), parameters))


class Cluster:
    """A map of shards, and the supervisor that hands it out. `model` is every worker's.

    push: codec of pushes. experiment: what the supervisor says the run is.
    """

    def __init__(self, model: nn.Module, shards: int = 1, push: str = "identity") -> None:
        import torch

        self.model = model
        self.layout = layout_of(model)
        self.binding = Binding(model, self.layout, torch.device("cpu"))
        self.binding.read_model()
        edges = np.linspace(0, len(self.binding.parameters), shards + 1).astype(int)
        self.shards = [
            Replicated(
                messages.ShardAddress(index, "", int(start), int(stop), 0, 0),
                self.binding.parameters[start:stop].copy(),
                np.zeros(int(stop - start), np.float32),
            )
            for index, (start, stop) in enumerate(itertools.pairwise(edges))
        ]
        self.coding = CodingSettings(push=push, pull="identity")
        self.servers: list[Server] = []
        self.places: dict[int, tuple[Server, int]] = {}
        self.revision = 1
        self.queries: list[messages.ShardsQuery] = []
        self.beats: list[messages.Heartbeat] = []
        self.joins: list[messages.Join] = []
        self.leaves: list[messages.Leave] = []
        self.claims: list[messages.Claim] = []
        self.refusal: RefusedError | None = None
        self.moved = asyncio.Event()
        self.address = Address("")
        self.heartbeat_seconds = 0.02
        self._transport = AiohttpTransport()
        self._listener: Listener | None = None

    async def open(self, servers: int = 2) -> Cluster:
        """All shards are on the first server, in term 1."""
        for _ in range(servers):
            self.servers.append(await Server(self.shards).open())
        for shard in range(len(self.shards)):
            self.place(shard, self.servers[0], 1)
        await self.supervise()
        return self

    async def supervise(self) -> None:
        """The supervisor listens, again at the same port."""
        port = int(self.address.url.rpartition(":")[2]) if self.address.url else 0
        self._listener = await self._transport.listen(
            "127.0.0.1", port, self._answer, body_limit_bytes=LIMIT
        )
        self.address = Address(f"http://127.0.0.1:{self._listener.port}")

    @property
    def gone(self) -> bool:
        """Whether the supervisor is."""
        return self._listener is None

    async def abandon(self) -> None:
        """The supervisor is gone."""
        assert self._listener is not None
        await self._listener.close()
        self._listener = None

    async def close(self) -> None:
        for server in self.servers:
            await server.close()
        await self._transport.close()

    def place(self, shard: int, server: Server, term: int) -> None:
        self.places[shard] = server, term
        server.terms[shard] = term

    def move(self, *shards: int, to: int) -> None:
        """Another server is the primary from now on, in the next term."""
        for shard in shards:
            old, term = self.places[shard]
            old.terms.pop(shard)
            self.place(shard, self.servers[to], term + 1)
        self.revision += 1
        self.moved.set()
        self.moved = asyncio.Event()

    def addresses(self) -> tuple[messages.ShardAddress, ...]:
        import msgspec

        return tuple(
            msgspec.structs.replace(
                shard.address, url=self.places[number][0].url, term=self.places[number][1]
            )
            for number, shard in enumerate(self.shards)
        )

    def welcome(self) -> messages.JoinReply:
        return messages.JoinReply(
            worker=3, name="pi", shards=self.addresses(), sync=SyncSettings("asp"),
            coding=self.coding, lossless=(), lease_seconds=3.0,
            heartbeat_seconds=self.heartbeat_seconds, map_revision=self.revision,
        )  # fmt: skip

    def total(self) -> NDArray[np.float32]:
        """Sum of all updates that the shards have applied."""
        return np.concatenate([shard.total for shard in self.shards])

    def parameters(self) -> NDArray[np.float32]:
        return np.concatenate([shard.parameters for shard in self.shards])

    async def _answer(self, incoming: Incoming) -> Reply:
        routes: dict[str, Handler] = {
            messages.HELLO: _says(messages.HelloReply(__version__, WIRE_VERSION, True, "run")),
            messages.EXPERIMENT: _says(messages.Experiment("run", {}, self.layout, "training")),
            messages.JOIN: self._join,
            messages.SHARDS: self._shards,
            messages.HEARTBEAT: self._heartbeat,
            messages.CLAIM: self._claim,
            messages.LEAVE: self._leave,
        }
        return await routes[incoming.path](incoming)

    async def _join(self, incoming: Incoming) -> Reply:
        self.joins.append(await read_message(incoming, messages.Join))
        return answer(self.welcome())

    async def _shards(self, incoming: Incoming) -> Reply:
        query = await read_message(incoming, messages.ShardsQuery)
        self.queries.append(query)
        if self.refusal is not None:
            raise self.refusal
        while query.revision >= self.revision:
            await self.moved.wait()
        return answer(messages.ShardsReply(self.revision, self.addresses()))

    async def _heartbeat(self, incoming: Incoming) -> Reply:
        self.beats.append(await read_message(incoming, messages.Heartbeat))
        return answer(messages.HeartbeatReply("continue", map_revision=self.revision))

    async def _claim(self, incoming: Incoming) -> Reply:
        """Number n is positions 10 n on; the supervisor is gone before a first answer is out."""
        claim = await read_message(incoming, messages.Claim)
        first = claim not in self.claims
        self.claims.append(claim)
        if first:
            await asyncio.wait((asyncio.ensure_future(self.abandon()),))
        return answer(messages.ClaimReply("range", 0, 10 * claim.claim, 10 * claim.claim + 10))

    async def _leave(self, incoming: Incoming) -> Reply:
        self.leaves.append(await read_message(incoming, messages.Leave))
        return answer(messages.Acknowledged())


async def until(condition: Callable[[], object]) -> None:
    """Give everyone else turns until something has come about."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def _says(message: Any) -> Callable[[Incoming], Awaitable[Reply]]:
    async def handler(incoming: Incoming) -> Reply:
        return answer(message)

    return handler
