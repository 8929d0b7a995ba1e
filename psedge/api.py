"""`psedge.connect`: a training loop that somebody already has becomes a worker.

The network runs in a thread of its own with its own event loop, so the loop may be plain
synchronous code or a coroutine; either way gradients go out and fresh parameters come in between
`loss.backward()` and the next forward pass.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn
from typing_extensions import Self

from psedge.own_place import Places
from psedge.own_token import with_saved_token
from psedge.protocol.address import parse_join
from psedge.protocol.aiohttp_transport import AiohttpTransport
from psedge.protocol.errors import PsedgeError, RefusedError, TrainingError
from psedge.protocol.messages import Experiment
from psedge.protocol.shards import OptimizerSettings
from psedge.protocol.system_clock import SystemClock
from psedge.worker.batch_count import BatchCount
from psedge.worker.binding import Binding
from psedge.worker.client import ExchangeResult, Rejoin, StopTraining
from psedge.worker.control import SupervisorClient
from psedge.worker.device import describe
from psedge.worker.model_layout import layout_of
from psedge.worker.own_loop import OwnLoop
from psedge.worker.session import Identity, Session
from psedge.worker.torch_optimizer import settings_of_torch

T = TypeVar("T")


def connect(
    url: str,
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    name: str = "",
    timeout_seconds: float = 60.0,
    notify: Callable[[str], None] = print,
) -> Connection:
    """Join the run at `url` with a model and a loop of one's own.

    url: the join line that `psedge server` printed. model: on the device where it is trained; its
    parameters are replaced by the servers'. Whoever connects first brings the model.
    optimizer: torch.optim.SGD, Adam or AdamW, whose rules, rates and groups the servers then apply
    (the first to connect decides); None leaves that to the servers' config. Do not step it.
    name: of this worker in all views; default this machine's. A program that was killed and is
    started again gets it back, several that live under one name are told apart by a number.
    notify: told what a person should know.

    Raises ModelError for a model that psedge cannot train or that is not the one on the servers,
    AddressError when there is no psedge at `url` for `timeout_seconds`.
    """
    connection = Connection(model, notify)
    try:
        connection._call(connection._enter(url, optimizer, name, timeout_seconds))
    except BaseException:
        connection.close()
        raise
    return connection


async def aconnect(
    url: str,
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    name: str = "",
    timeout_seconds: float = 60.0,
    notify: Callable[[str], None] = print,
) -> Connection:
    """`connect` for asyncio programs: other tasks run while it waits."""
    connection = Connection(model, notify)
    try:
        await connection._acall(connection._enter(url, optimizer, name, timeout_seconds))
    except BaseException:
        await connection.aclose()
        raise
    return connection


class Connection:
    """One worker in a run, made by `connect`. A context manager, plain or `async`."""

    def __init__(self, model: nn.Module, notify: Callable[[str], None]) -> None:
        self._model = model
        self._notify = notify
        self._count = BatchCount(model)
        self._session: Session | None = None
        self._steps: OwnLoop
        self._transport: AiohttpTransport | None = None
        self._places = Places()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="psedge-connection", daemon=True
        )
        self._thread.start()
        # A program that Ctrl-C ends in its loop leaves the run in order, too.
        atexit.register(self.close)

    @property
    def name(self) -> str:
        """What this worker is called in all views."""
        return self._joined().joined.name

    @property
    def stopped(self) -> str | None:
        """Why the run wants this worker to end, None while it goes on."""
        return self._joined().stop_reason

    def step(
        self, samples: int | None = None, *, loss: float | None = None
    ) -> ExchangeResult | None:
        """Push the gradients in the model, receive fresh parameters, zero the gradients.

        Call it after `backward()`, where `optimizer.step()` stood; gradients of several backward
        passes are pushed as they have added up. A parameter without gradient counts as zero.
        samples: how many the gradient is the mean of; by default the first dimension of what the
        model was called with since the last step. loss: shown in the views, if given.

        Returns what the servers made of a push. None when no push was answered: in the middle of
        `sync.local_steps`, after the first step with `worker.overlap`, and when this worker had
        been given up and has just joined again, with fresh parameters and without this gradient.
        Raises StopTraining when the run has ended.
        """
        return self._call(self._step(samples, loss))

    async def astep(
        self, samples: int | None = None, *, loss: float | None = None
    ) -> ExchangeResult | None:
        """`step` for asyncio programs."""
        return await self._acall(self._step(samples, loss))

    def close(self, failure: str = "") -> None:
        """Leave the run. The model keeps the latest parameters. May be called twice."""
        if self._loop.is_closed():
            return
        try:
            self._call(self._leave(failure))
        finally:
            self._end()

    async def aclose(self, failure: str = "") -> None:
        """`close` for asyncio programs."""
        if self._loop.is_closed():
            return
        try:
            await self._acall(self._leave(failure))
        finally:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(_failure_text(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(_failure_text(error))

    async def _enter(
        self,
        url: str,
        optimizer: torch.optim.Optimizer | None,
        name: str,
        timeout_seconds: float,
    ) -> None:
        layout = layout_of(self._model)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        device = next(parameter.device for parameter in parameters.values())
        binding = Binding(self._model, layout, device)
        binding.read_model()
        settings: tuple[OptimizerSettings | None, tuple[int, ...]] = (None, ())
        if optimizer is not None:
            trained = [(spec.name, parameters[spec.name]) for spec in layout.of_role("parameter")]
            settings = settings_of_torch(optimizer, trained)
        transport, clock = AiohttpTransport(), SystemClock()
        self._transport = transport
        address = with_saved_token(parse_join(url))
        supervisor = SupervisorClient(
            transport, clock, address, self._notify, seed=secrets.randbits(32)
        )
        hello = await supervisor.reach(patience_seconds=timeout_seconds)
        experiment = await _defined(supervisor, binding, settings)
        name = name or socket.gethostname()
        identity = Identity(
            name=name,
            device=describe(device),
            incarnation=secrets.randbits(62),
            loader=False,
            process=os.getpid(),
            machine=socket.gethostname(),
            place=self._places.take(hello.identity or address.url, name),
        )
        session = Session(transport, clock, supervisor, binding, identity, self._notify)
        await session.start(experiment)
        self._session = session
        overlap = bool(experiment.config.get("worker", {}).get("overlap"))
        self._steps = OwnLoop(session, overlap=overlap)

    async def _step(self, samples: int | None, loss: float | None) -> ExchangeResult | None:
        session = self._joined()
        seen = self._count.take()
        samples = samples if samples is not None else seen
        if samples < 1:
            raise TrainingError(
                "psedge saw no forward pass since the last step; call the model in training mode, "
                "or say how many samples the gradient stands for: ps.step(samples=...)"
            )
        if loss is not None:
            session.metrics.add_loss(loss, samples)
        return await self._steps.step(samples)

    async def _leave(self, failure: str) -> None:
        if self._session is not None:
            if not failure and self._session.stop_reason is None:
                with contextlib.suppress(Rejoin, StopTraining):
                    await self._steps.finish()
            await self._session.leave(failure)
        if self._transport is not None:
            await self._transport.close()

    def _joined(self) -> Session:
        if self._session is None:
            raise TrainingError("this connection is not open")
        return self._session

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._started(work)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C interrupts the wait alone: a step that went on would meet the goodbye.
            future.cancel()
            raise

    async def _acall(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._started(work))

    def _started(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop.is_closed():
            work.close()
            raise TrainingError("this connection is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _end(self) -> None:
        atexit.unregister(self.close)
        self._count.remove()
        self._places.close()
        self._session = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _defined(
    supervisor: SupervisorClient,
    binding: Binding,
    settings: tuple[OptimizerSettings | None, tuple[int, ...]],
) -> Experiment:
    """The experiment once it has a model: this worker's, unless another came first."""
    experiment = await supervisor.ready_experiment()
    if experiment.needs_model:
        try:
            await supervisor.patiently(
                lambda: supervisor.define(binding.layout, binding.vectors, *settings)
            )
        except RefusedError as error:
            if error.code != "conflict":
                raise
        experiment = await supervisor.ready_experiment()
    if experiment.phase not in ("waiting", "training"):
        raise TrainingError(f"the run {experiment.run} has {experiment.phase} already")
    return experiment


def _failure_text(error: BaseException | None) -> str:
    """Why the user's block was left early, for the views; empty if it came to its end."""
    if error is None or isinstance(error, PsedgeError):
        return "" if error is None else str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    return f"{type(error).__name__}: {error}"
