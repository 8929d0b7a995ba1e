"""`psedge worker`: one worker process, from its start to its orderly end.

This module composes: real clock and network, the model and data that the supervisor's experiment
names, as far as this machine's operator allows it, and the training loop over them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from torch import nn

from psedge.compression.codec_speed import Measure
from psedge.hosting import cancelled
from psedge.loop import on_interrupt, parent_gone, run_async
from psedge.own_place import Places
from psedge.own_token import with_saved_token
from psedge.protocol.address import Address, parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.errors import ConfigError, TrainingError
from psedge.protocol.messages import Experiment, HelloReply, Place
from psedge.protocol.ports import Clock, RandomBits, Transport
from psedge.protocol.system_clock import SystemClock
from psedge.terminal import figures
from psedge.terminal.say import say
from psedge.worker.binding import Binding
from psedge.worker.control import SupervisorClient
from psedge.worker.datasets.source import Source
from psedge.worker.datasets.table import load
from psedge.worker.device import choose_device, describe, use_threads
from psedge.worker.endings import StopTraining
from psedge.worker.feed import Compute
from psedge.worker.gradient import GradientStep, Step
from psedge.worker.imports import AllowList
from psedge.worker.model_layout import layout_of
from psedge.worker.models.table import build
from psedge.worker.objectives import Loss, resolve_loss
from psedge.worker.session import Identity, Session
from psedge.worker.trainer import Plan, Trainer

T = TypeVar("T")

#: Between two lines that a worker writes about itself.
TELL_SECONDS = 10.0


def _no_place(run: str, name: str) -> Place | None:
    """Nothing is proven."""
    return None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a worker runs on.

    compute: where its model computes, one call at a time. load: where its batches are made.
    use_threads: how many threads torch may compute with, None for its own choice.
    costs: what codecs cost here; None measures it by the clock. name: of the machine in words,
    empty to find it out. process, machine: pid and host name, for people who look for a worker.
    take_place: proves, of a run and a worker's name, that an earlier process is dead; see
    `psedge.own_place`.
    """

    transport: Transport
    clock: Clock
    random_bits: RandomBits
    compute: Compute
    load: Compute
    use_threads: Callable[[int | None], None]
    costs: Measure | None = None
    name: str = ""
    process: int = 0
    machine: str = ""
    take_place: Callable[[str, str], Place | None] = _no_place


@contextlib.contextmanager
def this_machine(transport: Transport, places: Places | None = None) -> Iterator[Machine]:
    """Two threads: one computes, one loads the next batches beside it.

    places: None for a worker that ends with its supervisor and has no successor.
    """
    with (
        ThreadPoolExecutor(1, "psedge-compute") as computing,
        ThreadPoolExecutor(1, "psedge-load") as loading,
    ):
        yield Machine(
            transport,
            SystemClock(),
            secrets.randbits,
            in_thread(computing),
            in_thread(loading),
            use_threads,
            process=os.getpid(),
            machine=socket.gethostname(),
            take_place=_no_place if places is None else places.take,
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker trains: `psedge.run` brings Python objects, a config names them.

    step: computes the gradients; None for the loss of the model, forward and backward.
    """

    model: nn.Module
    source: Source
    loss: Loss
    step: Step | None = None


#: Makes a worker's parts once its experiment is known.
MakeParts = Callable[[Plan], Parts]


def run_worker(
    *,
    join: str,
    device: str,
    name: str,
    data: Path,
    allow: Sequence[str],
    pace: float,
    with_parent: bool,
) -> int:
    """Train until the run has ended or this worker is stopped.

    Raises UserError for mistakes, TrainingError when training cannot go on.
    """
    address = with_saved_token(parse_join(join))
    name = name or socket.gethostname()
    worker = Worker(
        address,
        choose_device(device),
        name,
        parts_of_config(AllowList(allow), data, name),
        pace=pace,
        notify=say,
    )
    return run_async(_run(worker, with_parent))


async def _run(worker: Worker, with_parent: bool) -> int:
    transport = AiohttpTransport()
    with Places() as places, this_machine(transport, places) as machine:
        return await _run_on(worker, machine, with_parent)


async def _run_on(worker: Worker, machine: Machine, with_parent: bool) -> int:
    work = asyncio.ensure_future(worker.run(machine))
    on_interrupt(lambda reason: worker.stop())
    watch = asyncio.ensure_future(parent_gone()) if with_parent else None
    if watch is not None:
        watch.add_done_callback(lambda _: worker.stop())
    try:
        await work
    finally:
        if watch is not None:
            watch.cancel()
        await machine.transport.close()
    return 0


def parts_of_config(allow: AllowList, data: Path, name: str) -> MakeParts:
    """Parts as a plan names them, within what this machine's operator allows."""

    def make(plan: Plan) -> Parts:
        return Parts(
            build(plan.model, allow, plan.seed),
            load(plan.data, "train", data, allow, worker_name=name),
            resolve_loss(plan.model, allow),
        )

    return make


class Worker:
    """One worker: waits for its supervisor, trains, leaves. `stop` may be called at any time."""

    def __init__(
        self,
        address: Address,
        device: torch.device,
        name: str,
        make_parts: MakeParts,
        *,
        pace: float,
        notify: Callable[[str], None],
        session_type: type[Session] = Session,
    ) -> None:
        self._address = address
        self._device = device
        self._name = name
        self._make_parts = make_parts
        self._pace = pace
        self._notify = notify
        self._session_type = session_type
        #: Once the worker has a model; it lives as long as the worker.
        self.session: Session | None = None
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Finish the step, hand back the rest of the data, leave."""
        self._stopped.set()
        if self.session is not None:
            self.session.request_stop("stopped on this machine")

    async def run(self, machine: Machine) -> None:
        """Raises UserError for mistakes, TrainingError when training cannot go on."""
        compute = machine.compute
        supervisor = SupervisorClient(
            machine.transport,
            machine.clock,
            self._address,
            self._notify,
            seed=machine.random_bits(32),
        )
        ready = await self._unless_stopped(_ready(supervisor))
        if ready is None:
            self._notify("stopped on this machine")
            return
        hello, experiment = ready
        plan = plan_of(experiment)
        machine.use_threads(plan.worker.threads)
        parts = await compute(lambda: self._make_parts(plan))
        place = machine.take_place(hello.identity or self._address.url, self._name)
        session = await compute(lambda: self._open_session(machine, supervisor, plan, parts, place))
        trainer = Trainer(
            session,
            plan,
            parts.model,
            parts.source,
            self._step(parts, plan) if parts.step is None else parts.step,
            machine.clock,
            compute=compute,
            load=machine.load,
            pace=self._pace,
        )
        await compute(trainer.probe)
        self.session = session
        await self._train(session, trainer, experiment, machine)

    async def _train(
        self, session: Session, trainer: Trainer, experiment: Experiment, machine: Machine
    ) -> None:
        try:
            started = await self._unless_stopped(_started(session, experiment))
        except StopTraining as stop:
            # The others may have done all there was to do while this worker made ready.
            if self._stopped.is_set():
                await session.leave()
            self._notify(str(stop))
            return
        if started is None:
            await session.leave()
            self._notify("stopped on this machine")
            return
        self._notify(f"{session.joined.name} trains on {machine.name or describe(self._device)}")
        telling = asyncio.ensure_future(self._tell(session, machine.clock))
        try:
            await trainer.run()
        finally:
            await cancelled(telling)
        self._notify(session.stop_reason or "the data of this run is done")

    async def _tell(self, session: Session, clock: Clock) -> None:
        """A line now and then for the person at this machine, while there is something new."""
        told = -1
        while True:
            await clock.sleep(TELL_SECONDS)
            metrics, client = session.metrics, session.client
            if metrics.steps == told:
                continue
            told = metrics.steps
            self._notify(
                f"step {figures.count(metrics.steps)} | "
                f"{metrics.rate(clock.now()):.1f} samples/s | "
                f"loss {figures.loss(metrics.latest_loss)} | "
                f"pushed {figures.data_size(client.bytes_pushed)}, "
                f"pulled {figures.data_size(client.bytes_pulled)}"
            )

    def _step(self, parts: Parts, plan: Plan) -> Step:
        return GradientStep(
            parts.model,
            parts.loss,
            self._device,
            precision=plan.model.precision,
            channels_last=plan.model.channels_last,
            clip_norm=plan.worker.clip_norm,
        )

    def _open_session(
        self,
        machine: Machine,
        supervisor: SupervisorClient,
        plan: Plan,
        parts: Parts,
        place: Place | None,
    ) -> Session:
        model = parts.model.to(self._device)
        local = plan.data.placement == "local"
        identity = Identity(
            name=self._name,
            device=machine.name or describe(self._device),
            incarnation=machine.random_bits(62),
            loader=True,
            local_samples=len(parts.source) if local else None,
            dataset_samples=None if local else len(parts.source),
            process=machine.process,
            machine=machine.machine,
            place=place,
        )
        binding = Binding(model, layout_of(model), self._device)
        return self._session_type(
            machine.transport,
            machine.clock,
            supervisor,
            binding,
            identity,
            self._notify,
            costs=machine.costs,
        )

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """The result of `work`; None if this worker is stopped first."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for future in (task, stopped):
                future.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await future


async def _ready(supervisor: SupervisorClient) -> tuple[HelloReply, Experiment]:
    return await supervisor.reach(), await supervisor.ready_experiment()


async def _started(session: Session, experiment: Experiment) -> bool:
    await session.start(experiment)
    return True


def plan_of(experiment: Experiment) -> Plan:
    """The parts of an experiment that a worker acts on.

    Raises ConfigError when it names no model or data, TrainingError when it is over.
    """
    if experiment.phase not in ("waiting", "training"):
        raise TrainingError(f"the run {experiment.run} has {experiment.phase} already")
    if experiment.config.get("model") is None or experiment.config.get("data") is None:
        raise ConfigError(
            f"the run {experiment.run} waits for programs that call psedge.connect; "
            "`psedge worker` needs a server that was started with a config of model and data"
        )
    try:
        return msgspec.convert(experiment.config, Plan)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"the supervisor's experiment does not fit this psedge: {error}"
        ) from error


def in_thread(pool: ThreadPoolExecutor) -> Callable[[Callable[[], T]], Awaitable[T]]:
    """Run functions in `pool`, one after the other, while the event loop goes on."""

    def run(function: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(pool, function)

    return run
