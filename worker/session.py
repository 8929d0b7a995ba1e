"""The life of one worker in a run: join, pull, exchange, heartbeat, join again, leave.

A session knows no data and no loss: a trainer (`trainer.py`) or a user's own loop
(`psedge.connect`) computes gradients and calls `encode`, `send` and `take`, or `step`, which does
all three. `send`, `claim` and `rejoin` end early, with StopTraining or Rejoin, when the supervisor
says so in a heartbeat or the operator stops the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
import numpy as np

from psedge.compression.codec import Float32Array
from psedge.compression.codec_speed import Measure
from psedge.protocol.errors import (
    FrameError,
    ModelError,
    PsedgeError,
    RefusedError,
    TrainingError,
    UnreachableError,
)
from psedge.protocol.messages import (
    NO_NUMBER,
    Claim,
    ClaimReply,
    Experiment,
    Join,
    JoinReply,
    Leave,
    Place,
)
from psedge.protocol.ports import Clock, Transport
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.worker.binding import Binding
from psedge.worker.client import ExchangeResult, Push, Rejoin, ShardClient, StopTraining
from psedge.worker.control import POLL_SECONDS, SupervisorClient
from psedge.worker.finite_check import FiniteCheck
from psedge.worker.metrics import Metrics
from psedge.worker.outage import Notify

#: A stopping worker waits so long for the reply to its last push.
STOP_GRACE_SECONDS = 5.0

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True):
    """Who joins; the fields are those of `psedge.protocol.messages.Join`.

    incarnation: another number for every start of the worker; joining again counts it up.
    """

    name: str
    device: str
    incarnation: int
    loader: bool
    local_samples: int | None = None
    dataset_samples: int | None = None
    process: int = 0
    machine: str = ""
    place: Place | None = None


class Session:
    """One worker in one run. `start` first, `leave` last, whatever happened in between.

    costs: what codecs cost this worker; None measures it by the clock.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        supervisor: SupervisorClient,
        binding: Binding,
        identity: Identity,
        notify: Notify,
        *,
        costs: Measure | None = None,
    ) -> None:
        self.binding = binding
        self._costs = costs
        self.metrics = Metrics(clock.now())
        #: The schedule's factor on the learning rate, for workers with a local optimizer.
        self.lr_factor = 1.0
        self.stop_reason: str | None = None
        self._transport = transport
        self._clock = clock
        self._supervisor = supervisor
        self._identity = identity
        self._notify = notify
        self._incarnation = identity.incarnation
        self._name = identity.name
        self._joined: JoinReply | None = None
        self._client: ShardClient | None = None
        self._finite = FiniteCheck()
        #: Ranges of samples received under this incarnation.
        self._ranges = 0
        self._lost = self._asked = False
        self._interrupt = asyncio.Event()
        self._heartbeats: asyncio.Task[None] | None = None

    @property
    def joined(self) -> JoinReply:
        """What the supervisor answered to the latest join."""
        if self._joined is None:
            raise TrainingError("the worker has not joined yet")
        return self._joined

    @property
    def client(self) -> ShardClient:
        """The connection to the shards under the latest join."""
        if self._client is None:
            raise TrainingError("the worker has not joined yet")
        return self._client

    @property
    def connected(self) -> bool:
        """Whether there is a `client`."""
        return self._client is not None

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def incarnation(self) -> int:
        """Under which the worker joined last, or is about to."""
        return self._incarnation

    @property
    def stopping(self) -> bool:
        return self.stop_reason is not None

    async def start(self, experiment: Experiment) -> None:
        """Join and write the servers' parameters into the model.

        Raises ModelError, naming the first differing tensor, if the model is another one.
        """
        if experiment.layout is not None:
            difference = self.binding.layout.difference(experiment.layout)
            if difference is not None:
                raise ModelError(
                    f"this worker's model is not the servers': {difference}; every worker needs "
                    "the model that the run began with"
                )
        try:
            await self.come_in()
            if len(self.binding.frozen):
                length = len(self.binding.frozen)
                body = await self._while_member(
                    self._supervisor.patiently(lambda: self._supervisor.frozen(length))
                )
                self.binding.frozen[:] = np.frombuffer(body, np.uint8)
                self.binding.write_frozen()
        except BaseException:
            # Its lease must run out: others would wait for a worker that never takes a step.
            await self._end_heartbeats()
            raise

    async def rejoin(self) -> None:
        """Come back as a new incarnation; data that was claimed and not pushed is given back."""
        await self._end_heartbeats()
        with contextlib.suppress(PsedgeError):
            # Whoever still counts on the old incarnation must not wait for its lease to end.
            await self._supervisor.leave(Leave(self.joined.worker, self._incarnation))
        self._incarnation += 1
        await self.come_in()
        self._notify(f"{self.joined.name} joined again")

    def request_stop(self, reason: str) -> None:
        """Finish the step and stop; what runs now gets a moment to end."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self._interrupt.set()

    def encode(self, samples: int, gradient: Float32Array | None = None) -> Push:
        """The next push: the gradient and, where they are due, the model's buffers.

        gradient: mean over `samples`; None takes the binding's. It must not change until `send`
        returns.
        """
        due = self.client.buffers_due
        buffers, counters = self.binding.read_buffers() if due else (False, False)
        values = self.binding.gradients if gradient is None else gradient
        return self.client.encode(
            values, samples, buffers_changed=buffers, counters_changed=counters
        )

    async def send(self, push: Push) -> ExchangeResult:
        """Push, and wait until the next step is permitted. Raises Rejoin or StopTraining."""
        started = self._clock.now()
        result = await self._while_member(self.client.send(push), STOP_GRACE_SECONDS)
        now = self._clock.now()
        self.metrics.exchange_seconds += now - started
        self.metrics.add_step(now, push.samples)
        return result

    def take(self) -> None:
        """What the last `send` received, into the model; nothing happens the second time."""
        if not self.client.received:
            return
        buffers_changed = self.client.take()
        self.binding.write_parameters()
        if buffers_changed:
            self.binding.write_buffers()

    async def step(self, samples: int) -> ExchangeResult | None:
        """One step of a user's own loop: read, push, receive, write, zero the gradients.

        None: the gradient was lost because the worker had to join again; the model is fresh.
        Raises TrainingError when gradients are not finite numbers time after time.
        """
        self.binding.read_gradients()
        result = None
        try:
            result = await self.send(self.encode(samples))
            self.take()
        except Rejoin:
            await self.rejoin()
        self.binding.zero_gradients()
        if result is not None:
            self._finite.judge(result)
        return result

    async def claim(self, *, idle: bool) -> ClaimReply:
        """Ask for the next range of samples, for as long as the supervisor is away.

        One claim at a time: its number says which range is meant.
        """
        claim = Claim(self.joined.worker, self._incarnation, idle, self._ranges + 1)
        # Heartbeats tell people that the supervisor is away.
        asking = self._supervisor.patiently(lambda: self._supervisor.claim(claim), tell=False)
        reply = await self._while_member(asking)
        if reply.state == "range":
            self._ranges += 1
        return reply

    async def leave(self, failure: str = "") -> None:
        """Last figures and goodbye, if the supervisor is there. Never raises for its absence."""
        await self._end_heartbeats()
        if not self._asked:
            return
        worker = NO_NUMBER if self._joined is None else self._joined.worker
        try:
            if self._joined is not None:
                await self._beat(failure)
            await self._supervisor.leave(Leave(worker, self._incarnation, failure, self._name))
        except PsedgeError as error:
            self._notify(f"left without saying goodbye: {error}")
        self._joined, self._asked = None, False

    async def come_in(self) -> None:
        """Join and receive the parameters, as often as it takes."""
        while True:
            try:
                await self._enter()
                break
            except Rejoin:
                # The servers were started anew between the two, and know nothing of this worker.
                await self._end_heartbeats()
                with contextlib.suppress(PsedgeError):
                    await self._supervisor.leave(Leave(self.joined.worker, self._incarnation))
                self._incarnation += 1
                await self._clock.sleep(POLL_SECONDS)

    async def _enter(self) -> None:
        self._lost = False
        if not self.stopping:
            self._interrupt.clear()
        joined = await self._while_member(self._join())
        self._joined, self._name = joined, joined.name
        self.lr_factor = joined.lr_factor
        self.metrics = Metrics(self._clock.now())
        self._ranges = 0
        self._client = ShardClient(
            self._transport,
            self._clock,
            joined,
            self._supervisor.address,
            self._incarnation,
            self.binding,
            self._notify,
            owed=None if self._client is None else self._client.owed,
            costs=self._costs,
        )
        self._heartbeats = asyncio.ensure_future(self._send_heartbeats())
        await self._while_member(self._client.pull())
        self.take()

    async def _join(self) -> JoinReply:
        join = Join(
            psedge=__version__,
            wire=WIRE_VERSION,
            name=self._name,
            incarnation=self._incarnation,
            layout_digest=self.binding.layout.digest(),
            device=self._identity.device,
            loader=self._identity.loader,
            local_samples=self._identity.local_samples,
            dataset_samples=self._identity.dataset_samples,
            process=self._identity.process,
            machine=self._identity.machine,
            place=self._identity.place,
        )
        outage, told = self._supervisor.outage(), ""
        self._asked = True
        while True:
            try:
                reply = await self._supervisor.join(join)
            except UnreachableError:
                await outage.pause()
            except RefusedError as error:
                if error.code != "not-ready":
                    raise
                outage.answered()
                if str(error) != told:
                    told = str(error)
                    self._notify(f"waiting for {told}")
                await self._clock.sleep(POLL_SECONDS)
            else:
                outage.answered()
                return reply

    async def _send_heartbeats(self) -> None:
        outage = self._supervisor.outage()
        while True:
            await self._clock.sleep(self.joined.heartbeat_seconds)
            try:
                self.client.directory.heard(await self._beat())
            except Rejoin:
                self._lose_membership()
            except StopTraining as stop:
                self.request_stop(str(stop))
            except (UnreachableError, RefusedError, FrameError):
                await outage.pause()
            else:
                outage.answered()

    async def _beat(self, failure: str = "") -> int:
        """A sign of life; returns the revision of the supervisor's map."""
        client = self.client
        reply = await self._supervisor.heartbeat(
            self.metrics.heartbeat(
                self._clock.now(),
                self.joined.worker,
                self._incarnation,
                pushed=client.bytes_pushed,
                pulled=client.bytes_pulled,
                coding=client.coding.description,
                coding_reason=client.coding.reason,
                failure=failure,
            )
        )
        self.lr_factor = reply.lr_factor
        if reply.command == "stop":
            self.request_stop("the run was ended")
        elif reply.command == "rejoin":
            self._lose_membership()
        return reply.map_revision

    def _lose_membership(self) -> None:
        self._lost = True
        self._interrupt.set()

    async def _end_heartbeats(self) -> None:
        """From now on the supervisor hears nothing from this incarnation by itself."""
        if self._client is not None:
            self._client.close()
        if self._heartbeats is not None:
            self._heartbeats.cancel()
            await asyncio.gather(self._heartbeats, return_exceptions=True)
            self._heartbeats = None

    async def _while_member(self, work: Coroutine[Any, Any, T], grace_seconds: float = 0.0) -> T:
        """The result of `work`, unless the worker is stopped or thrown out first."""
        task = asyncio.ensure_future(work)
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._interrupt.wait())]
        try:
            await asyncio.wait((task, *waits), return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not self._lost and grace_seconds:
                waits.append(asyncio.ensure_future(self._clock.sleep(grace_seconds)))
                await asyncio.wait((task, waits[-1]), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self.stop_reason is not None:
                raise StopTraining(self.stop_reason)
            raise Rejoin("the supervisor took this worker for dead")
        finally:
            for future in (task, *waits):
                future.cancel()
            await asyncio.gather(task, *waits, return_exceptions=True)
