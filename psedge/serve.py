"""`psedge server`: one parameter server, the first of which holds the supervisor as well.

This module composes: real clock, network and disk, the shard service, the supervisor if it is the
first server, the door in front of both. A server that joins another never imports torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from psedge.config import Experiment
from psedge.loop import on_interrupt, parent_gone, run_async
from psedge.own_token import make_token, with_saved_token
from psedge.protocol.address import (
    DEFAULT_PORT,
    Address,
    is_loopback,
    join_line,
    parse_join,
    url_of,
)
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.disk import Disk
from psedge.protocol.door import Door
from psedge.protocol.errors import AddressError, TrainingError
from psedge.protocol.ports import Handler, Listener
from psedge.protocol.system_clock import SystemClock
from psedge.run_folder import choose_folder
from psedge.server.node import ServerNode
from psedge.server.service import ASSIGNMENT_LIMIT_BYTES, ShardService

if TYPE_CHECKING:
    from psedge.supervisor.service import Supervisor

LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104
#: A server that joins others on the same machine takes the first free of so many ports.
_PORTS_TRIED = 16
#: How long an ended run stays to be asked, so that everybody hears how it ended.
LINGER_SECONDS = 3.0


def say(text: str) -> None:
    """One line for the person at this terminal."""
    click.echo(text)


def run_server(
    *,
    config_path: Path | None,
    overrides: Sequence[str],
    join: str | None,
    host: str | None,
    port: int | None,
    out: Path | None,
    resume: bool,
    data: Path,
    with_parent: bool,
) -> int:
    """Serve until the run has ended; the exit code is 1 if it failed.

    Raises UserError for mistakes in the config or the address.
    """
    if join is not None:
        main = _serve_joined(with_saved_token(parse_join(join)), host or LOOPBACK, port, with_parent)
        return run_async(main)
    from psedge.toml_config import load_config

    experiment = load_config(config_path if config_path is not None else {}, overrides)
    return run_async(
        serve_first(
            experiment,
            host=host or LOOPBACK,
            port=DEFAULT_PORT if port is None else port,
            out=out,
            resume=resume,
            data=data,
            with_parent=with_parent,
        )
    )


async def serve_first(
    experiment: Experiment,
    *,
    host: str,
    port: int,
    out: Path | None,
    resume: bool,
    data: Path,
    with_parent: bool,
) -> int:
    """Serve shards and supervise a run until it has ended."""
    from psedge.first_server import make_supervisor

    clock, transport = SystemClock(), AiohttpTransport()
    token = _own_token(host)
    name = experiment.name or "psedge"
    folder = choose_folder(name, out, resume, clock.timestamp())
    routes: dict[str, Handler] = {}
    listener = await _listen(transport, host, port, routes, token)
    try:
        own = Address(_own_url(listener), token or "")
        supervisor = await make_supervisor(
            experiment,
            folder=folder,
            storage=Disk(folder),
            resume=resume,
            data=data,
            clock=clock,
            transport=transport,
            token=own.token,
            notify=say,
        )
        service = ShardService()
        routes.update({**service.routes(), **supervisor.routes()})
        node = ServerNode(
            service,
            own,
            host=listener.host,
            port=listener.port,
            incarnation=secrets.randbits(63),
            transport=transport,
            clock=clock,
            notify=say,
        )
        _announce(listener, own)
        on_interrupt(lambda: supervisor.request_stop("stopped by Ctrl-C"))
        return await _until_ended(supervisor, node, with_parent)
    finally:
        await listener.close()
        await transport.close()


async def _until_ended(supervisor: Supervisor, node: ServerNode, with_parent: bool) -> int:
    beating = asyncio.create_task(node.run(patient=True))
    watching = asyncio.create_task(_stop_with_parent(supervisor)) if with_parent else None
    try:
        await supervisor.run()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(supervisor.everyone_knows(), LINGER_SECONDS)
    finally:
        for task in (beating, watching):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    state = supervisor.state
    if state.phase == "failed":
        raise TrainingError(state.reason)
    say(f"the run has {state.phase}" + (f": {state.reason}" if state.reason else ""))
    say(f"its folder is {state.setup.folder}")
    return 0


async def _stop_with_parent(supervisor: Supervisor) -> None:
    await parent_gone()
    supervisor.request_stop("the process that started this server is gone")


async def _serve_joined(
    supervisor: Address, host: str, port: int | None, with_parent: bool
) -> int:
    """Serve shards for a supervisor elsewhere until it says that the run has ended."""
    clock, transport = SystemClock(), AiohttpTransport()
    if not is_loopback(host) and not supervisor.token:
        raise AddressError(
            "this server is to listen on the network, so it needs the token: paste the whole join "
            "line that the first server printed, http://TOKEN@..."
        )
    service = ShardService()
    token = None if is_loopback(host) else supervisor.token
    listener = await _listen_nearby(transport, host, port, service.routes(), token)
    node = ServerNode(
        service,
        supervisor,
        host=listener.host,
        port=listener.port,
        incarnation=secrets.randbits(63),
        transport=transport,
        clock=clock,
        notify=say,
    )
    say(f"psedge server ready at {_own_url(listener)}")
    stopped = asyncio.Event()
    on_interrupt(stopped.set)
    ends: list[Awaitable[object]] = [node.run(patient=True), stopped.wait()]
    if with_parent:
        ends.append(parent_gone())
    tasks = [asyncio.ensure_future(end) for end in ends]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        say("the run has ended" if tasks[0] in done else "stopped")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.close()
        await transport.close()
    return 0


async def _listen(
    transport: AiohttpTransport,
    host: str,
    port: int,
    routes: dict[str, Handler],
    token: str | None,
) -> Listener:
    door = Door(routes, token=token)
    return await transport.listen(host, port, door, body_limit_bytes=ASSIGNMENT_LIMIT_BYTES)


async def _listen_nearby(
    transport: AiohttpTransport,
    host: str,
    port: int | None,
    routes: dict[str, Handler],
    token: str | None,
) -> Listener:
    """On the port asked for, or on the first free one after the first server's."""
    if port is not None:
        return await _listen(transport, host, port, routes, token)
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED):
        try:
            return await _listen(transport, host, candidate, routes, token)
        except AddressError as error:
            last = error
    raise last


def _own_token(host: str) -> str | None:
    """The token that opens this server's door; None where only this machine can reach it."""
    return None if is_loopback(host) else make_token()


def _own_url(listener: Listener) -> str:
    """How this machine reaches its own listener."""
    host = LOOPBACK if listener.host in _EVERYWHERE else listener.host
    return url_of(host, listener.port)


def _announce(listener: Listener, own: Address) -> None:
    """Say where the server is, and the one line to paste on a worker."""
    say(f"psedge server ready at {own.url}")
    if is_loopback(listener.host):
        say("Only this machine can reach it; for others start it with --host 0.0.0.0.")
        say(f"On each worker:  psedge worker --join {own.url}")
        return
    host = lan_host() if listener.host in _EVERYWHERE else listener.host
    line = join_line(Address(url_of(host, listener.port), own.token))
    say(f"On each worker:  psedge worker --join {line}")


def lan_host() -> str:
    """The address by which other machines most likely reach this one; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Choosing a route needs an address outside of this machine; this one is reserved for
            # documentation (RFC 5737), and connecting a datagram socket sends no packet.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
