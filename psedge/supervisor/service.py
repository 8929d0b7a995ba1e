"""The supervisor of one run: its life, its servers, and what people ask of it.

A run is waiting (for servers, a model, workers), then training, then finished, stopped or failed.
Membership, the data plan and the shard map decide; `roster.py` carries their decisions to the
servers, `worker_desk.py` answers workers, `keeper.py` keeps the record.
"""

from __future__ import annotations

from collections.abc import Callable

from psedge.protocol.calls import answer, read_message
from psedge.protocol.errors import PsedgeError, RefusedError
from psedge.protocol.messages import (
    HELLO,
    REGISTER,
    SERVER_HEARTBEAT,
    STATUS,
    STOP,
    Acknowledged,
    Hello,
    HelloReply,
    Register,
    RegisterReply,
    ServerHeartbeatReply,
    Stop,
)
from psedge.protocol.ports import Clock, Handler, Incoming, Reply, Storage, Transport
from psedge.protocol.shards import ServerReport
from psedge.protocol.status import Status
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.supervisor.checkpoint import CheckpointStore
from psedge.supervisor.keeper import Keeper
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.recorder import Recorder
from psedge.supervisor.roster import Roster
from psedge.supervisor.run_state import Phase, RunState
from psedge.supervisor.setup import RunSetup
from psedge.supervisor.status import status_of
from psedge.supervisor.versions import require_same_wire
from psedge.supervisor.waits import until
from psedge.supervisor.worker_desk import WorkerDesk

#: How long a stopping run waits for its workers to finish their step.
FAREWELL_SECONDS = 10.0


class Supervisor:
    """Serves one run; `run()` lives as long as it does."""

    def __init__(
        self,
        setup: RunSetup,
        storage: Storage,
        *,
        clock: Clock,
        transport: Transport,
        token: str,
        notify: Callable[[str], None],
        beside: int | None = None,
    ) -> None:
        """storage: the run folder. token: opens the doors of the run's servers.

        beside: incarnation of the server in this process, which has to be the first to register,
        since workers look for the first one's shards at the supervisor's address.
        """
        self.state = RunState(setup, transport, token, notify)
        note = self.state.note
        store = CheckpointStore(storage, setup.experiment.checkpoint.keep, note)
        self._keeper = Keeper(setup, Recorder(storage, clock, note), store, clock)
        self._clock = clock
        self._notify = notify
        self._beside = beside
        self._roster = Roster(self.state, clock)
        self._desk = WorkerDesk(self.state, self._roster, self._keeper, clock)

    def routes(self) -> dict[str, Handler]:
        return {
            **self._desk.routes(),
            HELLO: self.hello,
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

    async def status(self, incoming: Incoming) -> Reply:
        await read_message(incoming, Acknowledged)
        return answer(self.current_status())

    async def stop(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Stop)
        self.request_stop(message.reason or "asked to stop", failed=message.failed)
        return answer(Acknowledged())

    async def register(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Register)
        require_same_wire(message.psedge, message.wire)
        state = self.state
        known = len(state.fleet.servers)
        if not known and self._beside not in (None, message.incarnation):
            raise RefusedError("not-ready", "this server is still starting")
        entry = state.fleet.register(message, incoming.peer, self._clock.now())
        if len(state.fleet.servers) > known and entry.server > 0:
            role = "spare: all shards are taken" if state.fleet.assigned else "joined"
            self._notify(f"server {entry.server} at {entry.url} {role}")
        self._roster.announce()
        cluster = state.experiment.cluster
        return answer(RegisterReply(entry.server, cluster.lease_seconds, cluster.heartbeat_seconds))

    async def server_heartbeat(self, incoming: Incoming) -> Reply:
        report = await read_message(incoming, ServerReport)
        if not self.state.fleet.take_report(report, self._clock.now()):
            return answer(ServerHeartbeatReply("register"))
        if self.state.ended:
            self.state.fleet.servers[report.server].told = True
            self._roster.announce()
        return answer(ServerHeartbeatReply("stop" if self.state.ended else "continue"))

    @property
    def model(self) -> ModelState | None:
        """The model as of the last checkpoint; at the end of a run, the trained one."""
        return self._keeper.model or self.state.model

    def current_status(self, *, rows: bool = True) -> Status:
        """The run as people see it. rows: with one for each worker."""
        return status_of(self.state, self._keeper, self._clock.now(), rows=rows)

    def request_stop(self, reason: str, *, failed: bool = False) -> None:
        """End the run in order; `run()` does the rest. failed: nobody wished it."""
        if self.state.stop_reason is None:
            self.state.stop_reason = reason
            self.state.stop_phase = "failed" if failed else "stopped"
            self._roster.announce()

    async def run(self) -> None:
        """Watch over the run until it has ended and its last checkpoint is on disk."""
        state = self.state
        beat = state.experiment.cluster.heartbeat_seconds
        try:
            while not state.ended:
                await until(self._roster.changed, beat)
                await self._tick()
        except PsedgeError as error:
            await self._end("failed", str(error))
        self._roster.announce()

    async def everyone_knows(self) -> None:
        """Return when no worker and no other server is left to hear that the run has ended."""
        state = self.state
        while state.membership.live_count or not state.fleet.others_told():
            await until(self._roster.changed, 0.1)
            state.membership.expire(self._clock.now())

    async def _tick(self) -> None:
        state = self.state
        now = self._clock.now()
        await self._roster.expire()
        await self._expire_servers(now)
        if not state.ended:
            await self._roster.tell_again()
        if self.state.stop_reason is not None:
            await self._wait_for_workers_to_leave()
            unsaved = await self._keep_last(evaluate=False)
            reasons = [reason for reason in (state.stop_reason, unsaved) if reason]
            await self._end(state.stop_phase, "; ".join(reasons))
            return
        if state.phase != "training":
            return
        self._roster.count_visited()
        if state.plan is not None and state.plan.finished:
            await self._wait_for_last_pushes()
            await self._roster.broadcast()
            unsaved = await self._keep_last(evaluate=True)
            await self._end("failed" if unsaved else "finished", unsaved)
            return
        await self._keeper.tick(state, now)

    async def _expire_servers(self, now: float) -> None:
        state = self.state
        for server in state.fleet.expire(now, state.lease_seconds):
            if server.shards and state.phase == "training":
                lost = ", ".join(str(shard) for shard in server.shards)
                reason = (
                    f"server {server.server} at {server.url} is silent for "
                    f"{state.lease_seconds:g} s, and shard {lost} with it; continue from the "
                    "last checkpoint with --resume"
                )
                await self._end("failed", reason)

    async def _wait_for_last_pushes(self) -> None:
        """What shard 0 has counted may still be on its way to other shards.

        A worker asks for data again once all shards have its push, and is then idle; one that is
        lost on the way has a lease.
        """
        state = self.state
        deadline = self._clock.now() + state.lease_seconds
        while self._clock.now() < deadline and state.stop_reason is None:
            if all(entry.state == "idle" for entry in state.membership.live()):
                return
            await until(self._roster.changed, 0.2)
            await self._roster.expire()

    async def _wait_for_workers_to_leave(self) -> None:
        deadline = self._clock.now() + FAREWELL_SECONDS
        while self.state.membership.live_count and self._clock.now() < deadline:
            await until(self._roster.changed, 0.2)
            self.state.membership.expire(self._clock.now())

    async def _keep_last(self, *, evaluate: bool) -> str:
        """The last checkpoint and measurement come before anyone hears that the run has ended.

        Returns why that checkpoint is not on disk, or nothing.
        """
        if self.state.started_at is None:
            return ""
        return await self._keeper.last(self.state, self._clock.now(), evaluate=evaluate)

    async def _end(self, phase: Phase, reason: str) -> None:
        state = self.state
        state.end(phase, reason, self._clock.now())
        await self._keeper.ended(self.current_status())
