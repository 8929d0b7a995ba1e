"""A shard: a contiguous range of the model's parameters, and all that happens to it.

What a shard becomes follows from its assignment and the order in which members and pushes come
in, and from nothing else: no clock on the wall, no chance. The parts it is made of each know one
thing: the update rule applies a gradient, the gate says who may go on, the ledger counts, the
round gathers a joint step. A push takes one way through them:

    known worker? -> fits? -> duplicate? -> well-formed, finite, not too old? -> step its clock
    -> apply, or gather until the round of `bsp` is complete -> count

A refused push changes no array, but its worker's clock goes on, so that nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from psedge.compression.codec import Float32Array
from psedge.compression.coder import Opened
from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.shards import Assignment, Member, Members, ShardReport, ShardState
from psedge.protocol.wire import Status
from psedge.server import schedule
from psedge.server.aggregation import Round, merge_buffers
from psedge.server.consistency import Gate, weight_of
from psedge.server.ledger import Ledger
from psedge.server.push import Outcome, Push
from psedge.server.update_rule import UpdateRule

__all__ = ["Outcome", "Push", "Shard"]

#: An element of a gradient past this counts as infinite: its square, which Adam keeps, and its
#: product with the samples of a round would not fit float32.
GRADIENT_LIMIT = 1e18

_NEW = ShardState()

#: Weight of the latest push in the mean lag.
LAG_FADE = 0.05


class Shard:
    """parameters, buffers: float32 vectors of the assignment's ranges, changed in place.

    counters: the model's integer and bool buffers as raw bytes; empty on all shards but the first.
    piece: its range of the parameter vector.
    version: updates applied. buffers_version: changes of buffers or counters.
    """

    def __init__(
        self,
        assignment: Assignment,
        parameters: Float32Array,
        buffers: Float32Array,
        counters: bytes,
        state: ShardState = _NEW,
    ) -> None:
        """The arrays are copied. Raises FrameError if they do not fit the assignment."""
        elements = assignment.stop - assignment.start
        self.assignment = assignment
        self.parameters = _owned("parameters", parameters, elements)
        self.buffers = _owned(
            "buffers", buffers, assignment.buffers_stop - assignment.buffers_start
        )
        if len(counters) != assignment.counters_bytes:
            raise FrameError(
                f"the shard has {assignment.counters_bytes} bytes of counters, got {len(counters)}"
            )
        self.counters = bytes(counters)
        self.version = state.version
        self.buffers_version = state.buffers_version
        self._rule = UpdateRule(assignment.optimizer, assignment.segments, elements)
        self._rule.steps = state.optimizer_steps
        self._gate = Gate(assignment.sync, largest=state.clock)
        self._ledger = Ledger(state)
        self._round = Round(elements, state.clock) if assignment.sync.mode == "bsp" else None
        self.piece = assignment.slice
        self._revision = -1
        self._mean_lag = 0.0

    @classmethod
    def restored(
        cls, assignment: Assignment, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> Shard:
        """A shard as `state()` described it; raises FrameError if anything does not fit."""
        try:
            shard = cls(
                assignment,
                arrays["parameters"],
                arrays["buffers"],
                arrays["counters"].tobytes(),
                state,
            )
            for name, vector in shard._rule.state.items():
                vector[:] = _owned(name, arrays[f"optimizer.{name}"], len(vector))
        except KeyError as error:
            raise FrameError(f"the shard's state lacks {error.args[0]}") from error
        return shard

    def set_members(self, members: Members) -> None:
        """Take over who is live. Call before anyone pushes, and ask `may_proceed` again after."""
        if members.revision < self._revision:
            return
        if members.since is None:
            self._gate.set_members(members.members)
            self._ledger.set_members(members.members)
        elif members.since <= self._revision:
            self._gate.change_members(members.members, members.gone)
            self._ledger.change_members(members.members, members.gone)
        else:
            return
        self._revision = members.revision
        for member in members.members:
            self._ledger.place(member.worker, self._gate.clock(member.worker))
        if self._round is not None:
            self._end_round(self._round, self._lr_factor())

    def require(self, worker: int, incarnation: int) -> None:
        """Raise RefusedError `unknown-worker` unless this incarnation is a member."""
        if not self._ledger.is_member(worker, incarnation):
            raise _unknown(worker)

    def clock(self, worker: int) -> int:
        """Steps that a member has completed, counted from where it came in."""
        return self._gate.clock(worker)

    def may_proceed(self, worker: int) -> bool:
        """Whether a member may take its next step; raises RefusedError for anyone else.

        The answer can turn to True with any push or change of members, and back with none but the
        worker's own.
        """
        if not self._ledger.is_member(worker):
            raise _unknown(worker)
        return self._gate.may_proceed(worker)

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is live."""
        return self._gate.members

    @property
    def kept_payloads(self) -> int:
        """Payloads of pushes, the latest ones, that a round of `bsp` has yet to apply."""
        return self._round.kept if self._round is not None else 0

    def push(self, push: Push) -> Outcome:
        """Take one push.

        In `bsp` an outcome APPLIED means that it is part of the round, for good; the memory of its
        payload must then not change while it is among the `kept_payloads`. A retry changes nothing:
        its outcome is DUPLICATE, or the refusal of the worker's latest push once more.

        Raises RefusedError for an unknown worker and FrameError for a malformed payload or lengths
        that do not fit; neither changes anything.
        """
        self.require(push.worker, push.incarnation)
        self._check(push)
        if self._ledger.is_duplicate(push):
            status = self._ledger.status_of_retry(push)
            return Outcome(status, self._gate.clock(push.worker), staleness=0, lag=0)
        lag = max(0, self.version - push.version)
        weight = weight_of(self.assignment.sync, lag)
        # Comes first, since it raises for a malformed payload.
        status = _judge(push.opened, weight)
        self._mean_lag += LAG_FADE * (lag - self._mean_lag)
        staleness = self._gate.staleness(push.worker)
        outcome = Outcome(status, self._gate.advance(push.worker), staleness, lag)
        lr_factor = self._lr_factor()
        self._ledger.enter(push, outcome, pending=self._round is not None)
        applied = push.opened if status is Status.APPLIED else None
        if self._round is not None:
            if applied is not None:
                self._round.add(push, applied, self.buffers)
            self._end_round(self._round, lr_factor)
        elif applied is not None:
            self._apply(push, applied, lr_factor, weight)
        return outcome

    def published(self) -> Float32Array:
        """The parameters as workers receive them; with weight prediction a new array each time.

        A gradient computed on them is applied some updates later: they are moved along the
        momentum by the mean lag of the latest pushes.
        """
        if not self.assignment.sync.weight_prediction or self._round is not None:
            return self.parameters
        return self._rule.predicted(self.parameters, round(self._mean_lag), self._lr_factor())

    def report(self) -> ShardReport:
        """The shard in figures, with the progress of members and of recent leavers."""
        return self._ledger.report(self.assignment.shard, self.version)

    def news(self, since: int, most: int | None = None) -> tuple[ShardReport, int]:
        """For the supervisor: what changed of progress after change `since`, the latest last.

        Returns also up to which change that is. most: workers whose progress is told at most.
        """
        workers, change = self._ledger.changes(since, most)
        report = self._ledger.report(self.assignment.shard, self.version, workers)
        return msgspec.structs.replace(report, revision=self._revision), change

    def summary(self) -> ShardReport:
        """For the supervisor, without the progress of workers."""
        report = self._ledger.report(self.assignment.shard, self.version, ())
        return msgspec.structs.replace(report, revision=self._revision)

    def state(self) -> tuple[ShardState, dict[str, NDArray[Any]]]:
        """All that `restored` needs. The arrays are the live ones: use them before the next push.

        An unfinished round of `bsp` is left out; its workers' progress does not count it yet.
        """
        report = self.report()
        state = ShardState(
            version=self.version,
            buffers_version=self.buffers_version,
            optimizer_steps=self._rule.steps,
            clock=self._gate.largest,
            samples_applied=report.samples_applied,
            samples_seen=report.samples_seen,
            pushes_applied=report.pushes_applied,
            pushes_refused=report.pushes_refused,
            staleness_max=report.staleness_max,
            lag_max=report.lag_max,
            workers=report.workers,
        )
        return state, self.arrays()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All vectors by name, the live ones: those of the update rule too."""
        arrays: dict[str, NDArray[Any]] = {
            "parameters": self.parameters,
            "buffers": self.buffers,
            "counters": np.frombuffer(self.counters, dtype=np.uint8),
        }
        for name, vector in self._rule.state.items():
            arrays[f"optimizer.{name}"] = vector
        return arrays

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        self._gate.check_invariants()
        self._ledger.check_invariants()
        assert self._rule.steps <= self.version
        assert self.version <= self._ledger.pushes_applied
        if self._round is not None:
            self._round.check_invariants()
            assert self._round.clock == self._gate.floor

    def _lr_factor(self) -> float:
        return schedule.factor(self.assignment.schedule, self._ledger.samples_seen)

    def _check(self, push: Push) -> None:
        if push.sequence < 1 or push.samples < 1:
            raise FrameError("a push has a sequence number and samples, both from 1")
        piece = push.opened.piece if push.opened is not None else self.piece
        if piece is not self.piece and piece != self.piece:
            raise FrameError(
                f"the shard holds {self.piece.elements} parameters from {self.piece.offset} on, "
                f"the push {piece.elements} from {piece.offset} on"
            )
        if push.buffers is not None and push.buffers.shape != self.buffers.shape:
            raise FrameError(
                f"the shard holds {len(self.buffers)} buffers, the push {len(push.buffers)}"
            )
        if push.counters is not None and len(push.counters) != len(self.counters):
            raise FrameError(
                f"the shard holds {len(self.counters)} bytes of counters, "
                f"the push {len(push.counters)}"
            )

    def _apply(self, push: Push, opened: Opened, lr_factor: float, weight: float) -> None:
        """Take one step along a push by itself, and merge what came with it."""
        self._rule.apply(
            self.parameters,
            [opened],
            [1.0],
            lr_factor=lr_factor,
            weight=weight,
            workers=self._gate.active,
            compensation=push.model,
        )
        self.version += 1
        if push.buffers is not None:
            merge_buffers(self.buffers, push.buffers, self._ledger.share(push.worker))
        if push.counters is not None:
            self.counters = push.counters
        self.buffers_version += push.buffers is not None or push.counters is not None

    def _end_round(self, gathering: Round, lr_factor: float) -> None:
        """Take the joint step, if everyone who was to take part in it has pushed."""
        if gathering.clock == self._gate.floor:
            return
        gathering.clock = self._gate.floor
        self._ledger.complete_round()
        mean = gathering.take()
        if mean is None:
            return
        self._rule.apply(
            self.parameters, mean.opened, mean.weights, lr_factor=lr_factor, dense=mean.dense
        )
        self.version += 1
        if mean.buffers is not None:
            self.buffers[:] = mean.buffers
        if mean.counters is not None:
            self.counters = mean.counters
        self.buffers_version += mean.buffers is not None or mean.counters is not None


def _judge(opened: Opened | None, weight: float) -> Status:
    """Raises FrameError for a malformed payload."""
    if opened is None or not opened.check(GRADIENT_LIMIT):
        return Status.REFUSED_NONFINITE
    return Status.APPLIED if weight else Status.REFUSED_LAG


def _owned(name: str, vector: NDArray[Any], elements: int) -> Float32Array:
    if vector.shape != (elements,):
        raise FrameError(f"the shard's {name} are {elements} elements, got {list(vector.shape)}")
    return np.array(vector, dtype=np.float32)


def _unknown(worker: int) -> RefusedError:
    return RefusedError("unknown-worker", f"worker {worker} is not a member here: join again")
