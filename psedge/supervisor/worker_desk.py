"""What workers ask of the supervisor: what to train, to come in, data, a sign of life, goodbye."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from psedge.protocol.calls import answer, read_body, read_message
from psedge.protocol.errors import RefusedError
from psedge.protocol.messages import (
    CLAIM,
    DEFINE,
    EXPERIMENT,
    FROZEN,
    HEARTBEAT,
    JOIN,
    LEAVE,
    NO_NUMBER,
    Acknowledged,
    Claim,
    ClaimReply,
    Experiment,
    ExperimentQuery,
    Heartbeat,
    HeartbeatReply,
    Join,
    JoinReply,
    Leave,
)
from psedge.protocol.ports import Clock, Handler, Incoming, Reply
from psedge.protocol.shards import LocalOptimizer
from psedge.supervisor.data_plan import OutOfStepError
from psedge.supervisor.definition import defined_model
from psedge.supervisor.handout import Handout
from psedge.supervisor.keeper import Keeper
from psedge.supervisor.membership import WorkerEntry
from psedge.supervisor.roster import Roster
from psedge.supervisor.run_state import RunState
from psedge.supervisor.start import start
from psedge.supervisor.versions import require_same_wire
from psedge.supervisor.waits import until

#: Longest time a worker's claim waits for data that another worker may give back.
CLAIM_POLL_SECONDS = 10.0
#: Most bytes a library worker's model may have: its four vectors.
MODEL_LIMIT_BYTES = 16 * 2**30


class WorkerDesk:
    """Serves the workers of one run."""

    def __init__(self, state: RunState, roster: Roster, keeper: Keeper, clock: Clock) -> None:
        self._state = state
        self._roster = roster
        self._keeper = keeper
        self._clock = clock
        self._starting = asyncio.Lock()

    def routes(self) -> dict[str, Handler]:
        return {
            EXPERIMENT: self.experiment,
            DEFINE: self.define,
            FROZEN: self.frozen,
            JOIN: self.join,
            CLAIM: self.claim,
            HEARTBEAT: self.heartbeat,
            LEAVE: self.leave,
        }

    async def experiment(self, incoming: Incoming) -> Reply:
        query = await read_message(incoming, ExperimentQuery)
        require_same_wire(query.psedge, query.wire)
        state = self._state
        waiting_for = state.waiting_for_parts()
        phase = state.phase
        if phase == "waiting" and not waiting_for:
            phase = "training"
        return answer(
            Experiment(
                run=state.setup.run,
                config=msgspec.to_builtins(state.experiment),
                layout=state.model.layout if state.model else None,
                phase=phase,
                waiting_for=waiting_for,
                needs_model=state.model is None and not state.missing_servers(),
            )
        )

    async def define(self, incoming: Incoming) -> Reply:
        """The first library worker brings the model."""
        self._require_no_model()
        body = await read_body(incoming, MODEL_LIMIT_BYTES)
        model = defined_model(body, self._state.experiment)
        # Another worker's model may have come in while this one was on its way.
        self._require_no_model()
        self._state.model = model
        await self._keeper.defined(body)
        self._roster.announce()
        return answer(Acknowledged())

    def _require_no_model(self) -> None:
        if self._state.model is not None or self._state.experiment.model is not None:
            raise RefusedError("conflict", "this run has its model already")

    async def frozen(self, incoming: Incoming) -> Reply:
        """The frozen tensors' bytes: they never change, so they travel once, at join."""
        await read_message(incoming, Acknowledged)
        if self._state.model is None:
            raise RefusedError("not-ready", "this run has no model yet")
        return Reply([self._state.model.frozen.tobytes()])

    async def join(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Join)
        require_same_wire(message.psedge, message.wire)
        state = self._state
        if state.ended or state.stop_reason is not None:
            self._dismiss(message)
            raise RefusedError("stopped", f"the run {state.setup.run} has ended")
        if state.model is None:
            raise RefusedError("not-ready", "the model")
        if message.layout_digest != state.model.layout.digest():
            raise RefusedError("model-differs", "the worker's model is not the servers'")
        state.take_data_size(message)
        now = await self._roster.take_over(message)
        entry = state.membership.join(
            message.name,
            message.incarnation,
            now,
            device=message.device,
            loader=message.loader,
            local_samples=message.local_samples,
            process=message.process,
            machine=message.machine,
            place=message.place,
        )
        await self._start_training(now)
        state.admit(entry.worker, entry.name, message.local_samples)
        await state.save_members()
        await state.save_plan()
        await self._roster.broadcast()
        return answer(self._welcome(entry))

    def _dismiss(self, message: Join) -> None:
        """A worker that has waited for others in vain goes once it hears so, and holds nothing."""
        number = self._state.membership.number_of(message.name, message.incarnation)
        if number is not None and self._state.started_at is None:
            self._state.membership.leave(number, message.incarnation)
            self._roster.announce()

    async def _start_training(self, now: float) -> None:
        """Open the run with its first workers. Raises RefusedError while others are awaited."""
        async with self._starting:
            if self._state.phase != "waiting":
                return
            waiting_for = self._state.waiting_for_workers(now)
            if waiting_for:
                raise RefusedError("not-ready", waiting_for)
            recorded = await self._keeper.recorded()
            await start(self._state, now, self._clock.timestamp(), recorded)
            await self._keeper.started(self._state)

    def _welcome(self, entry: WorkerEntry) -> JoinReply:
        state = self._state
        local = state.local_optimizer()
        return JoinReply(
            worker=entry.worker,
            name=entry.name,
            shards=state.fleet.addresses(),
            sync=state.sync,
            coding=state.coding,
            lossless=state.fleet.lossless(),
            lease_seconds=state.membership.lease_of(entry.worker),
            heartbeat_seconds=state.experiment.cluster.heartbeat_seconds,
            local_optimizer=LocalOptimizer(*local) if local else None,
            lr_factor=state.lr_factor(),
            map_revision=state.fleet.map_revision,
        )

    async def claim(self, incoming: Incoming) -> Reply:
        """A range of samples; an idle worker's request waits for what others may give back."""
        message = await read_message(incoming, Claim)
        deadline = self._clock.now() + CLAIM_POLL_SECONDS
        while True:
            changed = self._roster.changed
            now = self._clock.now()
            reply = await self._claim(message, now)
            if reply.state != "wait" or not message.idle or now >= deadline:
                return answer(reply)
            await until(changed, deadline - now)

    async def _claim(self, message: Claim, now: float) -> ClaimReply:
        state, worker, incarnation = self._state, message.worker, message.incarnation
        if not state.membership.renew(worker, incarnation, now):
            return ClaimReply("rejoin")
        entry = state.membership.entry(worker, incarnation)
        assert entry is not None, "it has just shown that it is there"
        if state.stop_reason is not None or state.phase in ("stopped", "failed"):
            return ClaimReply("stop")
        if state.plan is None:
            raise RefusedError("bad-request", "this run hands out no data")
        if state.plan.is_overtaken(worker, incarnation, message.claim):
            # Its own repetition was answered: nobody listens here any more.
            return ClaimReply("wait")
        handout = Handout(state, state.plan)
        reserve = handout.reserve(entry)
        if handout.is_early(message):
            return ClaimReply("wait", reserve=max(reserve, 1))
        try:
            found = handout.claim(message, entry)
        except OutOfStepError:
            return ClaimReply("rejoin")
        if found is not None:
            # At once: who is idle holds nothing.
            returns = state.membership.set_idle(worker, incarnation, False)
            await state.save_plan()
            if returns:
                await self._roster.broadcast()
            if state.membership.entry(worker, incarnation) is None:
                # Meanwhile it was taken for dead, and what it held went back.
                return ClaimReply("rejoin")
            return ClaimReply("range", found.epoch, found.start, found.stop, reserve)
        if message.idle:
            await self._roster.set_idle(worker, incarnation, True)
            self._roster.count_visited()
        return ClaimReply("done" if state.plan.finished or state.ended else "wait")

    async def heartbeat(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Heartbeat)
        state, membership = self._state, self._state.membership
        entry = membership.entry(message.worker, message.incarnation)
        if entry is None:
            return answer(HeartbeatReply("rejoin"))
        state.take_heartbeat(entry.name, entry.heartbeat, message)
        membership.renew(message.worker, message.incarnation, self._clock.now(), message)
        ending = state.stop_reason is not None or state.phase in ("stopped", "failed")
        command: Literal["continue", "stop"] = "stop" if ending else "continue"
        return answer(HeartbeatReply(command, state.lr_factor(), state.fleet.map_revision))

    async def leave(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Leave)
        if message.worker == NO_NUMBER:
            number = self._state.membership.number_of(message.name, message.incarnation)
            if number is None:
                return answer(Acknowledged())
            message = msgspec.structs.replace(message, worker=number)
        entry = self._state.membership.entry(message.worker, message.incarnation)
        if entry is not None and message.failure:
            self._state.note(f"worker {entry.name} left: {message.failure}")
        await self._roster.leave(message.worker, message.incarnation, message.failure)
        return answer(Acknowledged())
