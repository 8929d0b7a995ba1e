"""Changes of membership, carried to the servers in the order that keeps the promises.

Servers know a worker before the worker hears that it has joined. A leaver's samples go back to the
pool only after the servers have said how far it came.
"""

from __future__ import annotations

import asyncio

from psedge.protocol.messages import Join
from psedge.protocol.ports import Clock
from psedge.supervisor.membership import WorkerEntry
from psedge.supervisor.run_state import RunState


class Roster:
    """Membership and data plan of a run, kept in step with its servers.

    changed: set when anything that somebody may wait for has changed, then replaced.
    """

    def __init__(self, state: RunState, clock: Clock) -> None:
        self.changed = asyncio.Event()
        #: Goodbyes that are being settled.
        self._settling: set[asyncio.Task[None]] = set()
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

    async def take_over(self, message: Join, now: float) -> None:
        """Settle what a crashed worker left behind before its successor joins under its name."""
        membership = self._state.membership
        while (entry := membership.displaced(message.name, message.incarnation, now)) is not None:
            await self.leave(entry.worker, entry.incarnation)

    async def leave(self, worker: int, incarnation: int, failure: str = "") -> None:
        """An orderly goodbye; nothing happens if the worker is no live member."""
        entry = self._state.membership.leave(worker, incarnation, failure)
        if entry is not None:
            settling = asyncio.ensure_future(self._settle(entry))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)
            # Who asked for this may be gone before the servers have answered, and the request is
            # cancelled with its connection; the leaver's samples go back all the same.
            await asyncio.shield(settling)

    async def _settle(self, entry: WorkerEntry) -> None:
        await self.broadcast()
        self._release(entry)

    async def expire(self) -> None:
        """Give up the workers whose lease has run out."""
        dead = self._state.membership.expire(self._clock.now())
        if dead:
            await self.broadcast()
        for entry in dead:
            returned = self._release(entry)
            self._state.note(
                f"worker {entry.name} is silent for {self._state.lease_seconds:g} s and taken for "
                f"dead; {returned} of its samples go to the others"
            )

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
