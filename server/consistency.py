"""The consistency gate: who may take the next step, told from clocks alone.

The law: a worker at clock c may take step c + 1 while c - floor <= bound, where floor is the
smallest clock of the workers that are not idle (stale synchronous parallel, Ho et al. 2013). The
bound is 0 in `bsp`, `staleness_bound` in `ssp`, infinite in `asp`. Two things follow:

- the floor never falls, because whoever comes in, or wakes from idleness, starts at the floor.
  So what was permitted stays within the bound until it is pushed;
- a worker at the floor is always permitted, so there is never a deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psedge.protocol.shards import AccountState, Member, Members, SyncSettings


class Gate:
    """Clocks of the members, by worker. Asking about anyone else raises KeyError.

    floor: smallest clock of the members that are not idle; the largest clock ever reached when
    there is no such member. active: how many members are not idle.
    """

    def __init__(self, settings: SyncSettings, largest: int = 0) -> None:
        """largest: the largest clock that any worker had reached before."""
        self._bound = bound_of(settings)
        self._members: dict[int, Member] = {}
        self._clocks: dict[int, int] = {}
        self._largest = largest
        self.floor = largest
        self.active = 0
        #: How many active members stand at the floor, so that only the last one to leave it has to
        #: look for the next floor among all.
        self._at_floor = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is live."""
        return tuple(self._members.values())

    @property
    def clocks(self) -> Mapping[int, int]:
        """The clock of each member."""
        return self._clocks

    @property
    def largest(self) -> int:
        """The largest clock that any worker has reached."""
        return self._largest

    def restore(self, accounts: Iterable[AccountState]) -> None:
        """Take over the members of a gate that this one continues, each at its clock."""
        members = [account for account in accounts if account.member]
        for account in members:
            worker, incarnation = account.progress.worker, account.progress.incarnation
            self._members[worker] = Member(worker, incarnation, account.idle)
            self._clocks[worker] = account.clock
        self.active = sum(not account.idle for account in members)
        self._find_floor()

    def agrees(self, members: Members) -> bool:
        """Whether a list of all members, or of changes among them, would change nothing."""
        if any(self._members.get(member.worker) != member for member in members.members):
            return False
        if members.since is None:
            return len(members.members) == len(self._members)
        return self._members.keys().isdisjoint(members.gone)

    def set_members(self, members: Iterable[Member]) -> None:
        """Take over the live workers, all of them. A new incarnation is a new member."""
        before, clocks = self._members, self._clocks
        self._members = {member.worker: member for member in members}
        self._clocks = {
            worker: clocks[worker]
            for worker, member in self._members.items()
            if worker in before and before[worker].incarnation == member.incarnation
        }
        stayed = [
            worker
            for worker in self._clocks
            if not before[worker].idle and not self._members[worker].idle
        ]
        floor = min((self._clocks[worker] for worker in stayed), default=self._largest)
        for worker, member in self._members.items():
            if worker not in self._clocks:
                self._clocks[worker] = floor
            elif before[worker].idle and not member.idle:
                self._clocks[worker] = max(self._clocks[worker], floor)
        self.active = sum(not member.idle for member in self._members.values())
        self._find_floor()

    def change_members(self, members: Iterable[Member], gone: Iterable[int]) -> None:
        """As `set_members` of everyone, given those that changed and those that are no longer."""
        for worker in gone:
            self._remove(worker)
        fresh, woken = [], []
        for member in members:
            before = self._members.get(member.worker)
            if before is None or before.incarnation != member.incarnation:
                self._remove(member.worker)
                fresh.append(member)
            elif before.idle and not member.idle:
                woken.append(member)
            else:
                if member.idle and not before.idle:
                    self._deactivate(member.worker)
                self._members[member.worker] = member
        if not self._at_floor:
            self._find_floor()
        for member in fresh:
            self._clocks[member.worker] = self.floor
        for member in woken:
            self._clocks[member.worker] = self._effective(member.worker)
        for member in (*fresh, *woken):
            self._members[member.worker] = member
            if not member.idle:
                self.active += 1
                self._at_floor += self._clocks[member.worker] == self.floor

    def clock(self, worker: int) -> int:
        """Steps that the worker has completed, as if it had been there from the beginning."""
        return self._clocks[worker]

    def advance(self, worker: int) -> int:
        """The worker has completed a step, whatever became of its push. Returns its new clock."""
        before = self._effective(worker)
        self._clocks[worker] = before + 1
        self._largest = max(self._largest, before + 1)
        if self._members[worker].idle:
            if not self._at_floor:
                self.floor = self._largest
        elif before == self.floor:
            self._at_floor -= 1
            if not self._at_floor:
                self._find_floor()
        return before + 1

    def staleness(self, worker: int) -> int:
        """Clocks that the worker is ahead of the slowest one."""
        return self._effective(worker) - self.floor

    def may_proceed(self, worker: int) -> bool:
        """Whether the worker may take its next step."""
        return self._bound is None or self.staleness(worker) <= self._bound

    def slowest(self) -> int | None:
        """Smallest clock of the members that are not idle, None if there is no such member."""
        return self.floor if self._at_floor else None

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        active = [
            self._clocks[worker] for worker, member in self._members.items() if not member.idle
        ]
        assert self._clocks.keys() == self._members.keys()
        assert all(0 <= clock <= self._largest for clock in self._clocks.values())
        assert self.floor == min(active, default=self._largest)
        assert self._at_floor == active.count(self.floor)
        assert self.active == len(active)
        assert not active or any(
            self.may_proceed(worker) for worker, member in self._members.items() if not member.idle
        )

    def _remove(self, worker: int) -> None:
        member = self._members.get(worker)
        if member is None:
            return
        if not member.idle:
            self._deactivate(worker)
        del self._members[worker], self._clocks[worker]

    def _deactivate(self, worker: int) -> None:
        self.active -= 1
        self._at_floor -= self._clocks[worker] == self.floor

    def _effective(self, worker: int) -> int:
        """An idle member can fall behind the floor; should it push, it has woken at the floor."""
        return max(self._clocks[worker], self.floor)

    def _find_floor(self) -> None:
        active = [
            self._clocks[worker] for worker, member in self._members.items() if not member.idle
        ]
        self.floor = min(active, default=self._largest)
        self._at_floor = active.count(self.floor)


def bound_of(settings: SyncSettings) -> int | None:
    """Clocks that a worker may be ahead of the slowest one; None: any number."""
    match settings.mode:
        case "bsp":
            return 0
        case "ssp":
            return settings.staleness_bound
        case "asp":
            return None


def weight_of(settings: SyncSettings, lag: int) -> float:
    """The weight of a push that is `lag` versions old: 1 within `lag_bound`, 0 for refusal.

    Past the bound `damp` shrinks a step with its age (staleness-aware SGD, Zhang et al. 2016).
    `bsp` has no such bound: a joint step waits for all and takes what they computed.
    """
    bound = settings.lag_bound
    if settings.mode == "bsp" or bound is None or lag <= bound:
        return 1.0
    return (bound + 1) / (lag + 1) if settings.lag_action == "damp" else 0.0
