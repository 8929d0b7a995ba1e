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
import xxhash
from numpy.typing import NDArray

from psedge.compression.codec import Float32Array
from psedge.compression.coder import Opened
from psedge.protocol.errors import FrameError, RefusedError
from psedge.protocol.shards import (
    AccountState,
    Assignment,
    Member,
    Members,
    Progress,
    ShardReport,
    ShardState,
)
from psedge.protocol.wire import Status
from psedge.server import schedule
from psedge.server.aggregation import Round, merge_buffers
from psedge.server.consistency import Gate, weight_of
from psedge.server.ledger import Ledger
from psedge.server.push import Outcome, Push, check_fits
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
    taken: pushes and lists of members that changed anything; retries and the like do not.
    left_out: of these the latest ones, which belong to an unfinished round of `bsp` and are
    therefore not in an image.
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
        self._gate.restore(state.accounts or ())
        self._ledger = Ledger(state)
        self._round = Round(elements, self._gate.floor) if assignment.sync.mode == "bsp" else None
        self.piece = assignment.slice
        self.taken = 0
        self.left_out = 0
        #: What an image had said just before the first push of the unfinished round.
        self._round_began = state
        self._revision = state.revision
        self._mean_lag = state.mean_lag
        self._contributors = state.contributors

    @classmethod
    def restored(
        cls, assignment: Assignment, state: ShardState, arrays: Mapping[str, NDArray[Any]]
    ) -> Shard:
        """A shard as `state()` or `image()` described it. Raises FrameError if something is amiss.

        After an image it goes on bit for bit as the first one; after a checkpoint its workers have
        to join again.
        """
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
        except ValueError as error:
            raise FrameError(f"the shard's state: {error}") from error
        return shard

    def set_members(self, members: Members) -> bool:
        """Take over who is live. Call before anyone pushes, and ask `may_proceed` again after.

        False: it changed nothing, being older, or nothing new, or a change of a list that never
        came here.
        """
        if not self._is_news(members):
            return False
        if members.since is None:
            self._gate.set_members(members.members)
            self._ledger.set_members(members.members)
        else:
            self._gate.change_members(members.members, members.gone)
            self._ledger.change_members(members.members, members.gone)
        self._revision = members.revision
        for member in members.members:
            self._ledger.place(member.worker, self._gate.clock(member.worker))
        self.taken += 1
        self.left_out += self.left_out > 0
        if self._round is not None:
            self._end_round(self._round, self._lr_factor())
        return True

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
        check_fits(push, self.piece, len(self.buffers), len(self.counters))
        if self._ledger.is_duplicate(push):
            status = self._ledger.status_of_retry(push)
            return Outcome(status, self._gate.clock(push.worker), staleness=0, lag=0)
        self._ledger.require_next(push)
        lag = max(0, self.version - push.version)
        weight = weight_of(self.assignment.sync, lag)
        # Comes first, since it raises for a malformed payload.
        status = _judge(push.opened, weight)
        self._begin_entry()
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
        return msgspec.structs.replace(self._report(None), revision=-1)

    def news(self, since: int, most: int | None = None) -> tuple[ShardReport, int]:
        """For the supervisor: what changed of progress after change `since`, the latest last.

        Returns also up to which change that is. most: workers whose progress is told at most.
        """
        workers, change = self._ledger.changes(since, most)
        return self._report(workers), change

    def summary(self) -> ShardReport:
        """For the supervisor, without the progress of workers."""
        return self._report(())

    def state(self) -> tuple[ShardState, dict[str, NDArray[Any]]]:
        """All that `restored` needs. The arrays are the live ones: use them before the next push.

        An unfinished round of `bsp` is left out; its workers' progress does not count it yet.
        """
        return self._state(self.report().workers), self.arrays()

    def image(self) -> tuple[ShardState, dict[str, NDArray[Any]], int]:
        """What a copy goes on from bit for bit, and `left_out`: what is to be pushed to it first.

        Within a round of `bsp` that is how things were before the round's first push. The arrays
        are the live ones: use them before the next push.
        """
        state = self._round_began if self.left_out else self._image()
        return state, self.arrays(), self.left_out

    def digest(self) -> int:
        """64 bits that two copies have in common only if they are the same."""
        whole = xxhash.xxh3_64()
        for array in self.arrays().values():
            whole.update(array.data)
        whole.update(msgspec.msgpack.encode((self._image(), self._ledger.received())))
        return whole.intdigest()

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
        assert self._contributors <= max(1, self._ledger.pushes_applied)
        assert 0 <= self.left_out <= self.taken
        if self._round is not None:
            self._round.check_invariants()
            assert self._round.clock == self._gate.floor
            assert self.left_out or not self._round.kept
        # What a leaver has in a round is counted at once, so there may be nothing pending in it.
        assert self.left_out or not self._ledger.has_pending

    def _is_news(self, members: Members) -> bool:
        """Whether a list says something new, or changes one that this shard knows."""
        changes = -1 if members.since is None else members.since
        if members.revision < self._revision or changes > self._revision:
            return False
        return members.revision > self._revision or not self._gate.agrees(members)

    def _begin_entry(self) -> None:
        """A push changes something from here on."""
        self.taken += 1
        if self._round is not None:
            if not self.left_out:
                self._round_began = self._image()
            self.left_out += 1

    def _report(self, workers: tuple[Progress, ...] | None) -> ShardReport:
        report = self._ledger.report(self.assignment.shard, self.version, workers)
        return msgspec.structs.replace(
            report, revision=self._revision, contributors=self._contributors
        )

    def _image(self) -> ShardState:
        return self._state((), self._ledger.accounts(self._gate.clocks), self._revision)

    def _state(
        self,
        workers: tuple[Progress, ...],
        accounts: tuple[AccountState, ...] | None = None,
        revision: int = -1,
    ) -> ShardState:
        ledger = self._ledger
        return ShardState(
            version=self.version,
            buffers_version=self.buffers_version,
            optimizer_steps=self._rule.steps,
            clock=self._gate.largest,
            samples_applied=ledger.samples_applied,
            samples_seen=ledger.samples_seen,
            pushes_applied=ledger.pushes_applied,
            pushes_refused=ledger.pushes_refused,
            staleness_max=ledger.staleness_max,
            lag_max=ledger.lag_max,
            workers=workers,
            accounts=accounts,
            revision=revision,
            mean_lag=self._mean_lag,
            contributors=self._contributors,
        )

    def _lr_factor(self) -> float:
        return schedule.factor(self.assignment.schedule, self._ledger.samples_seen)

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
        self._contributors = 1
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
        self.left_out = 0
        self._ledger.complete_round()
        mean = gathering.take()
        if mean is None:
            return
        self._rule.apply(
            self.parameters, mean.opened, mean.weights, lr_factor=lr_factor, dense=mean.dense
        )
        self.version += 1
        self._contributors = mean.contributors
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
