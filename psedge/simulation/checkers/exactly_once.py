"""Invariant 1: an acknowledged push is applied exactly once, or its loss is reported.

Every copy of a shard has a life, in which pushes arrive: from workers, from its primary, from a log
on a disk. A copy that is made from another one goes on with what that one had seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from psedge.protocol.replicas import Reign
from psedge.protocol.shards import Members, ShardState
from psedge.protocol.status import Status as RunStatus
from psedge.protocol.wire import Header, Status
from psedge.server.push import Outcome
from psedge.server.push import Push as ServerPush
from psedge.server.replica import Replica
from psedge.server.shard import Shard
from psedge.simulation.checkers.checker import Checker
from psedge.simulation.checkers.lineage import Reigning, Snapshots
from psedge.simulation.checkers.losses import Loss, Losses
from psedge.supervisor.checkpoint import Checkpoint
from psedge.supervisor.journal import KEPT_EVENTS
from psedge.supervisor.service import Supervisor
from psedge.worker.client import ExchangeResult
from psedge.worker.push import Push
from psedge.worker.session import Session

#: A worker under one incarnation.
_Sender = tuple[int, int]

#: So long after each other the shards of one beginning may be handed out.
BEGINNING_SECONDS = 60.0

_REFUSED = (Status.REFUSED_NONFINITE, Status.REFUSED_LAG)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """The latest push of a sender that was no retry, and what became of it."""

    sequence: int
    status: Status


_NOTHING = _Arrived(0, Status.NONE)


@dataclass(slots=True)
class _Life:
    """A copy of a shard on one server, from its making to the end of that process.

    applied: pushes whose outcome was APPLIED, those before the state it began with included.
    gathering: those of them that wait for the end of a round of `bsp`. at_round: what had arrived
    when that round began. server: number of its process, once it has one.
    """

    host: str
    version: int
    server: int = -1
    arrived: dict[_Sender, _Arrived] = field(default_factory=dict)
    members: frozenset[_Sender] = frozenset()
    applied: int = 0
    gathering: int = 0
    at_round: dict[_Sender, _Arrived] = field(default_factory=dict)


class ExactlyOnce(Checker):
    """Follows each push from the shard that takes it to the worker that hears of it."""

    invariant = 1

    def __init__(self, *further: Any) -> None:
        super().__init__(*further)
        self._lives: dict[Shard, _Life] = {}
        self._reigning = Reigning()
        self._losses = Losses()
        self._snapshots: Snapshots[_Life] = Snapshots()
        #: The newest that any server has heard of, by shard.
        self._reigns: dict[int, Reign] = {}
        #: When the supervisor last began to hand shards out, and whether it had copies of them all.
        self._began_at = -math.inf
        self._all_survived = False
        #: The latest push of each sender that a server has acknowledged, by shard; without those
        #: that were lost later.
        self._told: dict[int, dict[_Sender, _Arrived]] = {}
        #: The same, lost or not.
        self._answered: dict[tuple[int, _Sender], _Arrived] = {}
        #: The latest push of each sender in the latest checkpoint, by shard.
        self._saved: dict[int, dict[_Sender, int]] = {}
        #: When a shard was in a checkpoint last, by its number and version.
        self._saved_at: dict[tuple[int, int], float] = {}

    def shard_made(self, host: str, shard: Shard, state: ShardState | None) -> None:
        life = _Life(host, shard.version)
        life.members = _members(shard)
        if state is not None:
            known = self._snapshots.find(shard, state)
            life.applied = state.pushes_applied if known is None else known.applied
            life.arrived = _arrived_in(state) if known is None else dict(known.arrived)
        life.at_round = dict(life.arrived)
        self._lives[shard] = life
        self._reigning.made(shard)

    def members_set(self, host: str, shard: Shard, members: Members) -> None:
        life = self._lives[shard]
        life.members = _members(shard)
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
            life.arrived[sender] = _arrived(push, outcome)
        self._step_counted(host, shard, life, applied=applied)

    def push_answered(self, host: str, replica: Replica, header: Header) -> None:
        shard = replica.shard
        life, sender = self._lives[shard], (header.worker, header.incarnation)
        arrived = life.arrived.get(sender)
        name = _name(shard, sender, header.sequence)
        if arrived is None or arrived.sequence < header.sequence:
            self.violated(host, f"{name} was acknowledged and never arrived")
            return
        if arrived.sequence > header.sequence:
            # A late answer to a request that its worker has given up on.
            return
        told = Status.APPLIED if header.status is Status.DUPLICATE else header.status
        if told is not arrived.status:
            self.violated(
                host, f"{name} was acknowledged as {told.name}, it was {arrived.status.name}"
            )
        number = shard.assignment.shard
        latest = self._answered.get((number, sender))
        if latest is None or latest.sequence <= arrived.sequence:
            # A server that was frozen may answer a request whose retry others have answered since.
            self._answered[number, sender] = arrived
        if not self._reigning.is_of_this_run(shard):
            return
        books = self._told.setdefault(number, {})
        if sender not in books or books[sender].sequence <= header.sequence:
            books[sender] = arrived

    def replica_changed(self, host: str, replica: Replica, what: str) -> None:
        self._lives[replica.shard].server = replica.server
        if what == "assigned" and self._now() - self._began_at > BEGINNING_SECONDS:
            self._began_at = self._now()
            self._all_survived = bool(self._reigns) and all(map(self._survives, self._reigns))
        self._note_reign(replica)
        if self._reigning.changed(host, replica):
            self._look_for_losses(host, replica, handed_out=what == "assigned")

    def shard_imaged(
        self, host: str, shard: Shard, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        life = self._lives[shard]
        arrived = life.at_round if shard.left_out else life.arrived
        kept = replace(life, arrived=dict(arrived), applied=life.applied - life.gathering)
        if state.pushes_applied != kept.applied:
            self.violated(
                host,
                f"an image of shard {shard.assignment.shard} counts {state.pushes_applied} pushes, "
                f"{kept.applied} were applied",
            )
        self._snapshots.take(shard, state, kept)

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
        arrived_by_then = {
            sender: _Arrived(min(latest.sequence, counted[sender]), latest.status)
            for sender, latest in life.arrived.items()
            if sender in counted
        }
        kept = replace(life, arrived=arrived_by_then, applied=state.pushes_applied)
        self._snapshots.take(shard, state, kept)
        self._saved_at[number, state.version] = self._now()
        self._saved[number] = {
            sender: min(latest.sequence, counted.get(sender, latest.sequence))
            for sender, latest in life.arrived.items()
        }

    def host_gone(self, host: str) -> None:
        for shard in [shard for shard, life in self._lives.items() if life.host == host]:
            del self._lives[shard]

    def worker_sent(
        self, host: str, session: Session, push: Push, result: ExchangeResult | BaseException
    ) -> None:
        if not isinstance(result, ExchangeResult):
            return
        for piece, status in zip(push.pieces, result.statuses, strict=True):
            header = piece.header
            assert header is not None
            sender = (header.worker, header.incarnation)
            told = self._answered.get((header.shard, sender))
            name = f"push {header.sequence} of worker {header.worker} to shard {header.shard}"
            if told is None or told.sequence != header.sequence:
                self.violated(host, f"{name} counts as done, and nobody has acknowledged it")
                continue
            heard = Status.APPLIED if status is Status.DUPLICATE else status
            if heard is not told.status:
                self.violated(
                    host, f"{name} was acknowledged as {heard.name}, it was {told.status.name}"
                )

    def noted(self, host: str, text: str) -> None:
        self._losses.noted(text)

    def run_started(self, host: str, supervisor: Supervisor) -> None:
        if self._reigning.run_started(supervisor):
            self._without_book(host, supervisor.state.setup.checkpoint)
            self._told.clear()
            self._saved.clear()
            self._reigns.clear()

    def run_ended(self, host: str, supervisor: Supervisor, status: RunStatus) -> None:
        for loss in self._losses.unreported(supervisor.state.journal.latest(KEPT_EVENTS)):
            self.violated(
                loss.host,
                f"at {loss.at:.1f} s {loss.text}, and the journal does not say so",
            )
        if status.phase != "finished":
            return
        self._compare_shards(host)
        for number, worker, sequence in self._unsaved():
            self.violated(
                host,
                f"the run finished, and its last checkpoint lacks push {sequence} of worker "
                f"{worker} to shard {number}, which was acknowledged",
            )

    def _without_book(self, host: str, checkpoint: Checkpoint | None) -> None:
        """A run begins, and all that its supervisor knows of an earlier one is this."""
        if checkpoint is None:
            # Nothing of the run before is left, as the last words of its program said.
            self._losses.clear()
            return
        if self._unsaved():
            text = "the run goes back to its checkpoint, without its book and later pushes"
            self._losses.enter(Loss(self._now(), host, 0, text, True))
        places = [(n, state.version) for n, state in enumerate(checkpoint.meta.shard_states)]
        self._losses.gave_up([self._saved_at.get(place, math.inf) for place in places])

    def _unsaved(self) -> list[tuple[int, int, int]]:
        """Shard, worker and number of acknowledged pushes that the latest checkpoint lacks."""
        return [
            (number, sender[0], arrived.sequence)
            for number, told in sorted(self._told.items())
            for sender, arrived in sorted(told.items())
            if self._saved.get(number, {}).get(sender, 0) < arrived.sequence
        ]

    def _compare_shards(self, host: str) -> None:
        """A push that the first shard's last checkpoint has is in those of all others, unless its
        worker is gone."""
        first = self._reigning.shard(0)
        members = frozenset() if first is None else _members(first)
        for sender in sorted(members & self._saved.get(0, {}).keys()):
            whole = self._saved[0][sender]
            for number, saved in sorted(self._saved.items()):
                if saved.get(sender, 0) < whole:
                    self.violated(
                        host,
                        f"the run finished, and the last checkpoint has push {whole} of worker "
                        f"{sender[0]} in shard 0 and not in shard {number}",
                    )

    def _look_for_losses(self, host: str, replica: Replica, *, handed_out: bool) -> None:
        """Somebody new reigns: everything that was acknowledged must be known to it.

        handed_out: by the supervisor, anew or as of a checkpoint.
        """
        shard = replica.shard
        number = shard.assignment.shard
        life, told = self._lives[shard], self._told.get(number, {})
        lost = _lost(told, life)
        if not lost:
            return
        if handed_out and self._all_survived:
            self._all_survived = False
            self.violated(
                host, f"shard {number} begins anew, though copies of all shards are alive"
            )
        sender, latest = next(iter(lost.items()))
        text = (
            f"shard {number} is taken over in term {replica.term} without push {latest.sequence} "
            f"of worker {sender[0]}, which was acknowledged"
        )
        self._losses.enter(Loss(self._now(), host, number, text, handed_out))
        for each in lost:
            told[each] = life.arrived.get(each, _NOTHING)

    def _note_reign(self, replica: Replica) -> None:
        reign, number = replica.reign, replica.shard.assignment.shard
        if reign is None or not self._reigning.is_of_this_run(replica.shard):
            return
        latest = self._reigns.setdefault(number, reign)
        if (reign.term, reign.revision) > (latest.term, latest.revision):
            self._reigns[number] = reign

    def _survives(self, number: int) -> bool:
        """Whether a copy that the supervisor counts on has all that was acknowledged."""
        told, reign = self._told.get(number, {}), self._reigns.get(number)
        return reign is not None and any(
            shard.assignment.shard == number
            and reign.role_of(life.server) in ("primary", "backup")
            and not _lost(told, life)
            for shard, life in self._lives.items()
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
        if not shard.left_out:
            life.at_round = dict(life.arrived)


def _lost(told: Mapping[_Sender, _Arrived], life: _Life) -> dict[_Sender, _Arrived]:
    """What was acknowledged and never arrived in a life."""
    return {
        sender: latest
        for sender, latest in sorted(told.items())
        if life.arrived.get(sender, _NOTHING).sequence < latest.sequence
    }


def _members(shard: Shard) -> frozenset[_Sender]:
    return frozenset((member.worker, member.incarnation) for member in shard.members)


def _arrived_in(state: ShardState) -> dict[_Sender, _Arrived]:
    """What an image says itself, of a copy that was never seen."""
    return {
        (one.progress.worker, one.progress.incarnation): _Arrived(
            one.progress.sequence, Status(one.latest_status)
        )
        for one in state.accounts or ()
    }


def _arrived(push: ServerPush, outcome: Outcome) -> _Arrived:
    return _Arrived(push.sequence, outcome.status)


def _name(shard: Shard, sender: _Sender, sequence: int) -> str:
    worker, incarnation = sender
    return (
        f"push {sequence} of worker {worker}, incarnation {incarnation}, "
        f"to shard {shard.assignment.shard}"
    )
