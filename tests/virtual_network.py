"""Two or more hosts on a virtual network, for tests of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from psedge.protocol.calls import bounded, read_body
from psedge.protocol.ports import Handler, Incoming, Reply
from psedge.simulation.loop import run_virtual
from psedge.simulation.network.links import LinkProfile
from psedge.simulation.network.network import Network
from psedge.simulation.trace import Trace

GBE = LinkProfile("gbe", 1e9)
FAST = LinkProfile("fast-ethernet", 100e6)
LIMIT = 64 * 2**20
PORT = 7700


class Net:
    """A server `pc` that answers with `handler`, and callers."""

    def __init__(self, seed: int = 1, server: LinkProfile = GBE) -> None:
        self.loop = asyncio.get_running_loop()
        self.trace = Trace(self.loop.time)
        self.network = Network(self.trace, seed)
        self.network.add_host("pc", server)
        self.pc = self.network.transport("pc")

    async def serve(self, handler: Handler) -> None:
        await self.pc.listen("", PORT, handler, body_limit_bytes=LIMIT)

    def caller(self, name: str = "pi", link: LinkProfile = GBE, medium: str = "") -> Caller:
        self.network.add_host(name, link, medium)
        return Caller(self, name)


class Caller:
    """A process on a host that calls the server."""

    def __init__(self, net: Net, name: str) -> None:
        self.transport = net.network.transport(name)
        self._loop = net.loop

    async def call(
        self,
        path: str = "/echo",
        parts: Sequence[bytes] = (),
        *,
        timeout_seconds: float = 3600.0,
    ) -> bytes:
        reply = await self.transport.call(
            f"http://pc:{PORT}",
            path,
            parts,
            allocate=bounded(LIMIT),
            timeout_seconds=timeout_seconds,
        )
        return bytes(reply)

    async def seconds(self, path: str = "/echo", parts: Sequence[bytes] = ()) -> float:
        """How long a call takes."""
        began = self._loop.time()
        await self.call(path, parts)
        return self._loop.time() - began


async def echo(incoming: Incoming) -> Reply:
    return Reply((await read_body(incoming, LIMIT),))


async def swallow(incoming: Incoming) -> Reply:
    """Reads the body, answers with nothing."""
    await read_body(incoming, LIMIT)
    return Reply()


def on_network(
    scenario: Callable[[Net], Awaitable[None]], seed: int = 1, server: LinkProfile = GBE
) -> Trace:
    """Run a scenario; returns what the network recorded."""

    async def whole() -> Trace:
        net = Net(seed, server)
        await scenario(net)
        return net.trace

    return run_virtual(whole(), limit_seconds=1e6)


def processor_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
