"""The first minutes of a supervisor that was started anew in the middle of a run.

Training goes on meanwhile: workers renew their leases and get data from the book. What needs the
servers waits until they have said what they hold: who has left since is settled only then, for only
the first shard knows how far each worker came.
"""

from __future__ import annotations

from psedge.protocol.errors import TrainingError
from psedge.protocol.ports import Clock
from psedge.supervisor.keeper import Keeper
from psedge.supervisor.roster import Roster
from psedge.supervisor.run_state import RunState
from psedge.supervisor.start import go_back
from psedge.supervisor.store import LeftAloneError
from psedge.supervisor.waiting import waiting_for_servers

#: What is still waited for after so long is worth a note, once.
TELL_SECONDS = 10.0
#: Who asks for the end meanwhile waits so long for the servers, which have the model.
STOP_SECONDS = 5.0
#: For who does not want to wait for the servers.
_WAY_OUT = "--resume --from-checkpoint goes on without what they hold"


class Attachment:
    """Sees a restarted supervisor through until it has everybody again; then it does nothing."""

    def __init__(self, state: RunState, roster: Roster, keeper: Keeper, clock: Clock) -> None:
        self._state = state
        self._roster = roster
        self._keeper = keeper
        self._clock = clock
        self._begun = False
        self._began_at = clock.now()
        self._told = ""
        self._stop_at: float | None = None

    async def tick(self) -> None:
        """Called about once a heartbeat.

        Raises TrainingError when training cannot go on, LeftAloneError when the user has it wait no
        longer.
        """
        state = self._state
        if not state.attaching:
            return
        if not self._begun:
            self._begun = True
            await self._keeper.attach(state)
            if state.setup.from_checkpoint:
                await self._give_up()
                return
        waiting_for = waiting_for_servers(state)
        if waiting_for:
            self._wait(waiting_for, self._clock.now())
            return
        # Whoever left before this supervisor came must not be waited for any more, and nothing of
        # it may be counted after its samples have gone back.
        await self._roster.broadcast()
        if state.fleet.confirmed(state.membership.revision):
            await self._settle_leavers()
            state.attaching = False
            self._keeper.attached(state, went_on=self._went_on())
            state.note(f"the supervisor is back: {_who_is_there(state)}")
            self._roster.announce()

    async def _give_up(self) -> None:
        """What the servers hold is not wanted any more: that of some of them is lost."""
        why = "the servers of the run are given up, as --from-checkpoint asks"
        failure = await go_back(self._state, why, self._keeper.samples_recorded)
        if failure:
            raise TrainingError(failure)
        self._roster.announce()

    def _wait(self, waiting_for: str, now: float) -> None:
        """Raises LeftAloneError when the user does not want to wait any longer."""
        state = self._state
        if state.stop_reason is not None:
            self._stop_at = now + STOP_SECONDS if self._stop_at is None else self._stop_at
            if now >= self._stop_at:
                raise LeftAloneError(
                    f"{state.stop_reason} while it waited for {waiting_for}: what they hold is "
                    "left as it is; start the supervisor again with --resume, or, to go on from "
                    "the last checkpoint without it, with --resume --from-checkpoint"
                )
        if now - self._began_at >= TELL_SECONDS and waiting_for != self._told:
            self._told = waiting_for
            state.note(f"waiting for {waiting_for}; {_WAY_OUT}")

    def _went_on(self) -> bool:
        """Whether training went on meanwhile: a server is the very process that it was."""
        kept = self._state.book.restored() if self._state.book is not None else None
        before = {record.incarnation for record in kept.servers} if kept is not None else set()
        return any(
            entry.attached and entry.incarnation in before for entry in self._state.fleet.servers
        )

    async def _settle_leavers(self) -> None:
        """Samples of workers whose goodbye an earlier supervisor did not come to settle."""
        state = self._state
        if state.plan is None:
            return
        self._roster.count_visited()
        for worker, incarnation in state.plan.holders():
            if state.membership.entry(worker, incarnation) is not None:
                continue
            progress = state.fleet.progress.of(worker, incarnation)
            state.plan.release(worker, 0 if progress is None else progress.samples, incarnation)
        await state.save_plan()


def _who_is_there(state: RunState) -> str:
    missing, wanted = state.missing_servers(), state.experiment.cluster.servers
    if not missing:
        return "all servers of the run are there"
    return f"all shards are there, {wanted - missing} of {wanted} servers so far"
