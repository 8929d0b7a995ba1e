"""`psedge run`: a whole experiment on this machine, in real processes, under one view.

The process with the supervisor is started first and says where it listens; further servers and the
workers follow and join it as they would over a network. From then on this process only looks on:
it asks the supervisor for its status, shows it, notices children that end too early, and starts
the supervisor again if something kills it. The first Ctrl-C asks the supervisor to end the run in
order, the second ends everything at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from rich.console import Console

from psedge.child import Child
from psedge.child_commands import (
    first_command,
    server_command,
    thread_environment,
    worker_command,
)
from psedge.config import Experiment
from psedge.orders import RunOrder
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import ask
from psedge.protocol.errors import (
    PsedgeError,
    RefusedError,
    TrainingError,
    UnreachableError,
    UserError,
)
from psedge.protocol.messages import STATUS, STOP, Acknowledged, Stop
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.status import ENDED, Status
from psedge.protocol.system_clock import SystemClock
from psedge.run_folder import choose_folder, make_folder
from psedge.supervisor.sqlite_store import FILE as STORE_FILE
from psedge.terminal.conclusion import conclude
from psedge.terminal.screen import Screen, screen_for
from psedge.toml_config import load_config

_READY = re.compile(r"^psedge server ready at (http://\S+)", re.MULTILINE)
_LOOK_SECONDS = 0.25
_STATUS_TIMEOUT_SECONDS = 5.0
#: A supervisor that is killed so often within a minute is not started again.
RESTARTS_LIMIT = 5
RESTARTS_SECONDS = 60.0
#: How long the first server may take to go away after it has said that the run is over.
_FAREWELL_SECONDS = 60.0
_CLOSE_SECONDS = 10.0
_STOPPING = (
    "stopping: workers finish their step and a checkpoint is written; Ctrl-C again ends at once"
)


def run_experiment(order: RunOrder, console: Console | None = None) -> int:
    """Run an experiment to its end; the exit code is 0 unless it failed.

    Raises UserError for mistakes, also those that a child process found, and TrainingError when
    the run could not go on.
    """
    console = console or Console()
    experiment = load_config(order.config, order.overrides)
    now = SystemClock().timestamp()
    folder = choose_folder(experiment.name, order.out, order.resume, now)
    make_folder(folder)
    status = asyncio.run(_run(order, experiment, folder, console))
    return conclude(status, folder, console, now)


async def _run(order: RunOrder, experiment: Experiment, folder: Path, console: Console) -> Status:
    clock, transport = SystemClock(), AiohttpTransport()
    screen = screen_for(console)
    launch = Launch(order, experiment, folder, clock=clock, transport=transport, screen=screen)
    _listen_for_signals(launch.interrupt)
    try:
        return await launch.run()
    finally:
        screen.close()
        await launch.close()
        await transport.close()


def _listen_for_signals(interrupt: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            # Started with nohup, for instance: the user wants it to go on.
            continue
        # Only the main thread may listen; elsewhere the caller cancels.
        with contextlib.suppress(ValueError, RuntimeError):
            loop.add_signal_handler(number, interrupt)


class Launch:
    """The processes of one run, from the first to the last."""

    def __init__(
        self,
        order: RunOrder,
        experiment: Experiment,
        folder: Path,
        *,
        clock: Clock,
        transport: Transport,
        screen: Screen,
        spawn: Callable[..., Child] = Child,
    ) -> None:
        self._order = order
        self._experiment = experiment
        self._folder = folder
        self._clock = clock
        self._transport = transport
        self._screen = screen
        self._spawn = spawn
        #: Holds the supervisor; None before it is started.
        self._first: Child | None = None
        #: When something killed it, in seconds of the clock.
        self._killed_at: list[float] = []
        self._servers: list[Child] = []
        self._workers: list[Child] = []
        self._address: Address | None = None
        self._interrupts = 0
        self._notes: list[str] = []
        self._mourned: set[str] = set()
        self._status = Status(run=folder.name, phase="waiting", folder=str(folder))
        self._farewell: asyncio.Task[None] | None = None

    async def run(self) -> Status:
        """Start everything, look on until the run has ended, return its last status."""
        cluster = self._experiment.cluster
        what = "supervisor" if cluster.supervisor_apart else "first server"
        self._show(f"starting the {what}")
        again = self._order.from_checkpoint
        self._first = self._start_first(self._order.resume, 0, from_checkpoint=again)
        self._address = Address(await self._ready(self._first))
        for index in range(not cluster.supervisor_apart, cluster.servers):
            self._start_server(index)
        for index in range(cluster.workers):
            self._start_worker(index)
        self._show("the servers and workers are starting")
        try:
            await self._look_on()
        except PsedgeError as error:
            # The run folder is to say the same as the error that the user sees.
            await self._stop(str(error), failed=True)
            raise
        self._judge(self._first)
        return self._status

    async def _look_on(self) -> None:
        """Return when the run has ended or the user wants it to at once."""
        ended_at: float | None = None
        while self._interrupts < 2 and (self._is_running() or self._start_again()):
            await self._look()
            if self._status.phase in ENDED:
                ended_at = ended_at or self._clock.now()
                if self._clock.now() - ended_at > _FAREWELL_SECONDS:
                    break
            else:
                self._mourn()
            await self._clock.sleep(_LOOK_SECONDS)

    def _is_running(self) -> bool:
        return self._first is not None and self._first.running

    def _start_again(self) -> bool:
        """Start the supervisor again, if something killed it in the middle of the run: servers and
        workers are still there. False: it has ended for another reason, or was killed too often."""
        first, now = self._first, self._clock.now()
        assert first is not None
        assert self._address is not None
        code = first.exit_code
        killed = code is not None and code < 0 and -code not in (signal.SIGTERM, signal.SIGINT)
        self._killed_at = [at for at in self._killed_at if now - at < RESTARTS_SECONDS]
        ending = self._interrupts or self._status.phase in ENDED
        if not killed or ending or len(self._killed_at) >= RESTARTS_LIMIT:
            return False
        self._killed_at.append(now)
        self._notes.append(f"{_obituary(first)}; it is started again")
        resume = (self._folder / STORE_FILE).exists()
        self._first = self._start_first(resume, urlsplit(self._address.url).port or 0)
        return True

    def interrupt(self) -> None:
        """Ctrl-C: the first time stop in order, the second time at once."""
        self._interrupts += 1
        if self._interrupts > 1:
            for child in self._children():
                child.kill()
        elif self._farewell is None:
            self._notes.append(_STOPPING)
            self._show()
            self._farewell = asyncio.ensure_future(self._stop("stopped by Ctrl-C"))

    async def close(self) -> None:
        """End whatever still runs, in order where it listens."""
        if self._farewell is not None:
            self._farewell.cancel()
            await asyncio.gather(self._farewell, return_exceptions=True)
        children = self._children()
        for child in children:
            child.terminate()
        timeout = _CLOSE_SECONDS if self._interrupts < 2 else 0.0
        await asyncio.gather(*(asyncio.to_thread(child.close, timeout) for child in children))

    def _children(self) -> list[Child]:
        return [*self._workers, *self._servers, *([self._first] if self._first else [])]

    def _start_first(self, resume: bool, port: int, *, from_checkpoint: bool = False) -> Child:
        apart = self._experiment.cluster.supervisor_apart
        arguments = first_command(
            self._order, self._folder, port, resume, from_checkpoint=from_checkpoint
        )
        return self._start("supervisor" if apart else "server-0", arguments)

    def _start_server(self, index: int) -> None:
        assert self._address is not None
        arguments = server_command(self._address, self._folder, index)
        self._servers.append(self._start(f"server-{index}", arguments))

    def _start_worker(self, index: int) -> None:
        assert self._address is not None
        name = f"worker-{index + 1}"
        arguments = worker_command(self._order, self._experiment, self._address, name, index)
        self._workers.append(self._start(name, arguments))

    def _start(self, name: str, arguments: list[str]) -> Child:
        log = self._folder / "logs" / f"{name}.log"
        environment = thread_environment(self._experiment)
        return self._spawn(name, [*arguments, "--with-parent"], log, environment)

    async def _ready(self, first: Child) -> str:
        """Where the first server listens, as soon as it says so."""
        while True:
            found = _READY.search(first.output())
            if found:
                return found[1]
            if not first.running:
                if self._interrupts:
                    raise TrainingError("stopped before training began")
                raise _failure(first)
            await self._clock.sleep(_LOOK_SECONDS / 5)

    async def _look(self) -> None:
        """Ask the supervisor how it is going and show its answer."""
        assert self._address is not None
        try:
            self._status = await ask(
                self._transport,
                self._address,
                STATUS,
                Acknowledged(),
                Status,
                timeout_seconds=_STATUS_TIMEOUT_SECONDS,
            )
        except UnreachableError:
            # A supervisor that ends the run closes its door; its exit code says the rest.
            return
        except RefusedError as error:
            if error.code == "not-ready":
                # It was started again and makes its model ready.
                return
            raise
        if self._status.phase in ENDED and _STOPPING in self._notes:
            self._notes.remove(_STOPPING)
        self._show()

    def _show(self, reason: str = "") -> None:
        status = self._status
        self._screen.show(
            msgspec.structs.replace(
                status, reason=status.reason or reason, notes=(*status.notes, *self._notes)
            ),
            self._clock.now(),
        )

    def _mourn(self) -> None:
        """Note children that ended before the run did; without any worker left, end it."""
        for child in (*self._workers, *self._servers):
            if child.name not in self._mourned and child.exit_code not in (None, 0):
                self._mourned.add(child.name)
                self._notes.append(_obituary(child))
        if self._interrupts:
            return
        lost = [server for server in self._servers if server.exit_code not in (None, 0)]
        if lost and self._status.phase == "waiting":
            raise _failure(lost[0])
        failed = [worker for worker in self._workers if worker.exit_code not in (None, 0)]
        others = [worker for worker in self._status.workers if worker.state in ("alive", "idle")]
        if failed and not others and not any(worker.running for worker in self._workers):
            raise _failure(failed[0])

    def _judge(self, first: Child) -> None:
        """Raise what the end of the first server means, unless the run came to its own end."""
        if self._interrupts > 1:
            raise TrainingError(
                "ended at once; psedge run --resume continues from the last checkpoint, if any"
            )
        code = first.exit_code
        if self._interrupts and code == -signal.SIGTERM:
            # It had ended the run by itself just before; whether it did, its result says.
            return
        if code not in (None, 0) and self._status.phase not in ENDED:
            raise _failure(first)

    async def _stop(self, reason: str, *, failed: bool = False) -> None:
        if self._address is not None:
            with contextlib.suppress(PsedgeError):
                stop = Stop(reason, failed)
                await ask(self._transport, self._address, STOP, stop, Acknowledged)
                return
        for child in self._children():
            child.terminate()


def _failure(child: Child) -> PsedgeError:
    """A child's end as an error of this process, with the same exit code."""
    kind = UserError if child.exit_code == 2 else TrainingError
    return kind(f"{child.name}: {child.last_words()}")


def _obituary(child: Child) -> str:
    """A child's end in one line, for the view; its log has the rest."""
    words = child.last_words().splitlines()
    code = child.exit_code
    if len(words) == 1:
        return f"{child.name}: {words[0]}"
    if code is not None and code < 0:
        return f"{child.name}: ended by {signal.Signals(-code).name} (see {child.log})"
    return f"{child.name}: {words[-1].strip()} (see {child.log})"
