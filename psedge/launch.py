"""`psedge run`: a whole experiment on this machine, in real processes, under one view.

The first server is started and says where it listens; further servers and the workers follow and
join it as they would over a network. From then on this process only looks on: it asks the
supervisor for its status, shows it, and notices children that end too early. The first Ctrl-C asks
the supervisor to end the run in order, the second ends everything at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from psedge.child import Child
from psedge.config import Experiment
from psedge.own_packages import packages_of
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import ask
from psedge.protocol.errors import PsedgeError, TrainingError, UnreachableError, UserError
from psedge.protocol.messages import STATUS, STOP, Acknowledged, Stop
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.status import Status
from psedge.protocol.system_clock import SystemClock
from psedge.run_folder import choose_folder, make_folder
from psedge.terminal.conclusion import conclude
from psedge.terminal.screen import Screen, screen_for
from psedge.toml_config import load_config

_READY = re.compile(r"^psedge server ready at (http://\S+)", re.MULTILINE)
_LOOK_SECONDS = 0.25
_STATUS_TIMEOUT_SECONDS = 5.0
#: How long the first server may take to go away after it has said that the run is over.
_FAREWELL_SECONDS = 60.0
_CLOSE_SECONDS = 10.0
_ENDED = ("finished", "stopped", "failed")
_STOPPING = (
    "stopping: workers finish their step and a checkpoint is written; Ctrl-C again ends at once"
)


class RunOrder(msgspec.Struct, frozen=True):
    """What the user asked for on the command line."""

    config: Path
    overrides: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    data: Path = Path("data")
    device: str = "auto"
    allow: tuple[str, ...] = ()


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
        self._show("starting the first server")
        first = self._start_server(0)
        self._address = Address(await self._ready(first))
        for index in range(1, cluster.servers):
            self._start_server(index)
        for index in range(cluster.workers):
            self._start_worker(index)
        self._show("the servers and workers are starting")
        try:
            await self._look_on(first)
        except PsedgeError as error:
            # The run folder is to say the same as the error that the user sees.
            await self._stop(str(error), failed=True)
            raise
        self._judge(first)
        return self._status

    async def _look_on(self, first: Child) -> None:
        """Return when the run has ended or the user wants it to at once."""
        ended_at: float | None = None
        while first.running and self._interrupts < 2:
            await self._look()
            if self._status.phase in _ENDED:
                ended_at = ended_at or self._clock.now()
                if self._clock.now() - ended_at > _FAREWELL_SECONDS:
                    break
            else:
                self._mourn()
            await self._clock.sleep(_LOOK_SECONDS)

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
        return [*self._workers, *self._servers]

    def _start_server(self, index: int) -> Child:
        if self._address is not None:
            arguments = ["server", "--join", self._address.url, "--port", "0"]
        else:
            order = self._order
            arguments = ["server", str(order.config), "--port", "0", "--data", str(order.data)]
            arguments += ["--out", str(self._folder)]
            for override in order.overrides:
                arguments += ["--set", override]
            arguments += ["--resume"] if order.resume else []
        child = self._start(f"server-{index}", arguments)
        self._servers.append(child)
        return child

    def _start_worker(self, index: int) -> None:
        assert self._address is not None
        name = f"worker-{index + 1}"
        order, pace = self._order, self._experiment.cluster.pace
        arguments = ["worker", "--join", self._address.url, "--name", name]
        arguments += ["--device", order.device, "--data", str(order.data)]
        arguments += ["--pace", str(pace[index] if index < len(pace) else 1.0)]
        for package in dict.fromkeys((*order.allow, *packages_of(self._experiment))):
            arguments += ["--allow", package]
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
        if self._status.phase in _ENDED and _STOPPING in self._notes:
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
        for child in self._children():
            if child.name not in self._mourned and child.exit_code not in (None, 0):
                self._mourned.add(child.name)
                self._notes.append(_obituary(child))
        if self._interrupts:
            return
        lost = [server for server in self._servers[1:] if server.exit_code not in (None, 0)]
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
        if code not in (None, 0) and self._status.phase not in _ENDED:
            raise _failure(first)

    async def _stop(self, reason: str, *, failed: bool = False) -> None:
        if self._address is not None:
            with contextlib.suppress(PsedgeError):
                stop = Stop(reason, failed)
                await ask(self._transport, self._address, STOP, stop, Acknowledged)
                return
        for child in self._children():
            child.terminate()


def thread_environment(experiment: Experiment) -> dict[str, str]:
    """Shares the cores among the workers: torch takes all of them for each process otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"OMP_NUM_THREADS": str(max(1, (cores or 1) // experiment.cluster.workers))}


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
