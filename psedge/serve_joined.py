"""`psedge server --join`: shards for a supervisor elsewhere; never imports torch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from pathlib import Path
from typing import Any

import msgspec

from psedge.config import Experiment
from psedge.hosting import HostedServer, cancelled
from psedge.loop import on_interrupt, parent_gone
from psedge.protocol.address import Address, is_loopback, place_of
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.disk import Disk
from psedge.protocol.errors import AddressError
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.system_clock import SystemClock
from psedge.run_folder import RUNS, server_folder
from psedge.server.store import ServerStore
from psedge.terminal.say import say
from psedge.worker.control import SupervisorClient


async def serve_joined(
    supervisor: Address, host: str, port: int | None, store: Path | None, with_parent: bool
) -> int:
    """Serve shards until the supervisor says that the run has ended.

    port: None takes a free one, and never that of a supervisor on this machine, which may not be
    there yet. store: folder of the logs; None: one of this port's below the run's name.
    Raises AddressError for an address that is none, is the supervisor's or lacks the token,
    ConfigError for a folder that is another run's.
    """
    if not is_loopback(host) and not supervisor.token:
        raise AddressError(
            "this server is to listen on the network, so it needs the token: paste the whole join "
            "line that the first server printed, http://TOKEN@..."
        )
    their_host, their_port = place_of(supervisor)
    beside = await asyncio.to_thread(is_here, their_host)
    if port == their_port and beside:
        raise AddressError(
            f"--port {port} is that of the first server, {supervisor.url}: name another one, or "
            "none"
        )
    clock, transport = SystemClock(), AiohttpTransport()
    token = None if is_loopback(host) else supervisor.token
    server = await HostedServer.open(
        host,
        port,
        token,
        transport=transport,
        clock=clock,
        notify=say,
        leave=their_port if beside else None,
    )
    server.start()
    say(f"psedge server ready at {server.url}")
    try:
        taking_part = _take_part(server, supervisor, store, transport, clock)
        ended = await _until_ended(asyncio.ensure_future(taking_part), with_parent)
        say("the run has ended" if ended else "stopped")
    finally:
        await server.close()
        await transport.close()
    return 0


def is_here(host: str) -> bool:
    """Whether a host name or address is one of this machine's."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        # Only an address of one's own can be bound.
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as trial:
            trial.bind(address)
            return True
    return False


async def _until_ended(serving: asyncio.Future[Any], with_parent: bool) -> bool:
    """Whether the run has ended; otherwise this server was stopped before."""
    stopped = asyncio.Event()
    on_interrupt(lambda reason: stopped.set())
    ends: list[asyncio.Future[Any]] = [serving, asyncio.ensure_future(stopped.wait())]
    if with_parent:
        ends.append(asyncio.ensure_future(parent_gone()))
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in done:
            end.result()
        return serving in done
    finally:
        await cancelled(*ends)


async def _take_part(
    server: HostedServer,
    supervisor: Address,
    store: Path | None,
    transport: Transport,
    clock: Clock,
) -> None:
    """Learn what the run is, and then belong to it."""
    client = SupervisorClient(transport, clock, supervisor, say)
    await client.reach()
    answer = await client.patiently(client.experiment)
    folder = store or server_folder(RUNS / answer.run, server.listener.port)
    server.keep(store_for(msgspec.convert(answer.config, Experiment), folder))
    await server.serve_for(supervisor, process=os.getpid(), machine=socket.gethostname())


def store_for(experiment: Experiment, folder: Path) -> ServerStore | None:
    """Where a server keeps its logs; None, and no folder, if the experiment wants none."""
    if experiment.durability.log == "off":
        return None
    return ServerStore(Disk(folder), SystemClock(), say, secrets.randbits, str(folder))
