"""Watches over servers and the copies of shards, and carries out what is decided about them.

`detector.py` says who is dead, `failover.py` who follows, `placement.py` who learns; here they are
asked at every beat and whenever something has happened, and what they decide is done in tasks of
its own, at most one for each shard, so that nothing waits for a server that does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import msgspec

from psedge.protocol.errors import PsedgeError, RefusedError, UnreachableError
from psedge.protocol.ports import Clock
from psedge.protocol.replicas import Position, Reign
from psedge.supervisor.failover import View, decide
from psedge.supervisor.run_state import RunState
from psedge.supervisor.server_calls import ServerCalls
from psedge.supervisor.server_list import ServerEntry
from psedge.supervisor.set_keeper import SetKeeper
from psedge.supervisor.shard_table import Decision
from psedge.supervisor.shard_view import Sealing, evidence_of, view_of
from psedge.supervisor.waits import until

#: Takes what has been decided, about which kind of thing, which one, and why.
Note = Callable[[str, str, str, str], None]

#: A server that was silent for so many heartbeats is asked whether it is there.
PROBE_BEATS = 2.5
#: Between two questions to the same copy whether it seals itself.
SEAL_PAUSE_SECONDS = 0.5
#: What people may do who do not want to wait for a log.
_WAY_OUT = "stop the supervisor and start it with --resume --from-checkpoint to give it up"
#: The supervisor itself was away if it has done nothing for so many beats, and for so long.
PAUSE_BEATS = 3.0
PAUSE_SECONDS = 3.0


class Guardian:
    """Of one run. note: for people and the journal. announce: wakes everyone who waits for a change
    of the run. on_lost: told of a shard that is lost for good, and why: the run cannot go on as it
    is.
    """

    def __init__(
        self,
        state: RunState,
        calls: ServerCalls,
        keeper: SetKeeper,
        clock: Clock,
        *,
        note: Note,
        announce: Callable[[], None],
        on_lost: Callable[[int, str], None],
    ) -> None:
        #: Why the supervisor cannot decide anything any more.
        self.failure: BaseException | None = None
        self._state = state
        self._keeper = keeper
        self._note = note
        self._fleet = state.fleet
        self._calls = calls
        self._clock = clock
        self._announce = announce
        self._on_lost = on_lost
        self._beat = state.experiment.cluster.heartbeat_seconds
        self._woken = asyncio.Event()
        self._pulse_at: float | None = None
        self._sealings: dict[int, Sealing] = {}
        #: What is being done about each shard, and whatever else is under way.
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._probed_at: dict[int, float] = {}
        #: What people have been told of each shard that waits.
        self._told: dict[int, set[str]] = {}
        self._mourned: set[int] = set()
        self._lost: set[int] = set()

    async def watch(self) -> None:
        """Look after everything until cancelled."""
        try:
            while True:
                self._woken.clear()
                self.look(self._clock.now())
                await until(self._woken, self._beat)
        finally:
            for task in self._tasks:
                task.cancel()

    def wake(self) -> None:
        """Something has happened; look at once."""
        self._woken.set()

    def pulse(self, now: float) -> None:
        """The supervisor does something. If it has not for long, it was paused or its machine
        slept: then nobody could be heard, and everybody is forgiven that time."""
        away = 0.0 if self._pulse_at is None else now - self._pulse_at
        self._pulse_at = now
        if away > max(PAUSE_BEATS * self._beat, PAUSE_SECONDS):
            self._fleet.list.forgive(away, now)
            self._state.membership.forgive(away, now)
            for sealing in self._sealings.values():
                sealing.forgive(away, now)
            self._note("run", "the supervisor", "forgive", f"it was away for {away:.0f} s itself")

    def look(self, now: float) -> None:
        """One round: who is there, and what is to be done about each shard. Waits for nothing."""
        self.pulse(now)
        for entry in self._fleet.list.expire(now):
            if entry.server not in self._mourned:
                self._mourned.add(entry.server)
                self._note("server", f"server {entry.server}", "dead", evidence_of(entry, now))
        for entry in self._fleet.servers:
            self._probe_if_silent(entry, now)
        if self._state.ended or self.failure is not None or not self._fleet.assigned:
            self._sealings.clear()
            self._lost.clear()
            self._state.waits.clear()
            return
        for shard in self._fleet.shards():
            if shard not in self._busy:
                self._look_after(shard, now)

    def suspect(self, shards: Iterable[int]) -> None:
        """Workers do not reach the primaries of these: see at once whether they are there."""
        now = self._clock.now()
        for shard in shards:
            entry = self._fleet.primary(shard)
            if entry is not None and not entry.gone:
                self._begin_probe(entry, now)

    def doubt(self, server: int) -> None:
        """A primary does not reach this one: see at once whether it is there."""
        if 0 <= server < len(self._fleet.servers) and not self._fleet.servers[server].gone:
            self._begin_probe(self._fleet.servers[server], self._clock.now())

    def heard(self, entry: ServerEntry) -> None:
        """A server has registered or sent its heartbeat."""
        if entry.server in self._mourned:
            self._mourned.discard(entry.server)
            self._note("server", f"server {entry.server}", "alive", "it is heard again")
            self.wake()

    async def probe(self, entry: ServerEntry) -> str:
        """Ask a server whether it is there: `answers`, `refused` (then it is dead) or `silent`."""
        outcome = await self._calls.probe(entry)
        if outcome == "refused" and not entry.gone:
            entry.prove_gone(f"nobody listens at {entry.url}")
            self.wake()
        return outcome

    def lease_for(self, entry: ServerEntry, now: float) -> float:
        """Seconds for which a server may act from now on; 0 while its reign is being ended."""
        table = self._fleet.table
        for reign in table.held_by(entry.server):
            if reign.primary.server == entry.server and table.is_sealing(reign.shard):
                return 0.0
        return entry.grant(now)

    def view(self, shard: int, now: float) -> View:
        """What is known of a shard's copies."""
        table, experiment = self._fleet.table, self._state.experiment
        reign = table.reign(shard)
        assert reign is not None
        told, sealing = table.at(shard), self._sealings.get(shard)
        return view_of(reign, self._fleet.list, sealing, told, experiment.durability, now)

    def sealed(self, shard: int) -> Mapping[int, Position]:
        """The latest entries of the copies that have promised the next term and are there, by
        server; empty while nobody is to be replaced."""
        if shard not in self._sealings:
            return {}
        return {copy.holder: copy.at for copy in self.view(shard, self._clock.now()).sealed}

    def _look_after(self, shard: int, now: float) -> None:
        view = self.view(shard, now)
        if shard not in self._sealings and self._fleet.table.is_sealing(shard):
            # An earlier supervisor, or a copy that has seen more than this one, ended the reign.
            self._begin(shard, self._reserve(shard))
            return
        decision = decide(view)
        if decision.action not in ("wait", "await"):
            self._state.waits.pop(shard, None)
            if decision.action != "seal":
                self._told.pop(shard, None)
        if decision.action == "keep":
            self._lost.discard(shard)
            work = self._keeper.due(view.reign, now)
            if work is not None:
                self._begin(shard, work)
        elif decision.action == "seal" and shard not in self._sealings:
            self._begin(shard, self._reserve(shard))
        elif decision.action == "seal":
            self._seal(view, now)
        elif decision.action == "promote":
            self._begin(shard, self._promote(view.reign))
        elif decision.action == "lost":
            self._give_up(view, decision)
        else:
            self._seal(view, now)
            self._tell(decision)

    async def _reserve(self, shard: int) -> None:
        """End a reign: from here on there is no way back to it."""
        term = await self._fleet.decrees.reserve(shard)
        if self._fleet.table.reign(shard) is None:
            # Training has gone back to its checkpoint meanwhile.
            return
        now = self._clock.now()
        self._sealings[shard] = Sealing(term, now)
        self._seal(self.view(shard, now), now)

    def _seal(self, view: View, now: float) -> None:
        """Ask every copy that has not promised yet; the answers come when they come."""
        sealing = self._sealings.get(view.reign.shard)
        if sealing is None:
            return
        for copy in view.copies:
            since = now - sealing.asked_at.get(copy.holder, float("-inf"))
            if copy.fate in ("live", "silent") and since >= SEAL_PAUSE_SECONDS:
                sealing.asked_at[copy.holder] = now
                holder = self._fleet.servers[copy.holder]
                self._start(self._seal_one(sealing, view.reign.shard, holder, copy.returned))

    async def _seal_one(
        self, sealing: Sealing, shard: int, holder: ServerEntry, returned: bool
    ) -> None:
        try:
            state = await self._calls.seal(holder, shard, sealing.term)
        except UnreachableError as error:
            if error.refused and not holder.gone:
                holder.prove_gone(f"nobody listens at {holder.url}")
                self.wake()
            return
        except RefusedError as error:
            if error.code == "stale-term" and self._sealings.get(shard) is sealing:
                # It has promised more than this: begin anew, higher.
                del self._sealings[shard]
            elif error.code == "not-ready":
                sealing.without.setdefault(holder.server, self._clock.now())
            return
        except PsedgeError:
            return
        if state.server != holder.server:
            # At the address of a process that is dead another one may answer by now; without a
            # number it may be the same one, which is registering anew.
            if state.server >= 0 and not holder.gone:
                holder.prove_gone(f"another process answers at {holder.url}")
                self.wake()
            return
        if state.term == sealing.term:
            holder.heard(self._clock.now())
            sealing.sealed[holder.server] = state.at
            if returned and sealing.returned_at is None:
                sealing.returned_at = self._clock.now()
            self.wake()

    async def _promote(self, before: Reign) -> None:
        shard = before.shard
        sealing = self._sealings.get(shard)
        if sealing is None:
            return
        reign = (await self._fleet.decrees.decree(lambda: self._promotion(shard, sealing))).reign
        assert reign is not None
        self._sealings.pop(shard, None)
        self._keeper.promoted(before, reign)
        # Workers are sent to it once it knows, so that it does not send them away again.
        entry = self._fleet.servers[reign.primary.server]
        await self._keeper.tell(entry, reign)
        self._fleet.follow()
        self._announce()
        for peer in reign.learners:
            self._start(self._keeper.tell(self._fleet.servers[peer.server], reign))
        old = self._fleet.servers[before.primary.server]
        if old is not entry and not old.gone:
            self._start(self._keeper.tell(old, reign))

    def _promotion(self, shard: int, sealing: Sealing) -> Decision:
        """By what is known at this moment: since somebody was decided on, one who has more of the
        log may have been heard of.

        Raises RefusedError if nobody is to be promoted any more.
        """
        table = self._fleet.table
        if table.reign(shard) is None or self._sealings.get(shard) is not sealing:
            raise RefusedError("stale-term", f"shard {shard} is not looked after any more")
        view = self.view(shard, self._clock.now())
        decision = decide(view)
        if decision.action != "promote":
            raise RefusedError("not-ready", decision.reason)
        entry = self._fleet.servers[decision.server]
        promoted = table.promoted(
            shard,
            sealing.term,
            self._fleet.peer(entry),
            [self._fleet.peer(each) for each in self._learners_of(view, entry)],
            decision.reason,
        )
        return msgspec.structs.replace(
            promoted, lost=decision.lost, certain=decision.certain, from_disk=decision.from_disk
        )

    def _learners_of(self, view: View, chosen: ServerEntry) -> list[ServerEntry]:
        """Who goes on with the new primary: those who have most of its log first."""
        holders = [copy.holder for copy in (*view.backups, view.primary)]
        holders += [peer.server for peer in view.reign.learners]
        entries = [self._fleet.servers[server] for server in dict.fromkeys(holders)]
        live = [entry for entry in entries if not entry.dead and entry is not chosen]
        return live[: self._fleet.replication.replicas - 1]

    def _give_up(self, view: View, decision: Decision) -> None:
        shard = view.reign.shard
        if shard in self._lost:
            return
        self._lost.add(shard)
        entry = self._fleet.servers[view.reign.primary.server]
        shards = sorted({shard, *entry.shards})
        which = "shard" if len(shards) == 1 else "shards"
        reason = f"{decision.reason}, and {which} {', '.join(map(str, shards))} with it"
        self._note("shard", f"shard {shard}", "lost", reason)
        self._on_lost(shard, reason)

    def _tell(self, decision: Decision) -> None:
        """What a shard waits for: in the status as long as it does, in the journal once."""
        if self._state.attaching and self._state.setup.from_checkpoint:
            # The user has given up already what could be waited for.
            return
        shard, reason = decision.shard, decision.reason
        self._state.waits[shard] = reason
        told = self._told.setdefault(shard, set())
        if reason not in told:
            told.add(reason)
            way_out = f"; {_WAY_OUT}" if decision.action == "await" else ""
            self._note("shard", f"shard {shard}", "wait", f"{reason}{way_out}")

    def _probe_if_silent(self, entry: ServerEntry, now: float) -> None:
        silent = entry.detector.silence(now) > PROBE_BEATS * self._beat
        due = now - self._probed_at.get(entry.server, float("-inf")) >= self._beat
        matters = not entry.dead or bool(self._fleet.table.held_by(entry.server))
        if not entry.gone and due and matters and (silent or not entry.attached):
            self._begin_probe(entry, now)

    def _begin_probe(self, entry: ServerEntry, now: float) -> None:
        if entry.incarnation != self._fleet.beside:
            self._probed_at[entry.server] = now
            self._start(self._probe(entry))

    async def _probe(self, entry: ServerEntry) -> None:
        await self.probe(entry)

    def _begin(self, shard: int, work: Coroutine[Any, Any, None]) -> None:
        """Work on a shard; until it is done nothing else is begun there."""
        self._busy[shard] = self._start(self._work(shard, work))

    async def _work(self, shard: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RefusedError:
            # What it was about has ended meanwhile.
            return
        except PsedgeError as error:
            # Nothing that was decided can be put on record any more.
            self.failure = error
            self._announce()
        finally:
            del self._busy[shard]
            self.wake()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
            self._announce()
