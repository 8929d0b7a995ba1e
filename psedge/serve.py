"""`psedge server`: the first server of a run, with the supervisor in it or nothing but that.

This module composes: real clock, network and disk, the shards, the supervisor and its book, the
door in front of all. Servers that join it are in `serve_joined.py`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from psedge.config import Experiment
from psedge.hosting import EVERYWHERE, LOOPBACK, HostedServer, cancelled
from psedge.loop import on_interrupt, parent_gone, run_async
from psedge.memory import keep_freed_memory
from psedge.orders import ServerOrder
from psedge.own_book import open_book
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
from psedge.protocol.errors import TrainingError
from psedge.protocol.ports import Listener, Transport
from psedge.protocol.system_clock import SystemClock
from psedge.run_folder import choose_folder, config_to_resume, server_folder
from psedge.run_lock import Holder, RunLock
from psedge.serve_joined import serve_joined, store_for
from psedge.terminal.say import say

if TYPE_CHECKING:
    from psedge.supervisor.service import Supervisor

#: Between two pictures of the progress view.
LOOK_SECONDS = 0.5


def run_server(order: ServerOrder) -> int:
    """Serve until the run has ended; the exit code is 1 if it failed.

    Raises UserError for mistakes in the config or the address.
    """
    keep_freed_memory()
    if order.join is not None:
        supervisor = with_saved_token(parse_join(order.join))
        return run_async(
            serve_joined(
                supervisor, order.host or LOOPBACK, order.port, order.store, order.with_parent
            )
        )
    from psedge.toml_config import load_config

    config = config_to_resume(order.config, order.out, order.resume)
    experiment = load_config(config if config is not None else {}, order.overrides)
    name = experiment.name or "psedge"
    folder = choose_folder(name, order.out, order.resume, SystemClock().timestamp())
    return run_async(_serve_first(experiment, order, folder))


async def _serve_first(experiment: Experiment, order: ServerOrder, folder: Path) -> int:
    transport, lock = AiohttpTransport(), RunLock(folder)
    try:
        if order.resume:
            lock.require_free()
        return await _serve(experiment, order, folder, transport, lock)
    finally:
        await transport.close()
        lock.release()


async def _serve(
    experiment: Experiment,
    order: ServerOrder,
    folder: Path,
    transport: Transport,
    lock: RunLock,
) -> int:
    """Supervise a run until it has ended, and serve shards beside unless it is to be apart."""
    from psedge.first_server import Here, make_supervisor
    from psedge.supervisor.recorder import Recorder

    clock = SystemClock()
    await _require_store(experiment, order)
    host, port = _listen_at(order, lock)
    token = "" if is_loopback(host) else make_token()
    server = await _open_server(experiment, order, folder, transport, host, port, token)
    beside = None if experiment.cluster.supervisor_apart else server
    supervisor: Supervisor | None = None
    try:
        own = Address(server.url, token)
        holder = Holder(os.getpid(), socket.gethostname(), server.url, host, server.listener.port)
        supervisor = await make_supervisor(
            experiment,
            folder=folder,
            storage=Disk(folder),
            resume=order.resume,
            from_checkpoint=order.from_checkpoint,
            data=order.data,
            clock=clock,
            transport=transport,
            token=own.token,
            notify=say,
            beside=None if beside is None else beside.incarnation,
            open_book=lambda: open_book(folder, lock, holder, clock, say),
            here=Here(holder.process, holder.machine),
        )
        if not order.resume:
            # Whoever resumes the run before its training begins need not know its config.
            await Recorder(Disk(folder), clock, say).start(experiment)
        server.start(supervisor.routes())
        _announce(server.listener, own, experiment)
        on_interrupt(supervisor.request_stop)
        await _until_ended(supervisor, beside, own, holder, order.with_parent)
    finally:
        await server.close()
        if supervisor is not None and supervisor.state.book is not None:
            await supervisor.state.book.close()
    return _conclusion(supervisor)


async def _require_store(experiment: Experiment, order: ServerOrder) -> None:
    """A folder for logs that cannot be used is refused before there is a run."""
    if order.store is not None and not order.resume and not experiment.cluster.supervisor_apart:
        store = store_for(experiment, order.store)
        if store is not None:
            await store.require_new()


async def _open_server(
    experiment: Experiment,
    order: ServerOrder,
    folder: Path,
    transport: Transport,
    host: str,
    port: int,
    token: str,
) -> HostedServer:
    """The door of this process. token: empty where nobody else gets in."""
    apart = experiment.cluster.supervisor_apart
    store = None if apart else store_for(experiment, order.store or server_folder(folder, 0))
    return await HostedServer.open(
        host,
        port,
        token or None,
        transport=transport,
        clock=SystemClock(),
        notify=say,
        store=store,
    )


def _listen_at(order: ServerOrder, lock: RunLock) -> tuple[str, int]:
    """Host and port: as asked for, else where servers and workers of a resumed run look for it."""
    last = lock.last_holder() if order.resume else None
    if last is None or last.machine != socket.gethostname():
        last = Holder(0, "", "", LOOPBACK, DEFAULT_PORT)
    return order.host or last.host, last.port if order.port is None else order.port


async def _until_ended(
    supervisor: Supervisor,
    server: HostedServer | None,
    own: Address,
    holder: Holder,
    with_parent: bool,
) -> None:
    from psedge.first_server import Here, serve_run

    watching = asyncio.ensure_future(_stop_with_parent(supervisor)) if with_parent else None
    showing = asyncio.ensure_future(_show(supervisor)) if sys.stdout.isatty() else None
    try:
        await serve_run(supervisor, server, own, Here(holder.process, holder.machine))
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


def _announce(listener: Listener, own: Address, experiment: Experiment) -> None:
    """Say where the server is, and the one line to paste on each other machine."""
    say(f"psedge server ready at {own.url}")
    line, host = own.url, ""
    if is_loopback(listener.host):
        say("Only this machine can reach it; for others start it with --host 0.0.0.0.")
    else:
        reached = lan_host() if listener.host in EVERYWHERE else listener.host
        line, host = (
            join_line(Address(url_of(reached, listener.port), own.token)),
            " --host 0.0.0.0",
        )
    cluster = experiment.cluster
    other = "" if cluster.supervisor_apart else "other "
    joining = cluster.servers - (not cluster.supervisor_apart)
    if joining:
        which = f"the {other}server" if joining == 1 else f"each of {joining} {other}servers"
        say(f"On {which}:  psedge server --join {line}{host}")
    if experiment.model is None:
        # The workers are programs of the user's, for no config says what to train.
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
