"""Invariant 1: an acknowledged push is applied exactly once, or its loss is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from psedge.protocol.shards import Members, ShardState
from psedge.protocol.status import Status as RunStatus
from psedge.protocol.wire import Status
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.checkers.lineage import Snapshots
from psedge.supervisor.service import Supervisor
from psedge.worker.client import ExchangeResult
from psedge.worker.push import Push
from psedge.worker.session import Session

#: A worker under one incarnation.
_Sender = tuple[int, int]

_REFUSED = (Status.REFUSED_NONFINITE, Status.REFUSED_LAG)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """The latest push of a sender that was no retry, and what became of it."""

    sequence: int
    status: Status


@dataclass(slots=True)
class _Life:
    """A shard on one server, from its assignment to the end of that process.

    applied: pushes whose outcome was APPLIED, those before the checkpoint it began with included.
    gathering: those of them that wait for the end of a round of `bsp`. saved: `applied` at the
    latest checkpoint.
    """

    host: str
    version: int
    arrived: dict[_Sender, _Arrived] = field(default_factory=dict)
    members: frozenset[_Sender] = frozenset()
    applied: int = 0
    gathering: int = 0
    saved: int = 0


class ExactlyOnce(Checker):
    """Follows each push from the shard that takes it to the worker that hears of it."""

    invariant = 1

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._lives: dict[Shard, _Life] = {}
        #: The life of each number that was made last; what others hold has been rolled back.
        self._newest: dict[int, _Life] = {}
        self._snapshots: Snapshots[_Life] = Snapshots()
        #: The latest push of each sender that any shard of this number took.
        self._taken: dict[tuple[int, _Sender], _Arrived] = {}
        #: Shards whose server is gone, with pushes that no checkpoint has, and where they were.
        self._lost: dict[int, str] = {}

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        self._lost.pop(shard.assignment.shard, None)
        life = _Life(host, shard.version)
        if state is not None:
            known = self._snapshots.find(shard, state)
            if known is None:
                life.applied = state.pushes_applied
            else:
                life.applied, life.arrived = known.applied, dict(known.arrived)
        self._lives[shard] = self._newest[shard.assignment.shard] = life

    def members_set(self, host: str, shard: Shard, members: Members) -> None:
        life = self._lives[shard]
        life.members = frozenset((member.worker, member.incarnation) for member in shard.members)
        self._step_counted(host, shard, life, applied=False)

    def shard_pushed(self, host: str, shard: Shard, push: ServerPush, outcome: Outcome) -> None:
        life = self._lives[shard]
        sender = (push.worker, push.incarnation)
        latest = life.arrived.get(sender)
        again = latest is not None and push.sequence <= latest.sequence
        name = _name(shard, sender, push.sequence)
        if sender not in life.members:
            self.violated(host, f"{name} was taken from a worker that is no member")
        if outcome.status is Status.APPLIED and again:
            self.violated(host, f"{name} was applied a second time")
        elif outcome.status is Status.DUPLICATE and not again:
            self.violated(host, f"{name} was taken for a retry, and had never arrived")
        elif again and outcome.status in _REFUSED and latest != _arrived(push, outcome):
            self.violated(host, f"{name} was refused, after {latest}")
        applied = outcome.status is Status.APPLIED and not again
        life.applied += applied
        if not again:
            arrived = _arrived(push, outcome)
            life.arrived[sender] = self._taken[shard.assignment.shard, sender] = arrived
        self._step_counted(host, shard, life, applied=applied)

    def shard_state(
        self, host: str, shard: Shard, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        life = self._lives[shard]
        number = shard.assignment.shard
        gathers = shard.assignment.sync.mode == "bsp"
        counted = {(done.worker, done.incarnation): done.sequence for done in state.workers}
        for sender in sorted(life.members):
            arrived = life.arrived.get(sender)
            if not gathers and arrived is not None and counted.get(sender) != arrived.sequence:
                self.violated(
                    host,
                    f"a checkpoint of shard {number} has {_name(shard, sender, arrived.sequence)} "
                    f"in its parameters and push {counted.get(sender)} in its ledger",
                )
        left_out = life.applied - state.pushes_applied
        if left_out and not (gathers and 0 <= left_out <= life.gathering):
            self.violated(
                host,
                f"a checkpoint of shard {number} counts {state.pushes_applied} pushes, "
                f"{life.applied} were applied",
            )
        life.saved = life.applied
        arrived_by_then = {
            sender: _Arrived(min(latest.sequence, counted[sender]), latest.status)
            for sender, latest in life.arrived.items()
            if sender in counted
        }
        kept = replace(life, arrived=arrived_by_then, applied=state.pushes_applied)
        self._snapshots.take(shard, state, kept)

    def host_gone(self, host: str) -> None:
        for shard in [shard for shard, life in self._lives.items() if life.host == host]:
            life, number = self._lives.pop(shard), shard.assignment.shard
            if life.saved != life.applied and self._newest.get(number) is life:
                self._lost[number] = host

    def worker_sent(
        self, host: str, session: Session, push: Push, result: ExchangeResult | BaseException
    ) -> None:
        if not isinstance(result, ExchangeResult):
            return
        for piece, status in zip(push.pieces, result.statuses, strict=True):
            header = piece.header
            assert header is not None
            sender = (header.worker, header.incarnation)
            taken = self._taken.get((header.shard, sender))
            name = f"push {header.sequence} of worker {header.worker} to shard {header.shard}"
            if taken is None or taken.sequence != header.sequence:
                self.violated(host, f"{name} was acknowledged and never arrived")
                continue
            told = Status.APPLIED if status is Status.DUPLICATE else status
            if told is not taken.status:
                self.violated(
                    host, f"{name} was acknowledged as {told.name}, it was {taken.status.name}"
                )

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        self._lost.clear()

    def run_ended(self, host: str, supervisor: Supervisor, status: RunStatus) -> None:
        if status.phase != "finished":
            return
        for number, where in self._lost.items():
            self.violated(
                host, f"the run finished, though what shard {number} had on {where} is lost"
            )

    def _step_counted(self, host: str, shard: Shard, life: _Life, *, applied: bool) -> None:
        """Each applied push is one step of the parameters, or a part of a joint one."""
        steps, life.version = shard.version - life.version, shard.version
        number = shard.assignment.shard
        if shard.assignment.sync.mode != "bsp":
            if steps != applied:
                self.violated(host, f"shard {number} took {steps} steps for {int(applied)} pushes")
            return
        life.gathering += applied
        if steps not in (0, 1) or (steps and not life.gathering):
            self.violated(host, f"shard {number} took {steps} joint steps of {life.gathering}")
        elif not steps and life.gathering and not shard.kept_payloads:
            self.violated(host, f"shard {number} dropped a round of {life.gathering} pushes")
        if steps or not shard.kept_payloads:
            life.gathering = 0


def _arrived(push: ServerPush, outcome: Outcome) -> _Arrived:
    return _Arrived(push.sequence, outcome.status)


def _name(shard: Shard, sender: _Sender, sequence: int) -> str:
    worker, incarnation = sender
    return (
        f"push {sequence} of worker {worker}, incarnation {incarnation}, "
        f"to shard {shard.assignment.shard}"
    )
