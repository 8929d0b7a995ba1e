"""Changes of membership, carried to the servers in the order that keeps the promises.

Servers know a worker before the worker hears that it has joined. A leaver's samples go back to the
pool only after the first shard's primary has shown that it knows of the leave, and with that how
far the leaver came; however often that primary is replaced until then.
"""

from __future__ import annotations

import asyncio

from psedge.protocol.errors import PsedgeError
from psedge.protocol.messages import Join
from psedge.protocol.ports import Clock
from psedge.supervisor.membership import WorkerEntry
from psedge.supervisor.run_state import RunState
from psedge.supervisor.waits import until

#: Between two tries to tell a primary that did not confirm a change.
RETRY_SECONDS = 1.0


class Roster:
    """Membership and data plan of a run, kept in step with its servers.

    changed: set when anything that somebody may wait for has changed, then replaced.
    """

    def __init__(self, state: RunState, clock: Clock) -> None:
        self.changed = asyncio.Event()
        #: Those who are gone and whose samples are not settled yet, by number.
        self._settling: dict[int, asyncio.Task[int]] = {}
        self._state = state
        self._clock = clock

    def announce(self) -> None:
        """Wake everyone who waits for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def broadcast(self) -> None:
        """Tell the servers who is live, and learn how far each worker came."""
        if self._state.fleet.assigned:
            await self._state.fleet.broadcast(self._state.membership.members, self._clock.now)
        self.announce()

    async def tell_again(self) -> None:
        """Tell the servers that missed a change, so that the dead hold nobody back there."""
        state = self._state
        behind = state.fleet.behind(state.membership.revision) if state.fleet.assigned else ()
        if behind:
            await state.fleet.broadcast(state.membership.members, self._clock.now, behind)
            self.announce()

    async def set_idle(self, worker: int, incarnation: int, idle: bool) -> None:
        """An idle worker holds nobody back at the gate."""
        if self._state.membership.set_idle(worker, incarnation, idle):
            await self.broadcast()
            self.announce()

    async def take_over(self, message: Join) -> float:
        """Settle what a crashed worker left behind before its successor joins under its name.

        Returns the moment, on the roster's clock, at which the successor has to join: later, the
        name of a worker that is not settled may have become free for it.
        """
        membership = self._state.membership
        while True:
            now = self._clock.now()
            entry = membership.predecessor(message.name, message.incarnation, now, message.place)
            if entry is None:
                return now
            if entry.live:
                await self.leave(entry.worker, entry.incarnation)
            elif entry.worker in self._settling:
                await asyncio.shield(self._settling[entry.worker])
            elif self._holds(entry):
                # An earlier supervisor noted that it had left, and did not come to settle it.
                await asyncio.shield(self._settle(entry))
            else:
                return now

    async def leave(self, worker: int, incarnation: int, failure: str = "") -> None:
        """An orderly goodbye; nothing happens if the worker is no live member."""
        entry = self._state.membership.leave(worker, incarnation, failure)
        if entry is not None:
            # Who asked for this may be gone before the servers have answered, and the request is
            # cancelled with its connection; the leaver's samples go back all the same.
            await asyncio.shield(self._settle(entry))

    def set_back(self) -> None:
        """The first shard may have lost pushes that its workers count as done: they come in anew,
        and what it does not know of goes back to the pool."""
        for entry in self._state.membership.live():
            left = self._state.membership.leave(entry.worker, entry.incarnation)
            if left is not None:
                self._settle(left)

    async def expire(self) -> None:
        """Give up the workers whose lease has run out."""
        now, fixed = self._clock.now(), self._state.experiment.cluster.lease_seconds
        tasks = []
        for entry in self._state.membership.expire(now):
            seconds = now - entry.seen_at if fixed is None else fixed
            text = f"worker {entry.name} is silent for {seconds:.3g} s and taken for dead"
            self._state.decided("worker", entry.name, "dead", entry.note)
            tasks.append(self._settle(entry, text))
        if tasks:
            # What servers do not confirm at once is settled beside everything else.
            await asyncio.wait(tasks, timeout=RETRY_SECONDS)

    def count_visited(self) -> None:
        """Account the samples that shard 0 has seen; wakes who waits for the end of the data."""
        plan = self._state.plan
        if plan is None:
            return
        was_finished = plan.finished
        for progress in self._state.fleet.progress.take_fresh():
            plan.consumed(progress.worker, progress.samples, progress.incarnation)
        if plan.finished and not was_finished:
            self.announce()

    def find_lost(self) -> None:
        """Find pushes that were lost with a primary of the first shard, though their workers heard
        that they count: a worker has pushed all it had, and that shard has not seen all of it.

        The worker joins anew, so that both count the same, and its samples are trained on again.
        """
        state, plan = self._state, self._state.plan
        if plan is None or not state.fleet.replaced:
            return
        for entry in state.membership.live():
            missing = plan.outstanding(entry.worker)
            revision = state.membership.changed_at(entry.worker)
            if entry.state != "idle" or not missing or not state.fleet.confirmed(revision):
                continue
            reason = f"{missing} samples that it pushed were lost with a server; they go back"
            state.note(f"worker {entry.name}: {reason}")
            state.decided("worker", entry.name, "join anew", reason)
            left = state.membership.leave(entry.worker, entry.incarnation)
            assert left is not None
            self._settle(left)

    def _settle(self, entry: WorkerEntry, text: str = "") -> asyncio.Task[int]:
        task = asyncio.ensure_future(self._settled(entry, text))
        self._settling[entry.worker] = task
        task.add_done_callback(lambda _: self._forget(entry.worker, task))
        return task

    def _forget(self, worker: int, task: asyncio.Task[int]) -> None:
        if self._settling.get(worker) is task:
            del self._settling[worker]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PsedgeError):
            # Nobody may wait for it; a mistake in the program must not go unseen.
            raise error

    async def _settled(self, entry: WorkerEntry, text: str) -> int:
        """Returns the samples that went back. text: what to tell people besides."""
        state, revision = self._state, self._state.membership.revision
        await self.broadcast()
        told_late = False
        while state.fleet.assigned and not state.fleet.confirmed(revision) and not state.ended:
            if text and not told_late:
                told_late = True
                state.note(f"{text}; its samples go to the others once the servers have confirmed")
            await until(self.changed, RETRY_SECONDS)
            await self.tell_again()
        returned = self._release(entry)
        await state.save_members()
        await state.save_plan()
        if text and not told_late:
            state.note(f"{text}; {returned} of its samples go to the others")
        return returned

    def _holds(self, entry: WorkerEntry) -> bool:
        plan = self._state.plan
        return plan is not None and plan.has_account(entry.worker, entry.incarnation)

    def _release(self, entry: WorkerEntry) -> int:
        """Give a leaver's unvisited samples back; the servers have reported since it left."""
        plan = self._state.plan
        if plan is None:
            return 0
        progress = self._state.fleet.progress.of(entry.worker, entry.incarnation)
        seen = progress.samples if progress is not None else 0
        returned = plan.release(entry.worker, seen, entry.incarnation)
        self.announce()
        return returned
