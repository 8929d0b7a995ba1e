"""The supervisor of one run: its life, its servers, and what people ask of it.

A run is waiting (for servers, a model, workers), then training, then finished, stopped or failed.
Membership, the data plan and the shard table decide; `roster.py` carries their decisions to the
servers, `guardian.py` watches over those, `worker_desk.py` and `server_desk.py` answer who asks,
`keeper.py` keeps the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from psedge.protocol.calls import answer, read_message
from psedge.protocol.errors import PsedgeError
from psedge.protocol.messages import HELLO, STATUS, STOP, Acknowledged, Hello, HelloReply, Stop
from psedge.protocol.ports import Clock, Handler, Incoming, Reply, Storage, Transport
from psedge.protocol.replicas import Position
from psedge.protocol.status import Phase, Status
from psedge.protocol.version import __version__
from psedge.protocol.wire import WIRE_VERSION
from psedge.supervisor.attach import Attachment
from psedge.supervisor.book import Book
from psedge.supervisor.checkpoint import CheckpointStore
from psedge.supervisor.guardian import Guardian
from psedge.supervisor.keeper import Keeper
from psedge.supervisor.map_desk import MapDesk
from psedge.supervisor.model_state import ModelState
from psedge.supervisor.recorder import Recorder
from psedge.supervisor.roster import Roster
from psedge.supervisor.run_state import RunState
from psedge.supervisor.server_calls import ServerCalls
from psedge.supervisor.server_desk import ServerDesk
from psedge.supervisor.set_keeper import SetKeeper
from psedge.supervisor.setup import RunSetup
from psedge.supervisor.shard_table import Decision
from psedge.supervisor.start import go_back, prepare
from psedge.supervisor.status import status_of
from psedge.supervisor.store import LeftAloneError
from psedge.supervisor.waits import until
from psedge.supervisor.worker_desk import WorkerDesk

#: How long a stopping run waits for its workers to finish their step.
FAREWELL_SECONDS = 10.0
#: How long the end of a run waits for pushes that only some of the shards have.
LAST_PUSHES_SECONDS = 60.0


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
        book: Book | None = None,
    ) -> None:
        """storage: the run folder. token: opens the doors of the run's servers.

        beside: incarnation of the server in this process, which is the first to register, so that
        it gets the first shard; None: there is none.
        book: what outlives this process; None: nothing but checkpoints does.
        """
        self.state = RunState(setup, transport, token, notify, clock, book)
        self.state.fleet.beside = beside
        self.state.fleet.decrees.record = self._decreed
        prepare(self.state, clock.now())
        note = self.state.note
        store = CheckpointStore(storage, setup.experiment.checkpoint.keep, note)
        self._keeper = Keeper(setup, Recorder(storage, clock, note), store, clock)
        self._clock = clock
        #: Why a shard is lost for good, with the run.
        self._lost: str | None = None
        #: Since when all data are visited, and some of the shards lack pushes.
        self._late_since: float | None = None
        self._roster = Roster(self.state, clock)
        calls = ServerCalls(transport, token)
        sets = SetKeeper(self.state.fleet, calls, clock)
        self._guardian = Guardian(
            self.state,
            calls,
            sets,
            clock,
            note=self._decided,
            announce=self._roster.announce,
            on_lost=self._lose,
        )
        self._attachment = Attachment(self.state, self._roster, self._keeper, clock)
        self._desks = (
            WorkerDesk(self.state, self._roster, self._keeper, clock),
            ServerDesk(self.state, self._roster, self._guardian, sets, clock),
            MapDesk(self.state, self._guardian, clock),
        )

    def routes(self) -> dict[str, Handler]:
        routes: dict[str, Handler] = {HELLO: self.hello, STATUS: self.status, STOP: self.stop}
        for desk in self._desks:
            routes |= desk.routes()
        return routes

    async def hello(self, incoming: Incoming) -> Reply:
        await read_message(incoming, Hello)
        book = self.state.book
        return answer(
            HelloReply(
                psedge=__version__,
                wire=WIRE_VERSION,
                supervisor=True,
                run=self.state.setup.run,
                identity=book.identity if book is not None else "",
            )
        )

    async def status(self, incoming: Incoming) -> Reply:
        await read_message(incoming, Acknowledged)
        return answer(self.current_status())

    async def stop(self, incoming: Incoming) -> Reply:
        message = await read_message(incoming, Stop)
        self.request_stop(message.reason or "asked to stop", failed=message.failed)
        return answer(Acknowledged())

    @property
    def model(self) -> ModelState | None:
        """The model as of the last checkpoint; at the end of a run, the trained one."""
        return self._keeper.model or self.state.model

    def sealed(self, shard: int) -> Mapping[int, Position]:
        """See `Guardian.sealed`."""
        return self._guardian.sealed(shard)

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
        """Watch over the run until it has ended and its last checkpoint is on disk.

        Raises LeftAloneError when this supervisor has to end and the run does not, for instance
        because another one has taken it over.
        """
        state = self.state
        beat = state.experiment.cluster.heartbeat_seconds
        watching = asyncio.ensure_future(self._guardian.watch())
        try:
            while not state.ended:
                await until(self._roster.changed, beat)
                if watching.done():
                    watching.result()
                if self._guardian.failure is not None:
                    raise self._guardian.failure
                await self._tick()
        except LeftAloneError:
            raise
        except PsedgeError as error:
            await self._end("failed", str(error))
        finally:
            watching.cancel()
        self._roster.announce()

    async def everyone_knows(self) -> None:
        """Return when no worker and no other server is left to hear that the run has ended."""
        state = self.state
        while state.membership.live_count or not state.fleet.others_told():
            await until(self._roster.changed, 0.1)
            state.membership.expire(self._clock.now())
            state.fleet.list.expire(self._clock.now())

    async def _tick(self) -> None:
        state = self.state
        now = self._clock.now()
        if state.book is not None:
            state.book.flush()
        await self._roster.expire()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            failure = await self._consequence(lost)
            if failure:
                await self._end("failed", failure)
            return
        await self._roster.tell_again()
        await self._attachment.tick()
        if state.attaching:
            return
        if self.state.stop_reason is not None:
            if state.phase == "training":
                await self._wait_for_workers_to_leave()
            unsaved = await self._keep_last(evaluate=False)
            reasons = [reason for reason in (state.stop_reason, unsaved) if reason]
            await self._end(state.stop_phase, "; ".join(reasons))
            return
        if state.phase != "training":
            return
        self._roster.count_visited()
        self._roster.find_lost()
        if state.plan is not None and state.plan.finished:
            if not self._last_pushes_are_in(now):
                return
            await self._roster.broadcast()
            unsaved = await self._keep_last(evaluate=True)
            await self._end("failed" if unsaved else "finished", unsaved)
            return
        self._late_since = None
        await self._keeper.tick(state, now)

    def _lose(self, shard: int, reason: str) -> None:
        """A shard is lost for good; the next tick says what that means."""
        if self.state.phase == "training" and self._lost is None:
            self._lost = reason
            self._roster.announce()

    async def _consequence(self, lost: str) -> str:
        """Why the run has ended with the shard. A supervisor that was started anew and finds its
        servers gone goes back to the checkpoint instead, and nothing is returned."""
        state = self.state
        if state.attaching:
            return await go_back(state, lost, self._keeper.samples_recorded)
        samples = self._keeper.checkpointed
        way = "there is no checkpoint yet, so the run has to be started anew"
        if samples is not None:
            way = f"continue from the checkpoint at {samples:,} samples with --resume"
        if state.experiment.durability.log == "off" or state.book is None:
            return f"{lost}; {way}"
        state.resumable = True
        return (
            f"{lost}; {way}{'' if samples is None else ' --from-checkpoint'}, or, if the log lies "
            "in another folder, start the supervisor with --resume and each server with the "
            "--store that has its log"
        )

    def _decreed(self, decision: Decision) -> None:
        """Who holds a shard has been decided. Where it begins is no news for people."""
        subject, what = f"shard {decision.shard}", f"{decision.action} server {decision.server}"
        if decision.action == "open":
            self.state.decided("shard", subject, what, decision.reason)
        else:
            lost = bool(decision.lost) or not decision.certain
            self._decided("shard", subject, what, decision.reason, lost=lost)
        if decision.shard == 0 and (decision.lost or not decision.certain or decision.from_disk):
            self._roster.set_back()

    def _decided(
        self, kind: str, subject: str, decision: str, reason: str, *, lost: bool = False
    ) -> None:
        """For people and for the journal."""
        self.state.note(f"{subject}: {decision} ({reason})")
        self.state.decided(kind, subject, decision, reason, lost=lost)

    def _last_pushes_are_in(self, now: float) -> bool:
        """What shard 0 has counted may still be on its way to other shards.

        A worker asks for data again once all shards have its push, and is then idle; one that is
        lost on the way has a lease. For one that is there and does not get through there is a
        bound.
        """
        live = self.state.membership.live()
        late = [entry.name for entry in live if entry.loader and entry.state != "idle"]
        if not late:
            return True
        if self._late_since is None:
            self._late_since = now
        if now - self._late_since < LAST_PUSHES_SECONDS:
            return False
        self.state.note(
            f"the run ends without the last push of {', '.join(late)} to some of the servers: it "
            f"has not got through for {LAST_PUSHES_SECONDS:.0f} s"
        )
        return True

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
        await self._keeper.ended(state, self.current_status())
