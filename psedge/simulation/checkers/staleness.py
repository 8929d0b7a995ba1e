"""Invariant 4: nobody runs past the staleness bound, and the dead hold nobody back for long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from psedge.protocol.shards import Member, Members, ShardState
from psedge.protocol.wire import Header, Status
from psedge.server.consistency import bound_of
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.checkers.lineage import Reigning
from psedge.supervisor.service import Supervisor
from psedge.worker.session import Session

#: What a dead worker may hold others back longer than its lease: a few rounds of a supervisor that
#: waits ten seconds each for servers that do not answer, and a heartbeat that was on its way.
LATE_SECONDS = 60.0
#: Between two looks at a supervisor there is no more, unless it was stopped meanwhile.
TICK_SECONDS = 2.0


@dataclass(slots=True)
class _Clocks:
    """What a gate should say, computed the plain way.

    clocks: completed steps of the members. largest: of all who were ever there. sequences: of each
    member's latest push.
    """

    host: str
    largest: int
    clocks: dict[int, int] = field(default_factory=dict)
    incarnations: dict[int, int] = field(default_factory=dict)
    idle: set[int] = field(default_factory=set)
    sequences: dict[int, int] = field(default_factory=dict)

    @property
    def floor(self) -> int:
        """Where the slowest of those who are not idle stands."""
        active = [clock for worker, clock in self.clocks.items() if worker not in self.idle]
        return min(active, default=self.largest)

    def staleness(self, worker: int) -> int:
        return max(self.clocks[worker] - self.floor, 0)

    def set_members(self, members: tuple[Member, ...]) -> None:
        """Who comes in or wakes up stands at the floor of those who stayed and were awake."""
        now = {member.worker: member for member in members}
        stayed = {
            worker: clock
            for worker, clock in self.clocks.items()
            if worker in now and now[worker].incarnation == self.incarnations[worker]
        }
        asleep = self.idle | {worker for worker, member in now.items() if member.idle}
        awake = [clock for worker, clock in stayed.items() if worker not in asleep]
        floor = min(awake, default=self.largest)
        for worker, member in now.items():
            clock = stayed.get(worker, floor)
            wakes = worker in self.idle and not member.idle
            self.clocks[worker] = max(clock, floor) if wakes else clock
            if worker not in stayed:
                self.sequences.pop(worker, None)
        self.clocks = {worker: self.clocks[worker] for worker in now}
        self.incarnations = {worker: member.incarnation for worker, member in now.items()}
        self.idle = {worker for worker, member in now.items() if member.idle}

    def go_on(self, state: ShardState) -> None:
        """Stand where an image says that its members stand."""
        for account in state.accounts or ():
            worker = account.progress.worker
            if account.member:
                self.clocks[worker] = account.clock
                self.incarnations[worker] = account.progress.incarnation
                self.sequences[worker] = account.progress.sequence
                self.idle |= {worker} if account.idle else set()


class Staleness(Checker):
    """Keeps every shard's clocks a second time, and the deaths of workers."""

    invariant = 4

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._gates: dict[Shard, _Clocks] = {}
        self._reigning = Reigning()
        #: The latest push of each sender that was acknowledged, by shard.
        self._told: dict[int, dict[tuple[int, int], int]] = {}
        #: Senders whose acknowledged pushes a new primary lacks: until they push again, others are
        #: further ahead of them than they can know. That it is reported is invariant 1.
        self._set_back: dict[int, dict[tuple[int, int], int]] = {}
        #: Who works on a host, as the supervisor knows them.
        self._working: dict[str, tuple[int, int]] = {}
        #: How long a supervisor that was awake could have known of each one's death.
        self._gone: dict[tuple[int, int], float] = {}
        self._ticked_at = 0.0

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        gate = self._gates[shard] = _Clocks(host, 0 if state is None else state.clock)
        if state is not None and state.accounts is not None:
            gate.go_on(state)
        self._reigning.made(shard)

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        self._reigning.run_started(supervisor)

    def push_answered(self, host: str, replica: Replica, header: Header) -> None:
        told = self._told.setdefault(header.shard, {})
        sender = (header.worker, header.incarnation)
        told[sender] = max(header.sequence, told.get(sender, 0))

    def replica_changed(self, host: str, replica: Replica, what: str) -> None:
        gate = self._gates.get(replica.shard)
        if not self._reigning.changed(host, replica) or gate is None:
            return
        number = replica.shard.assignment.shard
        told = self._told.get(number, {})
        for worker, incarnation in gate.incarnations.items():
            latest = told.get((worker, incarnation), 0)
            if gate.sequences.get(worker, 0) < latest:
                self._set_back.setdefault(number, {})[worker, incarnation] = latest

    def members_set(self, host: str, shard: Shard, members: Members) -> None:
        self._gates[shard].set_members(shard.members)

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        gate, worker = self._gates[shard], push.worker
        if gate.incarnations.get(worker) != push.incarnation:
            return
        if outcome.status is Status.DUPLICATE or push.sequence <= gate.sequences.get(worker, 0):
            return
        number, stale = shard.assignment.shard, gate.staleness(worker)
        bound = bound_of(shard.assignment.sync)
        if bound is not None and stale > bound and not self._excused(gate, shard):
            self.violated(
                host,
                f"push {push.sequence} of worker {worker} to shard {number} is {stale} clocks "
                f"ahead, the bound is {bound}",
            )
        gate.sequences[worker] = push.sequence
        gate.clocks[worker] = max(gate.clocks[worker], gate.floor) + 1
        gate.largest = max(gate.largest, gate.clocks[worker])
        if (outcome.staleness, outcome.clock) != (stale, gate.clocks[worker]):
            self.violated(
                host,
                f"shard {number} puts worker {worker} at clock {outcome.clock}, "
                f"{outcome.staleness} ahead; it is at {gate.clocks[worker]}, {stale} ahead",
            )
            gate.clocks[worker] = outcome.clock

    def gate_passed(self, host: str, shard: Shard, worker: int, incarnation: int) -> None:
        gate, bound = self._gates[shard], bound_of(shard.assignment.sync)
        if bound is None or gate.incarnations.get(worker) != incarnation:
            return
        stale = gate.staleness(worker)
        if stale > bound and not self._excused(gate, shard):
            self.violated(
                host,
                f"shard {shard.assignment.shard} lets worker {worker} go on {stale} clocks ahead, "
                f"the bound is {bound}",
            )

    def worker_joined(self, host: str, session: Session) -> None:
        self._working[host] = session.joined.worker, session.incarnation

    def host_gone(self, host: str) -> None:
        for shard in [shard for shard, gate in self._gates.items() if gate.host == host]:
            del self._gates[shard]
        working = self._working.pop(host, None)
        if working is not None:
            self._gone[working] = 0.0

    def supervisor_ticked(self, host: str, supervisor: Supervisor) -> None:
        state, membership = supervisor.state, supervisor.state.membership
        awake = min(self._now() - self._ticked_at, TICK_SECONDS)
        self._ticked_at = self._now()
        ending = state.stop_reason is not None or (state.plan is not None and state.plan.finished)
        if state.phase != "training" or ending:
            return
        longest = membership.lease_seconds + LATE_SECONDS
        for (worker, incarnation), gone in list(self._gone.items()):
            self._gone[worker, incarnation] = gone + awake
            holders = self._holders(worker, incarnation)
            if membership.entry(worker, incarnation) is not None:
                holders = [*holders, "the supervisor"]
            if not holders:
                del self._gone[worker, incarnation]
            elif gone > longest:
                del self._gone[worker, incarnation]
                self.violated(
                    host,
                    f"worker {worker} is dead for {gone:.0f} s and still a member for "
                    f"{', '.join(holders)}; the lease is {membership.lease_seconds:g} s",
                )

    def _excused(self, gate: _Clocks, shard: Shard) -> bool:
        """Whether somebody stands where it stood before pushes of it were lost."""
        back = self._set_back.get(shard.assignment.shard, {})
        return any(
            gate.incarnations.get(worker) == incarnation and gate.sequences.get(worker, 0) <= latest
            for (worker, incarnation), latest in back.items()
        )

    def _holders(self, worker: int, incarnation: int) -> list[str]:
        """Shards that count on a worker."""
        found = []
        for number in self._reigning.numbers():
            shard = self._reigning.shard(number)
            gate = None if shard is None else self._gates.get(shard)
            if gate is not None and gate.incarnations.get(worker) == incarnation:
                found.append(f"shard {number}")
        return found
