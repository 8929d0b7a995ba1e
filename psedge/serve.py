"""`psedge server`: one parameter server, the first of which holds the supervisor as well.

This module composes: real clock, network and disk, the shards, the supervisor if it is the first
server, the door in front of both. A server that joins another never imports torch.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psedge.config import Experiment
from psedge.hosting import EVERYWHERE, LOOPBACK, HostedServer, cancelled
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
from psedge.protocol.errors import AddressError, TrainingError
from psedge.protocol.ports import Listener
from psedge.protocol.system_clock import SystemClock
from psedge.run_folder import choose_folder, config_to_resume, make_folder
from psedge.terminal.say import say

if TYPE_CHECKING:
    from psedge.supervisor.service import Supervisor

#: Between two pictures of the progress view.
LOOK_SECONDS = 0.5


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
        supervisor = with_saved_token(parse_join(join))
        return run_async(_serve_joined(supervisor, host or LOOPBACK, port, with_parent))
    from psedge.toml_config import load_config

    config_path = config_to_resume(config_path, out, resume)
    experiment = load_config(config_path if config_path is not None else {}, overrides)
    name = experiment.name or "psedge"
    folder = choose_folder(name, out, resume, SystemClock().timestamp())
    return run_async(
        _serve_first(
            experiment,
            host=host or LOOPBACK,
            port=DEFAULT_PORT if port is None else port,
            folder=folder,
            resume=resume,
            data=data,
            with_parent=with_parent,
        )
    )


async def _serve_first(
    experiment: Experiment,
    *,
    host: str,
    port: int,
    folder: Path,
    resume: bool,
    data: Path,
    with_parent: bool,
) -> int:
    """Serve shards and supervise a run until it has ended."""
    from psedge.first_server import make_supervisor

    clock, transport = SystemClock(), AiohttpTransport()
    token = None if is_loopback(host) else make_token()
    server = await HostedServer.open(
        host, port, token, transport=transport, clock=clock, notify=say
    )
    try:
        supervisor = await make_supervisor(
            experiment,
            folder=folder,
            storage=Disk(folder),
            resume=resume,
            data=data,
            clock=clock,
            transport=transport,
            token=token or "",
            notify=say,
            beside=server.incarnation,
        )
        make_folder(folder)
        server.start(supervisor.routes())
        own = Address(server.url, token or "")
        _announce(server.listener, own, library=experiment.model is None)
        on_interrupt(supervisor.request_stop)
        await _until_ended(supervisor, server, own, with_parent)
    finally:
        await server.close()
        await transport.close()
    return _conclusion(supervisor)


async def _until_ended(
    supervisor: Supervisor, server: HostedServer, own: Address, with_parent: bool
) -> None:
    from psedge.first_server import serve_run

    watching = asyncio.ensure_future(_stop_with_parent(supervisor)) if with_parent else None
    showing = asyncio.ensure_future(_show(supervisor)) if sys.stdout.isatty() else None
    try:
        await serve_run(supervisor, server, own)
    finally:
        await cancelled(watching, showing)


async def _show(supervisor: Supervisor) -> None:
    """The progress view, for who started the server in a terminal."""
    from rich.console import Console

    from psedge.terminal.screen import screen_for

    clock, screen = SystemClock(), screen_for(Console())
    try:
        while True:
            screen.show(supervisor.current_status(), clock.now())
            await clock.sleep(LOOK_SECONDS)
    finally:
        screen.show(supervisor.current_status(), clock.now())
        screen.close()


async def _stop_with_parent(supervisor: Supervisor) -> None:
    await parent_gone()
    supervisor.request_stop("the process that started this server is gone")


def _conclusion(supervisor: Supervisor) -> int:
    state = supervisor.state
    if state.phase == "failed":
        raise TrainingError(state.reason)
    say(f"the run has {state.phase}" + (f": {state.reason}" if state.reason else ""))
    say(f"its folder is {state.setup.folder}")
    return 0


async def _serve_joined(supervisor: Address, host: str, port: int | None, with_parent: bool) -> int:
    """Serve shards for a supervisor elsewhere until it says that the run has ended."""
    if not is_loopback(host) and not supervisor.token:
        raise AddressError(
            "this server is to listen on the network, so it needs the token: paste the whole join "
            "line that the first server printed, http://TOKEN@..."
        )
    clock, transport = SystemClock(), AiohttpTransport()
    token = None if is_loopback(host) else supervisor.token
    server = await HostedServer.open(
        host, port, token, transport=transport, clock=clock, notify=say
    )
    server.start()
    say(f"psedge server ready at {server.url}")
    stopped = asyncio.Event()
    on_interrupt(lambda reason: stopped.set())
    serving: asyncio.Future[Any] = asyncio.ensure_future(server.serve_for(supervisor))
    ends: list[asyncio.Future[Any]] = [serving, asyncio.ensure_future(stopped.wait())]
    if with_parent:
        ends.append(asyncio.ensure_future(parent_gone()))
    try:
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in done:
            end.result()
        say("the run has ended" if serving in done else "stopped")
    finally:
        await cancelled(*ends)
        await server.close()
        await transport.close()
    return 0


def _announce(listener: Listener, own: Address, *, library: bool) -> None:
    """Say where the server is, and the one line to paste on a worker.

    library: the workers are programs of the user's, for no config says what to train.
    """
    say(f"psedge server ready at {own.url}")
    line = own.url
    if is_loopback(listener.host):
        say("Only this machine can reach it; for others start it with --host 0.0.0.0.")
    else:
        host = lan_host() if listener.host in EVERYWHERE else listener.host
        line = join_line(Address(url_of(host, listener.port), own.token))
    if library:
        say(f'In each program:  ps = psedge.connect("{line}", model)')
    else:
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
