"""The shell of the supervisor: requests of workers and servers in, decisions of the cores out.

It owns the life of a run: waiting (for servers, a model, workers), training, and one of finished,
stopped, failed. Membership, the data plan and the shard map decide; here their answers are carried
to servers and workers, in an order that keeps the promises: servers know a worker before the
worker hears that it has joined, and a leaver's samples go back to the pool only after the servers
have said how far it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import numpy as np

from psedge.protocol.bundle import unpack
from psedge.protocol.calls import answer, read_body, read_message
from psedge.protocol.errors import FrameError, ModelError, PsedgeError, RefusedError
from psedge.protocol.messages import (
    CLAIM,
    DEFINE,
    EXPERIMENT,
    FROZEN,
    HEARTBEAT,
    HELLO,
    JOIN,
    LEAVE,
    REGISTER,
    SERVER_HEARTBEAT,
    STATUS,
    STOP,
    Acknowledged,
    Claim,
    ClaimReply,
    Define,
    Experiment,
    ExperimentQuery,
    Heartbeat,
    HeartbeatReply,
    Hello,
    HelloReply,
    Join,
    JoinReply,
    Leave,
    LocalOptimizer,
    Register,
    RegisterReply,
    ServerHeartbeatReply,
    ServerReport,
    Stop,
)
from psedge.protocol.ports import Clock, Handler, Incoming, Reply, Transport
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.server.optimizer_settings import settings_of
from psedge.supervisor.keeper import Keeper
from psedge.supervisor.membership import WorkerEntry
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.run_state import Phase, RunState
from psedge.supervisor.setup import RunSetup
from psedge.supervisor.status import status_of

#: Longest time a worker's claim waits for data that another worker may give back.
CLAIM_POLL_SECONDS = 10.0
#: Most bytes a library worker's model may have: its four vectors.
MODEL_LIMIT_BYTES = 16 * 2**30
#: How long a stopping run waits for its workers to finish their step.
FAREWELL_SECONDS = 10.0


class Supervisor:
    """Serves one run; `run()` lives as long as it does."""

    def __init__(
        self,
        setup: RunSetup,
        keeper: Keeper,
        *,
        clock: Clock,
        transport: Transport,
        token: str,
        notify: Callable[[str], None],
    ) -> None:
        self.state = RunState(setup, transport, token, notify)
        self._keeper = keeper
        self._clock = clock
        self._notify = notify
        self._changed = asyncio.Event()
        self._starting = asyncio.Lock()
        self._stop_reason: str | None = None

    def routes(self) -> dict[str, Handler]:
        return {
            HELLO: self.hello,
            EXPERIMENT: self.experiment,
            DEFINE: self.define,
            FROZEN: self.frozen,
            JOIN: self.join,
            CLAIM: self.claim,
            HEARTBEAT: self.heartbeat,
            LEAVE: self.leave,
            STATUS: self.status,
            STOP: self.stop,
            REGISTER: self.register,
            SERVER_HEARTBEAT: self.server_heartbeat,
        }

    async def hello(self, incoming: Incoming) -> Reply:
        await read_message(incoming, Hello)
        return answer(
            HelloReply(
                psedge=__version__, wire=WIRE_VERSION, supervisor=True, run=self.state.setup.run
            )
        )

    async def experiment(self, incoming: Incoming) -> Reply:
        query = await read_message(incoming, ExperimentQuery)
        _require_versions(query.psedge, query.wire)
        state = self.state
        missing = state.missing_servers()
        model = state.model
        phase = "training" if state.phase == "waiting" and model and not missing else state.phase
        waiting_for = ""
        if missing:
            waiting_for = f"{missing} more server{'s' if missing > 1 else ''}"
        elif model is None:
            waiting_for = "the model"
        return answer(
            Experiment(
                run=state.setup.run,
                config=msgspec.to_builtins(state.experiment),
                layout=model.layout if model else None,
                phase=phase,
                waiting_for=waiting_for,
                needs_model=model is None and not missing,
            )
        )

    async def define(self, incoming: Incoming) -> Reply:
        """The first library worker brings the model."""
        message, arrays = unpack(await read_body(incoming, MODEL_LIMIT_BYTES), Define)
        _require_versions(message.psedge, message.wire)
        state = self.state
        if state.model is not None or state.experiment.model is not None:
            raise RefusedError("conflict", "this run has its model already")
        if message.optimizer is not None:
            settings, groups = message.optimizer, message.groups
            if len(groups) != len(message.layout.of_role("parameter")):
                raise FrameError("define: one group index for each parameter tensor is needed")
        else:
            settings, groups = settings_of(state.experiment.optimizer, message.layout)
        try:
            model = ModelState(
                message.layout,
                settings,
                groups,
                np.ascontiguousarray(arrays["parameters"], np.float32),
                np.ascontiguousarray(arrays["buffers"], np.float32),
                np.ascontiguousarray(arrays["counters"], np.uint8),
                np.ascontiguousarray(arrays["frozen"], np.uint8),
            )
        except KeyError as error:
            raise FrameError(f"define: the array {error} is missing") from error
        model.check()
        if len(model.parameters) < state.experiment.cluster.servers:
            raise ModelError("the model has fewer parameters than there are servers")
        state.model = model
        self._announce()
        return answer(Acknowledged())

    async def frozen(self, incoming: Incoming) -> Reply:
        """The frozen tensors' bytes: they never change, so they travel once, at join."""
        await read_message(incoming, Acknowledged)
        model = self.state.model
        if model is None:
            raise RefusedError("not-ready", "this run has no model yet")
        return Reply([model.frozen.tobytes()])

    async def join(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Join)
        _require_versions(message.psedge, message.wire)
        state = self.state
        if state.ended or self._stop_reason is not None:
            raise RefusedError("stopped", f"the run {state.setup.run} has ended")
        if state.model is None:
            raise RefusedError("not-ready", "this run has no model yet")
        if message.layout_digest != state.model.layout.digest():
            raise RefusedError("model-differs", "the worker's model is not the servers'")
        state.take_data_size(message)
        now = self._clock.now()
        await self._take_over(message, now)
        entry = state.membership.join(
            message.name,
            message.incarnation,
            now,
            device=message.device,
            loader=message.loader,
            local_samples=message.local_samples,
        )
        async with self._starting:
            if state.phase == "waiting":
                waiting_for = state.waiting_for_workers(now)
                if waiting_for:
                    raise RefusedError("not-ready", waiting_for)
                await state.start(now)
                await self._keeper.started(state)
        state.admit(entry.worker, entry.name, message.local_samples)
        await self._broadcast()
        settings = state.local_optimizer()
        cluster = state.experiment.cluster
        compression = state.experiment.compression
        return answer(
            JoinReply(
                worker=entry.worker,
                name=entry.name,
                shards=state.fleet.addresses(),
                sync=state.sync,
                push_codec=compression.push,
                pull_codec=compression.pull,
                lease_seconds=cluster.lease_seconds,
                heartbeat_seconds=cluster.heartbeat_seconds,
                local_optimizer=LocalOptimizer(*settings) if settings else None,
                lr_factor=state.lr_factor(),
            )
        )

    async def claim(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Claim)
        state = self.state
        deadline = self._clock.now() + CLAIM_POLL_SECONDS
        while True:
            if not state.membership.renew(message.worker, message.incarnation, self._clock.now()):
                return answer(ClaimReply("rejoin"))
            if self._stop_reason is not None or state.phase in ("stopped", "failed"):
                return answer(ClaimReply("stop"))
            if state.plan is None:
                raise RefusedError("bad-request", "this run hands out no data")
            changed = self._changed
            found = state.plan.claim(message.worker, message.incarnation, state.range_samples())
            if found is not None:
                if state.membership.set_idle(message.worker, message.incarnation, False):
                    await self._broadcast()
                return answer(ClaimReply("range", found.epoch, found.start, found.stop))
            if message.idle:
                if state.membership.set_idle(message.worker, message.incarnation, True):
                    await self._broadcast()
                self._count_visited()
            if state.plan.finished or state.ended:
                return answer(ClaimReply("done"))
            if not message.idle or self._clock.now() >= deadline:
                return answer(ClaimReply("wait"))
            await _until(changed, deadline - self._clock.now())

    async def heartbeat(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Heartbeat)
        state = self.state
        membership = state.membership
        entry = membership.entry(message.worker, message.incarnation)
        if entry is None:
            return answer(HeartbeatReply("rejoin"))
        state.take_heartbeat(message, entry.heartbeat.samples if entry.heartbeat else 0)
        membership.renew(message.worker, message.incarnation, self._clock.now(), message)
        ending = self._stop_reason is not None or state.phase in ("stopped", "failed")
        return answer(HeartbeatReply("stop" if ending else "continue", state.lr_factor()))

    async def leave(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Leave)
        entry = self.state.membership.entry(message.worker, message.incarnation)
        if entry is not None:
            if message.failure:
                self.state.note(f"worker {entry.name} left: {message.failure}")
            self.state.membership.leave(message.worker, message.incarnation, message.failure)
            await self._broadcast()
            self._release(entry)
        return answer(Acknowledged())

    async def status(self, incoming: Incoming) -> Reply:
        await read_message(incoming, Acknowledged)
        return answer(status_of(self.state, self._keeper, self._clock.now()))

    async def stop(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Stop)
        self.request_stop(message.reason or "asked to stop")
        return answer(Acknowledged())

    async def register(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Register)
        _require_versions(message.psedge, message.wire)
        state = self.state
        known = len(state.fleet.servers)
        entry = state.fleet.register(message, incoming.peer, self._clock.now())
        if len(state.fleet.servers) > known and entry.server > 0:
            role = "spare: all shards are taken" if state.fleet.assigned else "joined"
            self._notify(f"server {entry.server} at {entry.url} {role}")
        self._announce()
        cluster = state.experiment.cluster
        return answer(RegisterReply(entry.server, cluster.lease_seconds, cluster.heartbeat_seconds))

    async def server_heartbeat(self, incoming: Incoming) -> Reply:
        report = await read_message(incoming, ServerReport)
        if not self.state.fleet.take_report(report, self._clock.now()):
            return answer(ServerHeartbeatReply("register"))
        if self.state.ended:
            self.state.fleet.servers[report.server].told = True
            self._announce()
        return answer(ServerHeartbeatReply("stop" if self.state.ended else "continue"))

    @property
    def model(self) -> ModelState | None:
        """The model as of the last checkpoint; at the end of a run, the trained one."""
        return self._keeper.model or self.state.model

    def request_stop(self, reason: str) -> None:
        """End the run in order; `run()` does the rest."""
        if self._stop_reason is None:
            self._stop_reason = reason
            self._announce()

    async def run(self) -> None:
        """Watch over the run until it has ended and its last checkpoint is on disk."""
        state = self.state
        beat = state.experiment.cluster.heartbeat_seconds
        try:
            while not state.ended:
                await _until(self._changed, beat)
                await self._tick()
        except PsedgeError as error:
            await self._end("failed", str(error))
        self._announce()

    async def everyone_knows(self) -> None:
        """Return when no worker and no other server is left to hear that the run has ended."""
        state = self.state
        while state.membership.live() or not state.fleet.others_told():
            await _until(self._changed, 0.1)
            state.membership.expire(self._clock.now())

    async def _tick(self) -> None:
        state = self.state
        now = self._clock.now()
        await self._expire(now)
        if self._stop_reason is not None:
            await self._wait_for_workers_to_leave()
            await self._end("stopped", self._stop_reason)
            return
        if state.phase != "training":
            return
        self._count_visited()
        if state.plan is not None and state.plan.finished:
            await self._broadcast()
            await self._end("finished", "")
            return
        await self._keeper.tick(state, now)

    async def _expire(self, now: float) -> None:
        state = self.state
        lease = state.experiment.cluster.lease_seconds
        dead = state.membership.expire(now)
        if dead:
            await self._broadcast()
        for entry in dead:
            returned = self._release(entry)
            state.note(
                f"worker {entry.name} is silent for {lease:g} s and taken for dead; "
                f"{returned} of its samples go to the others"
            )
        for server in state.fleet.expire(now, lease):
            lost = ", ".join(str(shard) for shard in server.shards)
            if server.shards and state.phase == "training":
                reason = (
                    f"server {server.server} at {server.url} is silent for {lease:g} s, and shard "
                    f"{lost} with it; continue from the last checkpoint with --resume"
                )
                await self._end("failed", reason)

    async def _wait_for_workers_to_leave(self) -> None:
        deadline = self._clock.now() + FAREWELL_SECONDS
        while self.state.membership.live() and self._clock.now() < deadline:
            await _until(self._changed, 0.2)
            self.state.membership.expire(self._clock.now())

    async def _end(self, phase: Phase, reason: str) -> None:
        """The last checkpoint and measurement come before anyone hears that the run has ended."""
        state = self.state
        if state.started_at is not None and phase != "failed":
            await self._keeper.last(state, self._clock.now(), evaluate=phase == "finished")
        state.end(phase, reason, self._clock.now())
        await self._keeper.ended(status_of(state, self._keeper, self._clock.now()))

    async def _broadcast(self) -> None:
        """Tell the servers who is live, and learn how far each worker came."""
        if self.state.fleet.assigned:
            await self.state.fleet.broadcast(self.state.membership.members(), self._clock.now())
        self._announce()

    def _count_visited(self) -> None:
        """Account the samples that shard 0 has seen; wakes who waits for the end of the data."""
        state = self.state
        if state.plan is None:
            return
        was_finished = state.plan.finished
        for worker, progress in state.fleet.progress().items():
            state.plan.consumed(worker, progress.samples, progress.incarnation)
        if state.plan.finished and not was_finished:
            self._announce()

    async def _take_over(self, message: Join, now: float) -> None:
        """Settle what a crashed worker left behind before its successor of the same name joins."""
        membership = self.state.membership
        entry = membership.named(message.name)
        if entry is None or not entry.live or entry.incarnation == message.incarnation:
            return
        if now - entry.seen_at > membership.recent_seconds:
            membership.leave(entry.worker, entry.incarnation)
            await self._broadcast()
            self._release(entry)

    def _release(self, entry: WorkerEntry) -> int:
        """Give a leaver's unvisited samples back; the servers have reported since it left."""
        state = self.state
        if state.plan is None:
            return 0
        progress = state.fleet.progress().get(entry.worker)
        seen = progress.samples if progress and progress.incarnation == entry.incarnation else 0
        returned = state.plan.release(entry.worker, seen, entry.incarnation)
        self._announce()
        return returned

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _require_versions(psedge: str, wire: int) -> None:
    if wire != WIRE_VERSION:
        raise RefusedError(
            "version-differs",
            f"psedge {psedge} speaks wire version {wire}, the server's psedge {__version__} "
            f"speaks {WIRE_VERSION}: install the same psedge on every machine",
        )


async def _until(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after `seconds`."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0.0))
    except asyncio.TimeoutError:
        return
