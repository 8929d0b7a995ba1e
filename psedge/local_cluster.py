"""A whole cluster inside one process: for models and data that are Python objects.

Objects cannot travel to other processes without being pickled, so servers and workers are tasks of
one event loop here, and workers compute in threads. All else is as in real processes: they talk
over loopback, and a worker's model is a copy of its own.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from psedge.config import Experiment
from psedge.hosting import LOOPBACK, HostedServer, cancelled
from psedge.prepare import evaluator_of, initial_state, write_state
from psedge.protocol.address import Address
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.calls import ask
from psedge.protocol.disk import Disk
from psedge.protocol.errors import TrainingError
from psedge.protocol.messages import STATUS, Acknowledged
from psedge.protocol.ports import Clock
from psedge.protocol.status import Status
from psedge.protocol.system_clock import SystemClock
from psedge.supervisor.service import Supervisor
from psedge.supervisor.setup import RunSetup
from psedge.terminal.screen import Screen
from psedge.work import Parts, Worker, this_machine
from psedge.worker.datasets.source import Source
from psedge.worker.objectives import Loss, Metric
from psedge.worker.trainer import Plan

_LOOK_SECONDS = 0.25
#: How long workers may take to end after the run has.
_FAREWELL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Objects:
    """What a run is made of. optimizer: over the parameters of `model`; None: the config's."""

    model: nn.Module
    train: Source
    test: Source | None
    loss: Loss
    metrics: dict[str, Metric]
    optimizer: torch.optim.Optimizer | None = None


class LocalCluster:
    """Servers and workers of one run in one event loop."""

    def __init__(
        self,
        experiment: Experiment,
        objects: Objects,
        folder: Path,
        screen: Screen,
        notify: Callable[[str], None],
    ) -> None:
        self._experiment = experiment
        self._objects = objects
        self._folder = folder
        self._screen = screen
        self._notify = notify
        self._clock: Clock = SystemClock()
        self._transport = AiohttpTransport()
        self._supervisor: Supervisor | None = None

    def stop(self, reason: str) -> bool:
        """End the run in order, with a checkpoint. False: nothing runs yet."""
        if self._supervisor is None:
            return False
        self._supervisor.request_stop(reason)
        return True

    async def run(self) -> Status:
        """Train to the end and return the last status.

        The trained parameters are then in the model of the objects.

        Raises UserError for mistakes, TrainingError when training cannot go on.
        """
        servers: list[HostedServer] = []
        tasks: list[asyncio.Future[Any]] = []
        try:
            while len(servers) < self._experiment.cluster.servers:
                servers += [await self._open_server()]
            own = Address(servers[0].url)
            supervisor = self._supervisor = self._make_supervisor(servers[0].incarnation)
            servers[0].start(supervisor.routes())
            for server in servers[1:]:
                server.start()
            tasks = [asyncio.ensure_future(server.serve_for(own)) for server in servers]
            workers = [asyncio.ensure_future(self._work(worker)) for worker in self._workers(own)]
            tasks += workers
            return await self._watch(supervisor, own, workers)
        finally:
            await cancelled(*tasks)
            for server in servers:
                await server.close()
            await self._transport.close()

    async def _work(self, worker: Worker) -> None:
        with this_machine(self._transport) as machine:
            await worker.run(machine)

    async def _open_server(self) -> HostedServer:
        return await HostedServer.open(
            LOOPBACK,
            0,
            None,
            transport=self._transport,
            clock=self._clock,
            notify=self._notify,
        )

    def _make_supervisor(self, beside: int) -> Supervisor:
        experiment, objects = self._experiment, self._objects
        evaluator = None
        if objects.test is not None:
            # The workers' copies are made of the original while the evaluator is at work.
            measured = copy.deepcopy(objects.model)
            evaluator = evaluator_of(
                experiment, measured, objects.test, objects.loss, objects.metrics
            )
        setup = RunSetup(
            run=self._folder.name,
            folder=str(self._folder),
            experiment=experiment,
            model=initial_state(experiment, objects.model, objects.optimizer),
            train_samples=len(objects.train),
            evaluator=evaluator,
        )
        return Supervisor(
            setup,
            Disk(self._folder),
            clock=self._clock,
            transport=self._transport,
            token="",
            notify=self._notify,
            beside=beside,
        )

    def _workers(self, own: Address) -> list[Worker]:
        pace = self._experiment.cluster.pace
        device = next(self._objects.model.parameters()).device

        def parts(_: Plan) -> Parts:
            objects = self._objects
            return Parts(copy.deepcopy(objects.model), objects.train, objects.loss)

        return [
            Worker(
                own,
                device,
                f"worker-{index + 1}",
                parts,
                pace=pace[index] if index < len(pace) else 1.0,
                notify=lambda text: None,
            )
            for index in range(self._experiment.cluster.workers)
        ]

    async def _watch(
        self, supervisor: Supervisor, own: Address, workers: Sequence[asyncio.Future[None]]
    ) -> Status:
        running = asyncio.ensure_future(supervisor.run())
        try:
            while not running.done():
                await asyncio.wait([running], timeout=_LOOK_SECONDS)
                status = await ask(self._transport, own, STATUS, Acknowledged(), Status)
                self._screen.show(status, self._clock.now())
                failure = _failure(workers)
                if failure is not None:
                    supervisor.request_stop(str(failure), failed=True)
            running.result()
            await asyncio.wait(workers, timeout=_FAREWELL_SECONDS)
        finally:
            await cancelled(running)
        if supervisor.model is not None:
            write_state(self._objects.model, supervisor.model)
        if supervisor.state.phase == "failed":
            raise _failure(workers) or TrainingError(supervisor.state.reason)
        return await ask(self._transport, own, STATUS, Acknowledged(), Status)


def _failure(workers: Sequence[asyncio.Future[None]]) -> BaseException | None:
    """Why no worker is left, if the reason is a failure; as long as one works, there is none."""
    if not all(worker.done() for worker in workers):
        return None
    errors = [worker.exception() for worker in workers if not worker.cancelled()]
    return next((error for error in errors if error is not None), None)
